//! Connections between two pods of the node that the kernel carries by itself: the proxy decides about their first packet, and the others
//! pass it by.
//!
//! In each pod's namespace a rule holds the first packet of a connection, sent or received, until this thread has said what becomes of it.
//! What the client's pod sends is planned, admitted and authorized; when it is allowed it goes to the endpoint itself, past the capture
//! rules, and is expected at the server's pod, where a first packet passes only if it is the expected one: same addresses and ports, same
//! sequence number, and still allowed. The ends of the sockets are heard of from the kernel, with what they carried.
//!
//! | module | purpose |
//! |---|---|
//! | [`decide`] | what becomes of a first packet |
//! | [`flow`], [`flows`] | connections that go directly, and how they end |
//! | [`rules`] | the rules in the pods' namespaces |
//! | [`queue`], [`segment`] | packets that wait for a verdict |
//! | [`quiet`] | how long a connection has carried nothing |
//! | [`ends`] | the ends of sockets, and their violent end |
//! | [`netlink`] | messages from and to the kernel |

mod decide;
mod ends;
mod flow;
mod flows;
mod netlink;
mod queue;
mod quiet;
mod rules;
mod segment;

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_model::{Reason, Refusal};
use ambit_runtime::workers::Thread;
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Neighbour;
use crate::{
    Error,
    proxy::{Pod, Proxy},
};
use decide::Decision;
use ends::Ends;
pub(super) use ends::Sockets;
use flows::Flows;
use queue::{Asked, Queue, Verdict};
use rules::{DIRECT, EndpointNumber, FAR, FAR_FOR, Instance, Rules};
use segment::{Kind, Segment};

/// How often connections are looked after of which nothing was heard.
const LOOK: Duration = Duration::from_millis(100);

/// How many connections are decided about again before others get their turn.
const AT_ONCE: usize = 128;

/// The thread that decides about first packets.
#[derive(Debug)]
pub(super) struct Direct(mpsc::UnboundedSender<Arrival>);

/// A pod that is served from now on.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) neighbour: Weak<Neighbour>,
    pub(super) pod: Arc<Pod>,
    /// Whether the pod left the mesh, as opposed to the proxy leaving the pod.
    pub(super) released: Arc<AtomicBool>,
    /// Held until what is to be written about its connections is written.
    pub(super) _until_the_end: TaskTrackerToken,
}

impl Direct {
    pub(super) fn start(proxy: Arc<Proxy>) -> io::Result<Self> {
        let (sender, arrivals) = mpsc::unbounded_channel();
        let switch = Arc::new(Switch {
            proxy,
            instance: Instance::new(),
            flows: Mutex::default(),
            endpoints: Mutex::default(),
            pods: Mutex::default(),
            off: AtomicBool::new(false),
        });
        let thread = Thread::start(std::thread::Builder::new().name("same-node".into()), Duration::ZERO)?;
        thread.handle().spawn(run(switch, arrivals));
        Ok(Self(sender))
    }

    pub(super) fn serve(&self, arrival: Arrival) {
        // The thread ends with the process.
        let _gone = self.0.send(arrival);
    }
}

/// What is known of all pods and their direct connections.
struct Switch {
    proxy: Arc<Proxy>,
    instance: Instance,
    flows: Mutex<Flows>,
    /// Endpoints of services, with their numbers.
    endpoints: Mutex<HashMap<SocketAddr, EndpointNumber>>,
    /// The pods whose rules are in force, by their place in memory.
    pods: Mutex<HashMap<usize, Served>>,
    /// Set when packets between pods of the node were seen to take another way than the node.
    off: AtomicBool,
}

/// A pod whose rules are in force.
struct Served {
    since: Instant,
    /// Endpoints that packets of this pod can be translated to.
    known: HashSet<EndpointNumber>,
    wanted: mpsc::UnboundedSender<(EndpointNumber, SocketAddr)>,
}

/// What tells a pod from every other, and from an earlier one of its name.
fn place(pod: &Arc<Pod>) -> usize {
    Arc::as_ptr(pod).addr()
}

async fn run(switch: Arc<Switch>, mut arrivals: mpsc::UnboundedReceiver<Arrival>) {
    let mut policies = switch.proxy.state.policies();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            arrival = arrivals.recv() => {
                let Some(arrival) = arrival else { return };
                let switch = Arc::clone(&switch);
                tokio::spawn(async move {
                    if let Err(error) = switch.serve(&arrival).await {
                        tracing::warn!(%error, pod = arrival.pod.name, "its connections on the node are joined by the proxy");
                    }
                    switch.leave(&arrival).await;
                });
            }
            changed = policies.changed() => {
                // A few at a time: first packets wait for this thread.
                let keys = if changed.is_ok() { switch.flows().keys() } else { Vec::new() };
                for some in keys.chunks(AT_ONCE) {
                    switch.flows().decide_again(&switch.proxy.state, some);
                    tokio::task::yield_now().await;
                }
            }
            _ = look.tick() => switch.look_after(),
        }
    }
}

/// However the time of a pod ends, nothing is sent to it directly any more, and what was is cut.
struct Leaving<'a> {
    switch: &'a Switch,
    pod: &'a Arc<Pod>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.switch.pods().remove(&place(self.pod));
        self.switch.flows().cut_all_of(self.pod);
    }
}

impl Switch {
    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<usize, Served>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides for one pod until its time is over.
    async fn serve(&self, arrival: &Arrival) -> Result<(), Error> {
        let pod = &arrival.pod;
        let failed = |what: &'static str| {
            let place = format!("pod {}/{}", pod.identity.namespace(), pod.name);
            move |source| Error::Listen { address: what.to_owned(), place, source }
        };
        Sockets::open(&pod.netns).and_then(|sockets| sockets.probe()).map_err(failed("the ends of its sockets"))?;
        let _leaving = Leaving { switch: self, pod };
        let queue = Queue::open(&pod.netns, self.instance.queue()).map_err(failed("its packet queue"))?;
        let ends = Ends::open(&pod.netns).map_err(failed("the ends of its sockets"))?;
        let rules = Rules::install(&pod.netns, self.instance).await?;
        let (wanted, mut endpoints) = mpsc::unbounded_channel();
        self.pods().insert(place(pod), Served { since: Instant::now(), known: HashSet::new(), wanted });
        loop {
            tokio::select! {
                () = arrival.pod.cut.cancelled() => break,
                turned = queue.turn(|asked| self.verdict(arrival, asked)) => turned.map_err(failed("its packet queue"))?,
                turned = ends.turn(|socket| self.flows().ended(pod, socket)) => {
                    // What was missed shows when it is looked for.
                    turned.map_err(failed("the ends of its sockets"))?;
                }
                Some((number, endpoint)) = endpoints.recv() => {
                    rules.add_endpoint(number, endpoint).await?;
                    if let Some(served) = self.pods().get_mut(&place(pod)) {
                        served.known.insert(number);
                    }
                }
            }
        }
        Ok(())
    }

    async fn leave(&self, arrival: &Arrival) {
        if arrival.released.load(Ordering::Relaxed)
            && let Err(error) = rules::remove_guard(&arrival.pod.netns).await
        {
            tracing::debug!(%error, pod = arrival.pod.name, "the guard was not removed");
        }
    }

    fn verdict(&self, arrival: &Arrival, asked: Asked) -> Verdict {
        let Some(segment) = asked.segment else { return Verdict::Accept(0) };
        match segment.kind {
            Kind::Open => {
                let verdict = match asked.is_sent() {
                    true => self.leaving(arrival, segment, asked.is_of_old()),
                    false => self.arriving(&arrival.pod, segment, asked.is_of_old()),
                };
                // The kernel would let it go as it did the connection before it.
                let decided = matches!(verdict, Verdict::Accept(mark) if mark != 0 && mark != FAR);
                if asked.is_of_old() && !decided { Verdict::Forget } else { verdict }
            }
            Kind::Reset => {
                self.flows().reset(&arrival.pod, &segment);
                Verdict::Accept(0)
            }
            Kind::Other => Verdict::Accept(0),
        }
    }

    /// The first packet of a connection that the pod opens.
    fn leaving(&self, arrival: &Arrival, first: Segment, of_old: bool) -> Verdict {
        if let Some(verdict) = self.flows().known(&first) {
            return verdict;
        }
        if of_old {
            return Verdict::Forget;
        }
        let Some(client) = arrival.neighbour.upgrade().filter(|client| self.may_go(&client.pod)) else {
            return Verdict::Accept(0);
        };
        match self.decide(&client, first) {
            Decision::Direct(flow) => {
                let mark = flow.mark;
                self.flows().begin(*flow);
                Verdict::Accept(mark)
            }
            Decision::Capture => Verdict::Accept(0),
            Decision::Far => Verdict::Accept(FAR),
        }
    }

    /// The first packet of a connection to the pod.
    fn arriving(&self, pod: &Arc<Pod>, first: Segment, of_old: bool) -> Verdict {
        let mut flows = self.flows();
        let Some(flow) = flows.arriving(&first, pod) else {
            if let Some(key) = flows.changed_on_its_way(&first) {
                self.stray(&mut flows, key);
                return Verdict::Drop;
            }
            drop(flows);
            return Verdict::Accept(if self.proxy.near.is_address(first.from.ip()) { 0 } else { FAR });
        };
        if first.hops.saturating_add(1) < flow.first.hops {
            let key = flow.key();
            self.stray(&mut flows, key);
            return Verdict::Drop;
        }
        if of_old && !flow.arrived {
            return Verdict::Forget;
        }
        // Since the client's packet was let go it may have changed.
        if let Some(refusal) = flow.decide_again(&self.proxy.state) {
            let key = flow.key();
            let outbound = Refusal::new(Reason::UpstreamReset, refusal.to_string());
            flows.cut(&key, refusal, outbound);
            return Verdict::Drop;
        }
        flow.arrived = true;
        Verdict::Accept(DIRECT)
    }

    /// Whether connections of this pod may go directly. While its address may still be known as a stranger's it may not.
    fn may_go(&self, pod: &Arc<Pod>) -> bool {
        let known = |served: &Served| served.since.elapsed() > FAR_FOR + LOOK;
        !self.off.load(Ordering::Relaxed) && self.pods().get(&place(pod)).is_some_and(known)
    }

    /// Looks after all connections.
    fn look_after(&self) {
        let mut flows = self.flows();
        for key in flows.look_after(&self.proxy.limits, &self.proxy.endpoints) {
            self.stray(&mut flows, key);
        }
    }

    /// A connection went another way than from the one namespace to the other, so this node is none on which connections can go directly.
    fn stray(&self, flows: &mut Flows, key: flow::Key) {
        const WHY: &str =
            "packets between pods of this node do not stay on it as they are: their connections are joined by the proxy";
        tracing::warn!(from = %key.0, to = %key.1, "{WHY}");
        self.off.store(true, Ordering::Relaxed);
        let refusal = || Refusal::new(Reason::UpstreamUnreachable, WHY);
        flows.cut(&key, refusal(), refusal());
    }

    /// Whether first packets to this pod are decided about.
    fn serves(&self, pod: &Arc<Pod>) -> bool {
        self.pods().contains_key(&place(pod))
    }

    /// The mark by which a packet of `pod` is translated to this endpoint; nothing while it cannot be.
    fn endpoint_mark(&self, pod: &Arc<Pod>, endpoint: SocketAddr) -> Option<u32> {
        let number = {
            let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            match endpoints.get(&endpoint) {
                Some(number) => *number,
                None => {
                    let number = EndpointNumber::after(endpoints.len())?;
                    endpoints.insert(endpoint, number);
                    number
                }
            }
        };
        let pods = self.pods();
        let served = pods.get(&place(pod))?;
        if served.known.contains(&number) {
            return Some(number.mark());
        }
        // The next one finds it. When the pod is leaving there is no next one.
        let _leaving = served.wanted.send((number, endpoint));
        None
    }
}
