//! Processes of the mesh and of pods: started, watched, started again when they die, stopped for good.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ambit_testbed::Process as Life;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Error, Result};

/// First pause before a process that died is started again; doubles with each death.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause before a process that died is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A process that has run for this long has recovered: the next pause is the first one again.
const RECOVERED: Duration = Duration::from_secs(10);

/// Starts the process once.
pub type Starter = Box<dyn FnMut() -> Result<Life, ambit_testbed::Error> + Send>;

/// What is known of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessState {
    /// Process id while it runs.
    pub pid: Option<u32>,
    /// How often it was started again after it died by itself or was killed.
    pub restarts: u32,
    /// How it ended last, or why it could not be started.
    pub last_end: Option<String>,
}

enum Order {
    Signal(Signal),
    /// Kill it and leave it dead.
    Halt(oneshot::Sender<()>),
    /// Start it if it is dead.
    Resume,
    /// End it: politely, then not.
    Stop(Duration, oneshot::Sender<()>),
}

/// A supervised process. Dropping it leaves the process to its place; [`Process::stop`] ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<ProcessState>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Process {
    /// Starts a process under supervision.
    pub fn supervise(name: String, starter: Starter) -> Self {
        Self::supervise_after(name, std::future::ready(()), starter)
    }

    /// As [`Self::supervise`], but starts it only after `first`.
    pub fn supervise_after(name: String, first: impl Future<Output = ()> + Send + 'static, starter: Starter) -> Self {
        let (orders, mut inbox) = mpsc::channel(8);
        let (publish, state) = watch::channel(ProcessState::default());
        let task = tokio::spawn(async move {
            if rest(&mut inbox, first).await {
                run(starter, inbox, publish).await;
            }
        });
        Self { name, orders, state, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    /// Its name in the mesh, for example `ztunnel/node-1` or `shop/web-1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of it now.
    pub fn state(&self) -> ProcessState {
        self.state.borrow().clone()
    }

    /// Changes of its state.
    pub fn watch(&self) -> watch::Receiver<ProcessState> {
        self.state.clone()
    }

    /// Sends it a signal; if it dies of that it is started again.
    ///
    /// # Errors
    /// If its supervisor is gone.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        self.order(Order::Signal(signal)).await
    }

    /// Kills it (SIGKILL) and leaves it dead until [`Self::resume`]; returns when it is dead.
    ///
    /// # Errors
    /// If its supervisor is gone.
    pub async fn halt(&self) -> Result<()> {
        let (done, dead) = oneshot::channel();
        self.order(Order::Halt(done)).await?;
        dead.await.map_err(|_| self.gone())
    }

    /// Starts it again after [`Self::halt`], or at once if it waits for its next start.
    ///
    /// # Errors
    /// If its supervisor is gone.
    pub async fn resume(&self) -> Result<()> {
        self.order(Order::Resume).await
    }

    /// Ends it: SIGTERM, after `patience` SIGKILL.
    pub async fn stop(&self, patience: Duration) {
        let (done, dead) = oneshot::channel();
        if self.order(Order::Stop(patience, done)).await.is_ok() {
            let _dead = dead.await;
        }
    }

    async fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).await.map_err(|_| self.gone())
    }

    fn gone(&self) -> Error {
        Error::Invalid(format!("{} is not supervised any more", self.name))
    }
}

/// What ended a life of the process.
enum End {
    Exit(String),
    Halted(oneshot::Sender<()>),
    Stopped(oneshot::Sender<()>),
    Abandoned,
}

async fn run(mut starter: Starter, mut inbox: mpsc::Receiver<Order>, publish: watch::Sender<ProcessState>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let end = match starter() {
            Err(error) => End::Exit(error.to_string()),
            Ok(life) => live(life, &mut inbox, &publish).await,
        };
        publish.send_modify(|state| state.pid = None);
        let dead = match end {
            End::Exit(how) => {
                publish.send_modify(|state| state.last_end = Some(how));
                pause = if began.elapsed() > RECOVERED { FIRST_PAUSE } else { pause };
                if !rest(&mut inbox, tokio::time::sleep(pause)).await {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                None
            }
            End::Halted(done) => Some(done),
            End::Stopped(done) => {
                let _nobody_waits = done.send(());
                return;
            }
            End::Abandoned => return,
        };
        if let Some(done) = dead {
            let _nobody_waits = done.send(());
            publish.send_modify(|state| state.last_end = Some("halted".to_owned()));
            if !rest(&mut inbox, std::future::pending()).await {
                return;
            }
            pause = FIRST_PAUSE;
        }
        publish.send_modify(|state| state.restarts += 1);
    }
}

/// While the process lives.
async fn live(life: Life, inbox: &mut mpsc::Receiver<Order>, publish: &watch::Sender<ProcessState>) -> End {
    publish.send_modify(|state| state.pid = Some(life.pid()));
    loop {
        let order = tokio::select! {
            status = life.wait() => return End::Exit(status.to_string()),
            order = inbox.recv() => order,
        };
        match order {
            Some(Order::Signal(signal)) => life.signal(signal),
            Some(Order::Resume) => {}
            None => {
                life.kill_group();
                return End::Abandoned;
            }
            Some(Order::Halt(done)) => {
                life.kill_group();
                life.wait().await;
                return End::Halted(done);
            }
            Some(Order::Stop(patience, done)) => {
                life.stop(patience).await;
                return End::Stopped(done);
            }
        }
    }
}

/// While the process is dead: until it is to be started (true), by an order or after `pause`, or never (false).
async fn rest(inbox: &mut mpsc::Receiver<Order>, pause: impl Future<Output = ()>) -> bool {
    let (mut pause, mut pauses) = (pin!(pause), true);
    loop {
        tokio::select! {
            () = &mut pause, if pauses => return true,
            order = inbox.recv() => match order {
                None => return false,
                Some(Order::Signal(_)) => {}
                Some(Order::Resume) => return true,
                Some(Order::Halt(done)) => {
                    pauses = false;
                    let _nobody_waits = done.send(());
                }
                Some(Order::Stop(_, done)) => {
                    let _nobody_waits = done.send(());
                    return false;
                }
            },
        }
    }
}

/// A place for something that is written by one and read by others.
pub type Shared<T> = Arc<Mutex<T>>;

/// The value in a shared place, whatever happened to those who held it before.
pub fn locked<T>(shared: &Shared<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
