//! One connection that the kernel carries by itself, from the packet that opens it to the two lines that are written at its end.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_hbone::copy::Counters;
use ambit_identity::SpiffeId;
use ambit_model::{Reason, Refusal, authorize::Connection, workload::Workload};
use tokio::sync::watch;

use super::{super::Neighbour, ends::Carried, quiet::Quiet, segment::Segment};
use crate::{
    config::Limits,
    endpoints::{Endpoints, Held},
    inbound::{again, since_decided},
    peer,
    proxy::{Places, Pod},
    state::Shared,
    telemetry::Record,
};

/// How long a connection may take from its first packet to its second decision.
const OPENING: Duration = Duration::from_secs(70);

/// When a connection is looked after first.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The longest pause until that is done again.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// How long the other end may take to follow the first, before it is looked for.
const FOLLOW: Duration = Duration::from_secs(1);

/// How long applications may keep sockets that are at their end, until their connection is taken to have ended.
const KEPT: Duration = Duration::from_secs(10);

/// The same, and the longest pause between two looks, while a pod of the connection is drained: that waits for its end.
const DRAINED: Duration = Duration::from_millis(500);

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// What identifies a connection in the client's namespace: the client's address and the one it dialled.
pub(super) type Key = (SocketAddr, SocketAddr);

/// A connection that was allowed to go directly.
pub(super) struct Flow {
    /// Its first packet.
    pub(super) first: Segment,
    /// The mark of that packet.
    pub(super) mark: u32,
    /// The address of the pod that it really goes to.
    pub(super) endpoint: SocketAddr,
    pub(super) client: Arc<Neighbour>,
    pub(super) server: Arc<Neighbour>,
    pub(super) workload: Arc<Workload>,
    pub(super) records: Records,
    /// What it takes up at both pods.
    pub(super) _places: [Places; 2],
    /// It counts as one of its endpoint's connections, once it has outlasted a look: that it has ended is known some time later only, and until
    /// then the endpoints of other nodes were picked more often.
    held: Option<Held>,
    pub(super) begun: Instant,
    /// Whether its first packet has reached the server.
    pub(super) arrived: bool,
    reset_by: Option<Side>,
    ended: [Option<Carried>; 2],
    /// What each end has sent, as far as it is counted.
    counted: [u64; 2],
    quiet: Quiet,
    /// Since when neither socket carries anything any more.
    gone: Option<Instant>,
    /// When it is looked after next, and how long after that again.
    look: (Instant, Duration),
    /// When it was looked after last.
    looked: Instant,
    /// Why it was cut, for the inbound side and for the outbound side.
    cut: Option<(Refusal, Refusal)>,
    /// What tells of changes since it was decided that it may pass.
    policies: Option<watch::Receiver<u64>>,
}

/// The records of both sides.
pub(super) struct Records {
    pub(super) outbound: Record,
    pub(super) inbound: Record,
    pub(super) counters: Arc<Counters>,
    opened: bool,
}

impl Records {
    pub(super) fn new(outbound: Record, mut inbound: Record) -> Self {
        inbound.count_with(&outbound);
        let counters = outbound.counters();
        Self { outbound, inbound, counters, opened: false }
    }

    fn open(&mut self) {
        if !self.opened {
            self.opened = true;
            self.outbound.established();
            self.inbound.established();
        }
    }
}

impl Flow {
    #[allow(clippy::too_many_arguments, reason = "they are what a flow is")]
    pub(super) fn new(
        first: Segment,
        mark: u32,
        endpoint: SocketAddr,
        (client, server): (Arc<Neighbour>, Arc<Neighbour>),
        workload: Arc<Workload>,
        records: Records,
        places: [Places; 2],
    ) -> Self {
        Self {
            first,
            mark,
            endpoint,
            client,
            server,
            workload,
            records,
            _places: places,
            held: None,
            begun: Instant::now(),
            arrived: false,
            reset_by: None,
            ended: [None; 2],
            counted: [0; 2],
            quiet: Quiet::new(Instant::now()),
            gone: None,
            look: (Instant::now() + FIRST_LOOK, FIRST_LOOK),
            looked: Instant::now(),
            cut: None,
            policies: None,
        }
    }

    /// Why it no longer is allowed, if policies have changed that may concern it and it is not cut already.
    pub(super) fn no_longer(&mut self, state: &Shared) -> Option<Refusal> {
        let policies = self.policies.get_or_insert_with(|| since_decided(&mut self.records.inbound, state, &self.workload));
        if self.cut.is_some() || !policies.has_changed().unwrap_or(true) {
            return None;
        }
        policies.mark_unchanged();
        self.decide_again(state)
    }

    /// Why it is not allowed now. What dry-run policies make of it is noted.
    pub(super) fn decide_again(&mut self, state: &Shared) -> Option<Refusal> {
        match again(state, &self.workload, &self.connection()) {
            Ok(allowed) => {
                self.records.inbound.allowed(allowed);
                None
            }
            Err(refusal) => Some(refusal),
        }
    }

    pub(super) fn key(&self) -> Key {
        (self.first.from, self.first.to)
    }

    /// The connection as policy sees it.
    pub(super) fn connection(&self) -> Connection {
        let source: SpiffeId = self.client.pod.identity.clone();
        Connection { source: Some(source), source_ip: self.first.from.ip(), destination: self.endpoint }
    }

    fn neighbour(&self, side: Side) -> &Neighbour {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// Whether this end is in `pod`.
    pub(super) fn is_of(&self, side: Side, pod: &Arc<Pod>) -> bool {
        Arc::ptr_eq(&self.neighbour(side).pod, pod)
    }

    /// Where the socket of this end is, and what it is connected to.
    fn addresses(&self, side: Side) -> (SocketAddr, SocketAddr) {
        match side {
            Side::Client => (self.first.from, self.first.to),
            Side::Server => (self.endpoint, self.first.from),
        }
    }

    /// Notes that one end sends a reset, before the other has it. The socket that sends it has forgotten what it carried, so the other is
    /// asked. That there was a reset does not mean that the connection is over: an application can make one up.
    pub(super) fn reset(&mut self, by: Side) {
        if self.reset_by.is_some() {
            return;
        }
        self.reset_by = Some(by);
        let other = if by == Side::Client { Side::Server } else { Side::Client };
        if let Ok(carried) = self.look(other) {
            self.count(other, carried);
            self.add(by, carried.received);
            if other == Side::Server {
                self.records.open();
            }
        }
        self.look = (Instant::now(), FIRST_LOOK);
    }

    /// Notes that the socket of one end is no more.
    pub(super) fn end(&mut self, side: Side, carried: Carried) {
        self.ended[side as usize].get_or_insert(carried);
        self.count(side, carried);
        self.look = (Instant::now() + FOLLOW, FOLLOW);
    }

    /// Counts what one end has sent.
    fn count(&mut self, side: Side, carried: Carried) {
        if side == Side::Client && carried.acknowledged > 0 {
            self.records.open();
        }
        self.add(side, carried.sent);
    }

    /// One end has sent this much in all.
    fn add(&mut self, side: Side, sent: u64) {
        let counted = &mut self.counted[side as usize];
        let more = sent.saturating_sub(*counted);
        *counted += more;
        if more > 0 {
            self.quiet.carried(Instant::now());
        }
        match side {
            Side::Client => self.records.counters.add(more, 0),
            Side::Server => self.records.counters.add(0, more),
        }
    }

    /// Whether there is nothing more to wait for.
    pub(super) fn is_over(&self) -> bool {
        let [client, server] = self.ended;
        // Without an answer there is no socket at the other end.
        client.is_some_and(|client| client.acknowledged == 0 || server.is_some())
    }

    fn look(&self, side: Side) -> io::Result<Carried> {
        let (local, remote) = self.addresses(side);
        self.neighbour(side).sockets(|sockets| sockets.carried(local, remote))
    }

    /// Looks after a connection of which nothing was heard; ever more seldom. Ends it when it has been quiet for longer than `limits` let it.
    /// Returns whether it is over.
    pub(super) fn look_after(&mut self, limits: &Limits, endpoints: &Endpoints) -> bool {
        let drained = [&self.client, &self.server].iter().any(|pod| pod.watch.is_draining());
        let (mut next, pause) = self.look;
        let mut kept = KEPT;
        if drained {
            (next, kept) = (next.min(self.looked + DRAINED), DRAINED);
        }
        if Instant::now() < next {
            return false;
        }
        self.looked = Instant::now();
        let pause = pause.min(self.quiet.pause(limits)).max(FIRST_LOOK);
        self.look = (Instant::now() + pause, (pause * 2).min(LAST_LOOK));
        if self.is_cut() {
            self.look.0 = Instant::now();
            return self.sever();
        }
        let mut gone = self.arrived;
        for side in [Side::Client, Side::Server] {
            match self.look(side) {
                Ok(carried) => {
                    self.count(side, carried);
                    if carried.half_open {
                        self.quiet.half_open(Instant::now());
                    }
                    gone = false;
                }
                Err(error) => gone &= error.kind() == io::ErrorKind::NotFound,
            }
        }
        if !gone {
            self.gone = None;
            self.held.get_or_insert_with(|| endpoints.hold(&self.workload.uid));
            if let Some(refusal) = self.quiet.for_too_long(limits, Instant::now()) {
                return self.cut(refusal.clone(), refusal);
            }
            return self.is_over() || self.is_lost();
        }
        self.held = None;
        // Sockets that are at their end say what they carried when their applications close them, which most do soon.
        let since = *self.gone.get_or_insert_with(Instant::now);
        self.look = (Instant::now() + FOLLOW, FOLLOW);
        self.reset_by.is_some() || since.elapsed() > kept
    }

    /// Whether it stands without having arrived at its server's pod.
    pub(super) fn has_strayed(&self) -> bool {
        self.records.opened && !self.arrived
    }

    /// Whether it was begun and never arrived anywhere, and its client has given up.
    fn is_lost(&self) -> bool {
        !self.arrived && self.begun.elapsed() > OPENING && self.is_gone(Side::Client)
    }

    /// Whether the client has a socket that is more than about to open a connection: that would be the one after this.
    pub(super) fn is_live(&self) -> bool {
        match self.look(Side::Client) {
            Ok(carried) => !carried.opening,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Whether one end has no socket any more.
    fn is_gone(&self, side: Side) -> bool {
        self.look(side).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Cuts the connection: both applications learn of it at once. Returns whether it is over; if not, it is tried again.
    pub(super) fn cut(&mut self, inbound: Refusal, outbound: Refusal) -> bool {
        if self.cut.is_none() {
            for side in [Side::Client, Side::Server] {
                if let Ok(carried) = self.look(side) {
                    self.count(side, carried);
                }
            }
            self.cut = Some((inbound, outbound));
        }
        self.sever()
    }

    /// Whether it was cut, be it over or not.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Ends both sockets. Returns whether neither is left.
    fn sever(&self) -> bool {
        let mut severed = true;
        for side in [Side::Server, Side::Client] {
            let (local, remote) = self.addresses(side);
            match self.neighbour(side).sockets(|sockets| sockets.destroy(local, remote)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(%error, %local, %remote, "a connection that is no longer allowed could not be ended yet");
                    severed = false;
                }
            }
        }
        severed
    }

    /// Writes both records.
    pub(super) fn finish(self) {
        let Records { outbound, inbound, opened, .. } = self.records;
        let both = |reason, detail: &str| (Refusal::new(reason, detail), Refusal::new(reason, detail));
        let ended = match (self.cut, self.reset_by) {
            (Some(cut), _) => Some(cut),
            (None, Some(Side::Server)) if !opened => {
                let refused = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
                let refusal = Refusal::new(Reason::UpstreamRefused, format!("{}: {refused}", self.endpoint));
                let said = peer::read_refusal(peer::status(refusal.reason), &peer::write_refusal(&refusal));
                Some((refusal, said))
            }
            (None, Some(Side::Server)) => Some(both(Reason::UpstreamReset, "the server reset it")),
            (None, Some(Side::Client)) => Some(both(Reason::ClientReset, "the client reset it")),
            (None, None) if !opened => Some(both(Reason::ClientReset, "it gave up before the answer")),
            (None, None) => None,
        };
        match ended {
            Some((said_inbound, said_outbound)) => {
                inbound.refused(said_inbound);
                outbound.refused(said_outbound);
            }
            None => {
                inbound.finish();
                outbound.finish();
            }
        }
    }
}
