//! Steady load from pods on both nodes: requests on new connections and on ones that are kept, through node proxies alone and through a waypoint;
//! through that also streams, slow bodies and WebSockets, back to back; and connections that are held open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ambit_integration::wait;
use anyhow::ensure;
use tokio::task::JoinSet;

use crate::ask::{Asker, Outcome, Outcomes, WAYS, Way};
use crate::echo;
use crate::held::{self, Held};
use crate::user::{PATIENCE, PAUSE, User};

/// How long a connection is kept for further requests: as careful programs do, and less than proxies drain.
pub const KEPT: Duration = Duration::from_secs(3);

/// The variable by which the processes of the pods below are found.
const VARIABLE: &str = "AMBIT_PLACE";

/// The port that sends back what it is sent.
const BYTES: u16 = 9000;

/// The pod of a caller on each node, and pods that send back what they are sent: one in a namespace without and one in a namespace with a
/// waypoint, which is to take their bytes for what they are, but for those at the port for HTTP.
fn objects() -> String {
    let pod = |name: &str, namespace: &str, node: &str, account: &str| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": {
                "nodeName": node, "serviceAccountName": account, "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": name, "image": "ambit.local/busybox:1", "imagePullPolicy": "Never",
                    "env": [{ "name": VARIABLE, "value": format!("{namespace}/{name}") }],
                }],
            },
        })
    };
    let service = |namespace: &str| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "echo", "namespace": namespace },
            "spec": {
                "selector": { "app": "echo" }, "ipFamilyPolicy": "RequireDualStack",
                "ports": [
                    { "name": "tcp", "port": BYTES, "appProtocol": "tcp" },
                    { "name": "http", "port": echo::PORT, "appProtocol": "http" },
                ],
            },
        })
    };
    let items = serde_json::json!([
        pod("caller-1", "shop", "node-1", "api"),
        pod("caller-2", "shop", "node-2", "api"),
        pod("echo", "shop", "node-2", "default"),
        pod("echo", "billing", "node-1", "billing"),
        service("shop"),
        service("billing"),
    ]);
    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// The load and what became of it. It ends with the value.
pub struct Load {
    outcomes: Arc<Outcomes>,
    askers: usize,
    held: Vec<Arc<Held>>,
    _tasks: JoinSet<anyhow::Result<()>>,
}

impl User<'_> {
    /// The load, started if it was not yet.
    pub async fn under_load(&self) -> anyhow::Result<Arc<Load>> {
        self.in_the_mesh().await?;
        let running = self.load.borrow().clone();
        if let Some(load) = running {
            load.works().await?;
            return Ok(load);
        }
        let load = Arc::new(Load::start(self).await?);
        (self.tell)("the load works");
        self.load.replace(Some(Arc::clone(&load)));
        Ok(load)
    }
}

impl Load {
    /// Starts it, and waits until all of it works.
    async fn start(user: &User<'_>) -> anyhow::Result<Self> {
        user.apply("load.json", &objects()).await?;
        let captured = r"--for=jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}=enabled";
        for (namespace, pods) in [("shop", &["pod/caller-1", "pod/caller-2", "pod/echo"][..]), ("billing", &["pod/echo"][..])] {
            for condition in ["--for=condition=Ready", captured] {
                user.cluster.kubectl(&[&["wait", "-n", namespace, condition, "--timeout=90s"][..], pods].concat()).await?;
            }
        }
        let mut tasks = JoinSet::new();
        for namespace in ["shop", "billing"] {
            tasks.spawn(held::echo(user.network(VARIABLE, &format!("{namespace}/echo")).await?, BYTES));
        }
        tasks.spawn(echo::serve(user.network(VARIABLE, "billing/echo").await?));
        let outcomes = Arc::new(Outcomes { ended: Mutex::default(), kept: Mutex::new(KEPT) });
        let (mut askers, mut all) = (0, Vec::new());
        for caller in ["caller-1", "caller-2"] {
            let network = user.network(VARIABLE, &format!("shop/{caller}")).await?;
            let left = network.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req"))??;
            ensure!(left.trim() == "1", "{caller}: a proxy that ends does not leave what waits at its listeners to the next one");
            for way in WAYS {
                let to = user.addresses(way.namespace, way.service).await?;
                let (number, network, outcomes) = (askers, network.clone(), Arc::clone(&outcomes));
                askers += 1;
                let asker = Asker { number, network, to, way, outcomes };
                tasks.spawn(async move {
                    asker.run().await;
                    Ok(())
                });
            }
            for (namespace, waypoint, websocket) in [("shop", false, false), ("billing", true, false), ("billing", true, true)] {
                for to in user.addresses(namespace, "echo").await? {
                    let family = if to.is_ipv6() { "IPv6" } else { "IPv4" };
                    let through = if waypoint { " through the waypoint" } else { "" };
                    let what = if websocket { ", a WebSocket" } else { "" };
                    let name = format!("{caller} to {namespace}/echo by {family}{through}{what}");
                    let held = Held::new(name, waypoint, websocket);
                    all.push(Arc::clone(&held));
                    let (network, port) = (network.clone(), if websocket { echo::PORT } else { BYTES });
                    tasks.spawn(async move {
                        held.hold(network, SocketAddr::new(to, port)).await;
                        Ok(())
                    });
                }
            }
        }
        let load = Self { outcomes, askers, held: all, _tasks: tasks };
        load.works().await?;
        Ok(load)
    }

    /// Waits until nothing has failed for a while.
    async fn works(&self) -> anyhow::Result<()> {
        let look = async || {
            let since = Instant::now();
            tokio::time::sleep(10 * PAUSE).await;
            let ways = self.since(since);
            let failed: Vec<_> = ways.iter().filter(|(_, way)| way.ended < way.enough || !way.failures.is_empty()).collect();
            let broken = self.held.iter().filter(|held| held.exchanges(since) == 0 || !held.breaks(since).is_empty());
            let broken: Vec<_> = broken.map(|held| (&held.name, held.breaks(since))).collect();
            if failed.is_empty() && broken.is_empty() { Ok(()) } else { Err(format!("{failed:?} {broken:?}")) }
        };
        wait::until("load that works", 2 * PATIENCE, look).await?;
        Ok(())
    }

    /// From now on connections are kept for so long.
    pub fn keep(&self, kept: Duration) {
        *self.outcomes.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// Waits until all that is under way has ended, and with it what is to be judged.
    async fn caught_up(&self) -> anyhow::Result<()> {
        let now = Instant::now();
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let ended = self.outcomes.ended.lock().unwrap_or_else(PoisonError::into_inner);
            // Of sessions the ones under way are enough: not another one of each is waited for.
            let counts = |outcome: &&Outcome| outcome.begun >= now || outcome.way.how.lasts();
            let since = ended.iter().rev().take_while(|outcome| outcome.at >= now).filter(counts);
            let askers: BTreeSet<usize> = since.map(|outcome| outcome.asker).collect();
            let held = self.held.iter().filter(|held| held.exchanges(now) > 0 || !held.breaks(now).is_empty()).count();
            if askers.len() == self.askers && held == self.held.len() {
                Ok(())
            } else {
                Err(format!("{} of {} askers, {held} of {} held connections", askers.len(), self.askers, self.held.len()))
            }
        };
        wait::until("the end of what was under way", PATIENCE, look).await?;
        Ok(())
    }

    fn since(&self, since: Instant) -> BTreeMap<&'static str, Sum> {
        let ended = self.outcomes.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |way: &Way| (way.name, Sum { enough: way.how.enough(), ..Sum::default() });
        let mut sums: BTreeMap<&'static str, Sum> = WAYS.iter().map(none).collect();
        for outcome in ended.iter().filter(|outcome| outcome.at >= since) {
            let sum = sums.entry(outcome.way.name).or_default();
            sum.ended += 1;
            sum.longest = sum.longest.max(outcome.at.duration_since(outcome.begun));
            if let Some(failure) = &outcome.failure {
                let after = outcome.at.duration_since(since).as_secs_f64();
                let (count, first) = sum.failures.entry(failure.clone()).or_insert((0, after));
                (*count, *first) = (*count + 1, first.min(after));
            }
        }
        sums
    }

    /// Connections held through the waypoint that have not broken since then.
    pub fn outlasting(&self, since: Instant) -> Vec<&str> {
        let through = self.held.iter().filter(|held| held.waypoint && held.breaks(since).is_empty());
        through.map(|held| held.name.as_str()).collect()
    }

    /// Tells what became of the load since then. `may_break` says of a held connection from when on it may break; never, if it says nothing.
    ///
    /// # Errors
    /// A request failed, or a connection broke that must not.
    pub async fn judge(
        &self,
        user: &User<'_>,
        what: &str,
        since: Instant,
        may_break: impl Fn(&Held) -> Option<Duration>,
    ) -> anyhow::Result<()> {
        self.caught_up().await?;
        let sums = self.since(since);
        let breaks: Vec<_> =
            self.held.iter().flat_map(|held| held.breaks(since).into_iter().map(move |broken| (held, broken))).collect();
        let failed: usize = sums.values().flat_map(|sum| sum.failures.values()).map(|(count, _)| count).sum();
        let requests: usize = sums.values().map(|sum| sum.ended).sum();
        let ways: Vec<_> =
            sums.iter().map(|(way, sum)| format!("{way} {} (at most {} ms)", sum.ended, sum.longest.as_millis())).collect();
        (user.tell)(&format!(
            "{what}: {failed} of {requests} requests failed, {} of {} held connections broke; {}",
            breaks.len(),
            self.held.len(),
            ways.join(", ")
        ));
        for (way, sum) in &sums {
            for (failure, (count, first)) in &sum.failures {
                (user.tell)(&format!("  {way}: {count} times, first {first:.2} s after it began: {failure}"));
            }
        }
        let mut wrong = Vec::new();
        for (held, broken) in breaks {
            let after = broken.at.duration_since(since);
            let said = format!("{} broke after {:.1} s: {}", held.name, after.as_secs_f64(), broken.why);
            (user.tell)(&format!("  {said}"));
            if may_break(held).is_none_or(|least| after < least) {
                wrong.push(said);
            }
        }
        ensure!(failed == 0, "{what}: {failed} of {requests} requests failed: {sums:?}");
        ensure!(wrong.is_empty(), "{what}: {wrong:?}");
        let silent = sums.iter().filter(|(_, sum)| sum.ended == 0).map(|(way, _)| (*way).to_owned());
        let silent: Vec<_> =
            silent.chain(self.held.iter().filter(|held| held.exchanges(since) == 0).map(|held| held.name.clone())).collect();
        ensure!(silent.is_empty(), "{what}: there was no load on {silent:?}");
        Ok(())
    }
}

/// Requests of one way.
#[derive(Debug, Default)]
struct Sum {
    ended: usize,
    /// How many of them show within three seconds that it works.
    enough: usize,
    longest: Duration,
    /// How often, and when first, seconds.
    failures: BTreeMap<String, (usize, f64)>,
}
