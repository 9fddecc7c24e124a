//! The cluster that is meant: that of `ambit cluster`, running or started here as a process of its own, or somebody else's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ambit_cluster::manifests::{Channel, gateway_api};
use ambit_runtime::sys::{Step, before_exec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::cluster::{self, ClusterPlace, Held};
use crate::error::{Error, Result};
use crate::install::cluster::ClusterArgs;
use crate::up::args::OnArgs;

/// Pause between two looks whether it is ready.
const LOOK: Duration = Duration::from_millis(50);

/// How the line ends with which it says that.
const READY: &str = " s  ready";

/// How long one that runs may take to be ready: it may have been started a moment ago.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which cluster.
pub(super) enum Target {
    /// One of `ambit cluster` that does not run yet, with the definitions of the Gateway API for it.
    Start(ClusterPlace, Vec<PathBuf>),
    /// One of `ambit cluster` that runs.
    Running(ClusterPlace),
    /// Another.
    Other(ClusterArgs),
}

impl Target {
    /// The one that is meant, unless it has to be started.
    ///
    /// # Errors
    /// There is no place for clusters.
    pub(super) fn running(args: &OnArgs) -> Result<Option<Self>> {
        if let Some(other) = args.other() {
            return Ok(Some(Self::Other(other)));
        }
        let place = ClusterPlace::of(&args.cluster)?;
        // Who holds it is asked only: the process that is started takes it.
        let held = matches!(place.hold()?, Held::Theirs(_));
        Ok(held.then_some(Self::Running(place)))
    }

    /// Finds out which is meant. Whatever is to be built for it is built, where that can be seen and interrupted.
    ///
    /// # Errors
    /// The machine, or the user, lacks something that a cluster needs.
    pub(super) fn find(args: &OnArgs) -> Result<Self> {
        if let Some(running) = Self::running(args)? {
            return Ok(running);
        }
        let place = ClusterPlace::of(&args.cluster)?;
        ambit_cluster::cluster::check().map_err(cluster::failed)?;
        cluster::programs()?;
        Ok(Self::Start(place, definitions()?))
    }

    /// Its files, if it is one of `ambit cluster`.
    pub(super) fn place(&self) -> Option<&ClusterPlace> {
        match self {
            Self::Start(place, _) | Self::Running(place) => Some(place),
            Self::Other(_) => None,
        }
    }

    /// How it is reached.
    pub(super) fn reach(&self) -> ClusterArgs {
        match self {
            Self::Other(args) => args.clone(),
            Self::Start(place, _) | Self::Running(place) => {
                ClusterArgs { kubeconfig: Some(place.directory.join("kubeconfig")), context: None }
            }
        }
    }
}

/// Waits until a cluster that runs takes orders.
///
/// # Errors
/// It does not in time.
pub(super) async fn ready(place: &ClusterPlace) -> Result<()> {
    let began = Instant::now();
    while tokio::net::UnixStream::connect(place.socket()).await.is_err() {
        if began.elapsed() > PATIENCE {
            return Err(Error::Missing {
                missing: format!("the cluster {} runs, but is not ready after {} s", place.name, PATIENCE.as_secs()),
                remedy: format!("ambit cluster down --name {}, and start again", place.name),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The files with the definitions of the Gateway API.
///
/// # Errors
/// They are not here, and cannot be downloaded.
pub(super) fn definitions() -> Result<Vec<PathBuf>> {
    gateway_api(Channel::Standard).map_err(cluster::failed)
}

/// A cluster that was started here. It ends with this process, however that ends.
pub(super) struct Started {
    name: String,
    child: Child,
    /// Reads what it says, so that it can go on saying it.
    reader: JoinHandle<()>,
}

impl Started {
    /// Starts it; `tell` gets each line that it says before it is ready. [`Started::ready`] waits for that.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(super) fn start(place: &ClusterPlace, tell: impl Fn(&str) + Send + 'static) -> Result<Self> {
        let mut command = std::process::Command::new("/proc/self/exe");
        // In a process group of its own, Ctrl-C at this terminal is not for it.
        command.args(["cluster", "up", "--name", &place.name]).stdin(Stdio::null()).stdout(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        before_exec(&mut command, vec![Step::DieWithParent, Step::UnblockSignals]);
        let spawned = Command::from(command).spawn();
        let mut child = spawned.map_err(|cause| Error::io("starting the cluster's process", cause))?;
        let output = child.stdout.take();
        let reader = tokio::spawn(async move {
            let Some(output) = output else { return };
            let (mut lines, mut ready) = (BufReader::new(output).lines(), false);
            while let Ok(Some(line)) = lines.next_line().await {
                // What it says from then on is for those who started it alone.
                ready |= line.ends_with(READY);
                if !ready {
                    tell(&line);
                }
            }
        });
        Ok(Self { name: place.name.clone(), child, reader })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// It ends before; it has said why.
    pub(super) async fn ready(&mut self, place: &ClusterPlace) -> Result<()> {
        loop {
            let ended = self.child.try_wait().map_err(|cause| Error::io("waiting for the cluster's process", cause))?;
            if let Some(status) = ended {
                return Err(Error::NotReady(format!("the cluster {} was not started ({status})", self.name)));
            }
            if self.child.id().is_some_and(|id| place.is_ready(id)) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it, and waits until nothing of it is left.
    ///
    /// # Errors
    /// It does not end in time.
    pub(super) async fn end(mut self) -> Result<()> {
        // Of one that was waited for already there is no number.
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            let _already_gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = tokio::time::timeout(cluster::END, self.child.wait()).await;
        self.reader.abort();
        match ended {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::NotReady(format!(
                "the cluster has not ended within {:?}; `ambit cluster down --name {}` tries again",
                cluster::END,
                self.name
            ))),
        }
    }
}

/// A command of this program about a cluster, as a user would give it.
pub(super) fn ambit(words: &[&str], reach: &ClusterArgs) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    // What goes on after a `kill -9` of this process would make again what is taken out meanwhile.
    before_exec(command.as_std_mut(), vec![Step::DieWithParent, Step::UnblockSignals]);
    if let Some(file) = &reach.kubeconfig {
        command.arg("--kubeconfig").arg(file);
    }
    if let Some(context) = &reach.context {
        command.arg("--context").arg(context);
    }
    command
}

/// Runs such a command to its end; `tell` gets each line that it says.
///
/// # Errors
/// It fails; the message has what it said of that.
pub(super) async fn run(what: &str, mut command: Command, tell: impl Fn(&str)) -> Result<()> {
    // Ctrl-C at this terminal is for this process, which ends that one.
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let failed = |cause| Error::io(format!("running {what}"), cause);
    let mut child = command.spawn().map_err(failed)?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let told = async {
        let Some(output) = output else { return Ok(()) };
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await? {
            tell(&line);
        }
        Ok::<_, std::io::Error>(())
    };
    let complaints = async {
        let mut text = String::new();
        if let Some(errors) = errors {
            let mut lines = BufReader::new(errors).lines();
            while let Some(line) = lines.next_line().await? {
                text.push_str(line.strip_prefix("ambit: ").unwrap_or(&line));
                text.push('\n');
            }
        }
        Ok::<_, std::io::Error>(text)
    };
    let (_, complaints, status) = tokio::try_join!(told, complaints, child.wait()).map_err(failed)?;
    if status.success() { Ok(()) } else { Err(Error::part(what, complaints.trim_end())) }
}

/// How a user gives kubectl a command about a cluster.
pub(super) fn kubectl(reach: &ClusterArgs, program: Option<&Path>) -> String {
    let program = program.map_or_else(|| "kubectl".to_owned(), |path| path.display().to_string());
    let file = reach.kubeconfig.as_ref().map(|file| format!(" --kubeconfig {}", file.display())).unwrap_or_default();
    let context = reach.context.as_ref().map(|context| format!(" --context {context}")).unwrap_or_default();
    format!("{program}{file}{context}")
}
