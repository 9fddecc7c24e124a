//! Steady load: each pod asks the others all the time, on new connections and on ones that it keeps for a while.

use std::{
    collections::HashSet,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::app::{App, Astray, PORT};

/// What the accounts begin with of the pods that stay as they are.
pub const STEADY: &str = "steady-";
/// Pause between two requests of one caller; each pod has two.
const PACE: Duration = Duration::from_millis(150);
/// Requests on a connection that is kept.
const KEPT: u64 = 20;

/// Somebody to ask.
#[derive(Debug, Clone)]
pub struct Target {
    /// Whom the request is for.
    pub account: Arc<str>,
    /// Where that is: addresses of the pod or of a service, each family.
    pub addresses: Vec<SocketAddr>,
}

/// A request that has ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub begun: Instant,
    pub ended: Instant,
    /// The node of the caller.
    pub node: usize,
    pub account: Arc<str>,
    /// Whom it was for; of one that was for anybody, who answered.
    pub wanted: Arc<str>,
    /// The caller's end of the connection, when there was one, and what it connected to: a port may be used to several places at once.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// Whether it was between pods that stay as they are.
    pub steady: bool,
    /// How it failed, if it did.
    pub failure: Option<String>,
}

/// All load, and what became of it.
#[derive(Debug, Default)]
pub struct Load {
    targets: RwLock<Vec<Target>>,
    /// Accounts whose pods are gone.
    gone: RwLock<HashSet<Arc<str>>>,
    outcomes: Mutex<Vec<Outcome>>,
    astray: Arc<Astray>,
}

/// The requests of one pod. Dropping it ends them.
#[derive(Debug)]
pub struct Callers {
    _tasks: JoinSet<()>,
}

impl Load {
    pub fn new(astray: Arc<Astray>) -> Arc<Self> {
        Arc::new(Self { astray, ..Self::default() })
    }

    pub fn add_target(&self, target: Target) {
        self.targets.write().unwrap().push(target);
    }

    /// The pod of an account goes: nobody asks its own addresses from now on, but all go on to ask its service.
    pub fn forget(&self, account: &Arc<str>) {
        self.gone.write().unwrap().insert(Arc::clone(account));
        for target in self.targets.write().unwrap().iter_mut().filter(|target| target.account == *account) {
            target.addresses.retain(|address| address.port() != PORT);
        }
    }

    /// Has a pod, the one of this number, ask all targets in turn, or `only` one.
    pub fn call(self: &Arc<Self>, app: &Arc<App>, number: u64, only: Option<Target>) -> Callers {
        let mut callers = JoinSet::new();
        for keeps in [false, true] {
            let (load, app, only) = (Arc::clone(self), Arc::clone(app), only.clone());
            callers.spawn(async move {
                tokio::time::sleep(PACE / 20 * u32::try_from(number % 20).unwrap_or_default()).await;
                load.ask(&app, number * 7, only.as_ref(), keeps).await;
            });
        }
        Callers { _tasks: callers }
    }

    async fn ask(&self, app: &App, mut number: u64, only: Option<&Target>, keeps: bool) {
        loop {
            number += 1;
            let Some((target, to)) = self.pick(app, number, only) else {
                tokio::time::sleep(PACE).await;
                continue;
            };
            let begun = Instant::now();
            let mut stream = match app.connect(to).await {
                Ok(stream) => stream,
                Err(error) => {
                    self.note(app, &target, begun, None, Err(error));
                    tokio::time::sleep(PACE).await;
                    continue;
                }
            };
            let ends = stream.get_ref().local_addr().ok().map(|local| (local, to));
            let mut begun = begun;
            for _ in 0..if keeps { KEPT } else { 1 } {
                let asked = app.ask(&mut stream, &target.account, number, &self.astray).await;
                let broken = asked.is_err();
                self.note(app, &target, begun, ends, asked);
                tokio::time::sleep(PACE).await;
                if broken {
                    break;
                }
                (begun, number) = (Instant::now(), number + 1);
            }
        }
    }

    fn pick(&self, app: &App, number: u64, only: Option<&Target>) -> Option<(Target, SocketAddr)> {
        let at = |count: usize, number: u64| usize::try_from(number % count.max(1) as u64).unwrap_or_default();
        let target = match only {
            Some(target) => target.clone(),
            None => {
                let targets = self.targets.read().unwrap();
                let others: Vec<&Target> = targets.iter().filter(|target| target.account != app.who.account).collect();
                (*others.get(at(others.len(), number))?).clone()
            }
        };
        // Another address each time around.
        let address = *target.addresses.get(at(target.addresses.len(), number / 3))?;
        Some((target, address))
    }

    fn note(
        &self,
        app: &App,
        target: &Target,
        begun: Instant,
        ends: Option<(SocketAddr, SocketAddr)>,
        result: io::Result<Arc<str>>,
    ) {
        let account = Arc::clone(&app.who.account);
        let (wanted, failure) = match result {
            Ok(answered) => (answered, None),
            Err(error) => (Arc::clone(&target.account), Some(name(&error))),
        };
        let stays = |account: &Arc<str>| account.starts_with(STEADY) && !self.gone.read().unwrap().contains(account);
        let steady = stays(&account) && stays(&wanted);
        let outcome = Outcome { begun, ended: Instant::now(), node: app.node, account, wanted, ends, steady, failure };
        self.outcomes.lock().unwrap().push(outcome);
    }

    /// The requests that ended since `from`.
    pub fn since(&self, from: Instant) -> Vec<Outcome> {
        self.outcomes.lock().unwrap().iter().filter(|outcome| outcome.ended >= from).cloned().collect()
    }

    /// How many requests that began since `from` have ended well and how many badly, of those that `which` takes.
    pub fn counts(&self, from: Instant, which: impl Fn(&Outcome) -> bool) -> (usize, usize) {
        let outcomes = self.outcomes.lock().unwrap();
        let these = outcomes.iter().filter(|outcome| outcome.begun >= from && which(outcome));
        these.fold((0, 0), |(well, badly), outcome| match outcome.failure {
            None => (well + 1, badly),
            Some(_) => (well, badly + 1),
        })
    }
}

/// What a program sees of a failure.
fn name(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => "reset".to_owned(),
        ErrorKind::UnexpectedEof => "ended".to_owned(),
        ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}
