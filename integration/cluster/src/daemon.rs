//! Programs of the small variant that run until they are killed, or until this program ends however it ends.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use ambit_runtime::sys::{Step, before_exec};

use crate::error::{Error, Result};

/// How often it is looked whether a program has ended.
const LOOK: Duration = Duration::from_millis(20);

/// A program that runs, with the thread that owns it: the kernel kills a child that asked for it when the *thread* which started it ends,
/// and a thread of a runtime may end long before the program does.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    kill: Option<mpsc::Sender<()>>,
    owner: Option<JoinHandle<ExitStatus>>,
}

impl Daemon {
    /// Starts a program whose output is appended to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log).map_err(Error::path("opening", log))?;
        let errors = output.try_clone().map_err(Error::path("opening", log))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        before_exec(&mut command, vec![Step::DieWithParent, Step::UnblockSignals]);
        let (started, start) = mpsc::channel();
        let (kill, killed) = mpsc::channel();
        let owner = std::thread::Builder::new().name(format!("own-{name}")).spawn(move || match command.spawn() {
            Ok(child) => {
                let _heard = started.send(Ok(()));
                own(child, &killed)
            }
            Err(cause) => {
                let _heard = started.send(Err(cause));
                ExitStatus::from_raw(0)
            }
        });
        let owner = owner.map_err(Error::io(format!("starting the thread that owns {name}")))?;
        match start.recv() {
            Ok(Ok(())) => Ok(Self { name: name.to_owned(), log: log.to_owned(), kill: Some(kill), owner: Some(owner) }),
            Ok(Err(cause)) => Err(Error::io(format!("starting {name}"))(cause)),
            Err(_) => Err(Error::failed(format!("starting {name}"), "its thread ended")),
        }
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| !owner.is_finished())
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.kill = None;
        if let Some(owner) = self.owner.take() {
            // Only a panic of that thread could be told here, and it has none.
            let _status = owner.join();
        }
    }

    /// That it failed, with what its log ends with.
    #[must_use]
    pub fn report(&self, what: &str) -> Error {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().rev().take(8).collect();
        let end = lines.into_iter().rev().map(|line| line.chars().take(300).collect::<String>()).collect::<Vec<_>>();
        Error::failed(format!("{} {what}", self.name), format!("its log ends with\n  {}", end.join("\n  ")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for the end of a child, and kills it when the other side of `killed` is gone.
fn own(mut child: Child, killed: &mpsc::Receiver<()>) -> ExitStatus {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return status;
        }
        if matches!(killed.recv_timeout(LOOK), Err(mpsc::RecvTimeoutError::Disconnected)) {
            let _already_gone = child.kill();
            return child.wait().unwrap_or_else(|_| ExitStatus::from_raw(9));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_program_ends_when_it_is_killed_and_its_log_says_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo hello; exec sleep 1000"]);
        let mut daemon = Daemon::start("sleeper", command, &log).unwrap();
        let began = Instant::now();
        while !fs::read_to_string(&log).unwrap().contains("hello") {
            assert!(began.elapsed() < Duration::from_secs(20), "it said nothing");
            std::thread::sleep(LOOK);
        }
        assert!(daemon.is_running());
        daemon.kill();
        assert!(!daemon.is_running());
        assert!(daemon.report("failed").to_string().contains("hello"));
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = Daemon::start("nothing", Command::new("/no/such/program"), &directory.path().join("log")).unwrap_err();
        assert!(error.to_string().contains("starting nothing"), "{error}");
    }
}
