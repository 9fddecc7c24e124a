//! Programs that run in a place.

mod command;
mod usage;

pub use command::{Command, Output};
pub use usage::Usage;

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, watch};

use crate::Error;

/// A running (or ended) program. Clones are the same program; dropping them does not end it.
#[derive(Clone, Debug)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    pid: u32,
    orders: mpsc::UnboundedSender<Order>,
    ended: watch::Receiver<Option<ExitStatus>>,
    pipes: Mutex<Pipes>,
}

#[derive(Debug, Default)]
struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

/// What the task that owns the child is asked to do. It alone signals the child, for it alone knows that the pid is not yet reused.
#[derive(Clone, Copy, Debug)]
enum Order {
    Signal(Signal),
    SignalGroup(Signal),
}

/// What a program did that ran to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Process {
    fn new(name: String, mut child: Child) -> Self {
        let pipes = Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
        let (orders, received) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(None);
        let pid = child.id().unwrap_or_default();
        // The task ends with the child; the child ends with its place or with the bed.
        tokio::spawn(own(child, received, end));
        Self(Arc::new(Inner { name, pid, orders, ended, pipes: Mutex::new(pipes) }))
    }

    /// The name given with [`Command::name`], else the file name of the program.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its process id, in the bed's pid namespace.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Sends a signal to this process, if it still runs.
    pub fn signal(&self, signal: Signal) {
        // The receiving task is gone once the process has ended.
        let _ = self.0.orders.send(Order::Signal(signal));
    }

    /// Kills this process at once (SIGKILL); its children live on.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Kills this process and all of its process group (its children, unless they left it) at once.
    pub fn kill_group(&self) {
        let _ = self.0.orders.send(Order::SignalGroup(Signal::SIGKILL));
    }

    /// Asks it to end (SIGTERM), waits, and kills its group if it has not ended after `patience`.
    pub async fn stop(&self, patience: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        if let Ok(status) = tokio::time::timeout(patience, self.wait()).await {
            return status;
        }
        self.kill_group();
        self.wait().await
    }

    /// Waits for its end.
    pub async fn wait(&self) -> ExitStatus {
        let mut ended = self.0.ended.clone();
        // The sending task reports an end before it goes; only a runtime that is shut down can cut it short, and nobody awaits then.
        // Copied out at once: what `wait_for` gives holds a lock, which must not live across an await.
        let status = ended.wait_for(Option::is_some).await.map(|status| status.unwrap_or_default());
        match status {
            Ok(status) => status,
            Err(_) => std::future::pending().await,
        }
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.0.ended.borrow()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// Its standard input, once, if it was started with [`Command::stdin_piped`].
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        self.pipes().stdin.take()
    }

    /// Its standard output, once, if that is [`Output::Piped`].
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.pipes().stdout.take()
    }

    /// Its standard error, once, if that is [`Output::Piped`].
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        self.pipes().stderr.take()
    }

    fn pipes(&self) -> std::sync::MutexGuard<'_, Pipes> {
        self.0.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory and processor time of this process (not of its children).
    ///
    /// # Errors
    /// It has ended.
    pub fn usage(&self) -> Result<Usage, Error> {
        usage::of(self.0.pid)
    }

    /// Memory and processor time of this process and all that descend from it (for example the workers of a server), added up.
    ///
    /// # Errors
    /// It has ended.
    pub fn usage_with_children(&self) -> Result<Usage, Error> {
        usage::of_tree(self.0.pid)
    }

    /// Reads its piped output to the end and waits.
    pub async fn finish(&self) -> Result<Finished, Error> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (self.take_stdout(), self.take_stderr());
        let read_out = async {
            match out {
                Some(mut pipe) => pipe.read_to_end(&mut stdout).await,
                None => Ok(0),
            }
        };
        let read_err = async {
            match err {
                Some(mut pipe) => pipe.read_to_end(&mut stderr).await,
                None => Ok(0),
            }
        };
        tokio::try_join!(read_out, read_err).map_err(Error::io(format!("read the output of {}", self.name())))?;
        let status = self.wait().await;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
    }
}

/// Carries out orders until the child ends, then reports how.
async fn own(mut child: Child, mut orders: mpsc::UnboundedReceiver<Order>, end: watch::Sender<Option<ExitStatus>>) {
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(order) = orders.recv() => {
                // `id` is `None` once the child was waited for.
                let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) else { continue };
                let sent = match order {
                    Order::Signal(signal) => kill(pid, signal),
                    Order::SignalGroup(signal) => killpg(pid, signal),
                };
                if let Err(error) = sent {
                    tracing::debug!(%pid, ?order, %error, "a signal was not delivered");
                }
            }
        }
    };
    match status {
        Ok(status) => {
            end.send_replace(Some(status));
        }
        Err(error) => {
            tracing::error!(%error, "a program in the bed cannot be waited for");
            end.send_replace(Some(ExitStatus::default()));
        }
    }
}
