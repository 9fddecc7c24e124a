//! One run of `ambit up`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ambit_integration::tools;
use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::machine::{Machine, TAG, namespaces, tagged};

/// User and group of the ordinary user.
const NOBODY: u32 = 65534;
/// Processes of a demonstration that runs: ours, the mesh's and the pods'.
const PROCESSES: usize = 14;
/// How long a start may take here, where others use the machine too.
const START: Duration = Duration::from_secs(20);

/// Who starts it, and with what.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// As an ordinary user.
    pub as_nobody: bool,
    /// With no program of the machine in reach.
    pub empty_path: bool,
    /// On a terminal, where Ctrl-C is pressed some seconds after it has shown how a service shares its traffic.
    pub on_terminal: bool,
}

/// A run under way, and the machine before it.
pub struct Run {
    child: Child,
    tag: String,
    before: Machine,
    directory: TempDir,
    namespaces: BTreeSet<PathBuf>,
    lines: mpsc::Receiver<String>,
    error: Option<JoinHandle<String>>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// What it printed to standard output since it was last looked at.
    pub output: String,
    /// What it printed to standard error.
    pub error: String,
}

impl Run {
    /// Starts `ambit up` with these arguments. All its temporary files go to a directory that is empty now.
    pub fn start(program: &Path, how: How, arguments: &[&str]) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir()?;
        // Whoever runs it may write there.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777))?;
        let before = Machine::look(directory.path())?;
        let mut command = if how.on_terminal { on_terminal(program)? } else { Command::new(program) };
        command.arg("up").args(arguments).current_dir("/").process_group(0);
        command.env(TAG, &tag).env("TMPDIR", directory.path()).env("PATH", path(how)?).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The suite may itself be run by an ordinary user, who is one already.
        if how.as_nobody && geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let (stdout, stderr) = (child.stdout.take().context("stdout")?, child.stderr.take().context("stderr")?);
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // The test may have enough before the end.
            lines.take_while(|line| send.send(line.clone()).is_ok()).for_each(drop);
        });
        let error = std::thread::spawn(move || {
            let mut text = String::new();
            let _broken = BufReader::new(stderr).read_to_string(&mut text);
            text
        });
        Ok(Self { child, tag, before, directory, namespaces: BTreeSet::new(), lines, error: Some(error) })
    }

    /// A path for the directory of the demonstration's files, which are the user's to keep: not among the temporary ones.
    pub fn demo(directory: &TempDir) -> String {
        directory.path().join("demo").display().to_string()
    }

    /// Waits for a line that has this text.
    pub fn says(&self, text: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(line) => said.push(line),
                Err(_) => bail!("it never said {text:?}, only {said:#?}"),
            }
        }
    }

    /// Waits until the whole mesh has processes, and notes where they are.
    pub fn inhabited(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let pids = tagged(&self.tag)?;
            self.namespaces.append(&mut namespaces(&pids)?);
            if pids.len() >= PROCESSES {
                ensure!(self.namespaces.len() >= 10, "the pods share namespaces: {:?}", self.namespaces);
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended by itself: {status}");
            }
            ensure!(Instant::now() < deadline, "there are only {} processes", pids.len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal to the process that was started.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), signal)?)
    }

    /// Waits for its end.
    pub fn end(&mut self, limit: Duration) -> anyhow::Result<Ended> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("it has not ended after {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let error = self.error.take().map(|reader| reader.join().unwrap_or_default()).unwrap_or_default();
        let output = self.lines.iter().map(|line| line + "\n").collect();
        Ok(Ended { status, output, error })
    }

    /// After its end: whether the machine is as it was before.
    pub fn nothing_left(&self) -> anyhow::Result<()> {
        self.before.same_again(self.directory.path(), &self.tag, &self.namespaces)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// On the screen as soon as both versions of a service have answered; with one answer in twenty by the second, that takes as long as it does.
pub const SHARED: &str = "v1 ";

/// The program on a terminal that a Python script holds.
fn on_terminal(program: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(tools::python(&["pty", "termios"])?);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/up/terminal.py")).args([SHARED, "4"]).arg(program);
    Ok(command)
}

/// Where programs are found: those that `integration/test.sh` installs first, or none.
fn path(how: How) -> anyhow::Result<std::ffi::OsString> {
    if how.empty_path {
        return Ok("/nonexistent".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths([tools::directory()].into_iter().chain(std::env::split_paths(&path)))?)
}
