//! `ambit cluster`: a real Kubernetes on this machine, to try the mesh on. The cluster itself is the crate `ambit-cluster`; this is its face.

mod args;
mod background;
mod control;
mod image;
mod place;
mod up;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ambit_cluster::cluster::remove_remains;
use ambit_cluster::programs::{Programs, Progress};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

pub(crate) use args::name as cluster_name;
pub use args::{ClusterCommand, ImageArgs};
pub(crate) use control::{WireCount, crossed};
pub use image::run as write_image;
pub(crate) use place::{ClusterPlace, Held};

use crate::error::{Error, Result};
use args::{LoadArgs, NameArgs, StatusArgs};

/// Time after which a cluster that was asked to end must be gone.
pub(crate) const END: Duration = Duration::from_secs(60);

/// Pause between two looks whether it is gone.
const LOOK: Duration = Duration::from_millis(50);

/// Pause between two lines about a build where the output is not a terminal.
const TELL: Duration = Duration::from_secs(15);

/// Runs a command to its end. The caller has started no thread yet.
///
/// # Errors
/// What the command needs is missing, or a part does not become ready; the message says how to get it.
pub fn run(command: ClusterCommand) -> Result<ExitCode> {
    match command {
        ClusterCommand::Up(args) if args.background => background::run(&args),
        ClusterCommand::Up(args) => up::run(&args),
        ClusterCommand::Down(args) => on_one_thread(down(&args)),
        ClusterCommand::Status(args) => on_one_thread(status(&args)),
        ClusterCommand::Load(args) => on_one_thread(load(&args)),
        ClusterCommand::Build => programs().map(|programs| println!("{}", programs.directory().display())),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn on_one_thread(task: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|cause| Error::io("starting the runtime", cause))?.block_on(task)
}

/// Finds Kubernetes, or builds it and tells how far that is.
pub(crate) fn programs() -> Result<Programs> {
    let (began, mut told) = (Instant::now(), None);
    let mut tell = |progress: Progress<'_>| {
        let how_far = match progress {
            Progress::Waiting => return eprintln!("Kubernetes is being built by another process; waiting for it"),
            Progress::Built { program } => return eprintln!("{program} is built"),
            Progress::Downloading { program, modules } => {
                format!("downloading what {program} is made of, once: module {modules}")
            }
            Progress::Building { program, compiled, packages } => {
                format!("building {program}, once: {compiled} of at most {packages} packages")
            }
        };
        if told.is_none_or(|told: Instant| told.elapsed() > TELL) {
            told = Some(Instant::now());
            let seconds = began.elapsed().as_secs();
            eprintln!("{how_far}, {}:{:02} min so far", seconds / 60, seconds % 60);
        }
    };
    Programs::get(&mut tell).map_err(failed)
}

/// An error of the cluster as one of the command: it says already what was being done.
pub(crate) fn failed(error: ambit_cluster::Error) -> Error {
    Error::Invalid(error.to_string())
}

async fn down(args: &NameArgs) -> Result<()> {
    let place = ClusterPlace::of(&args.name)?;
    let began = Instant::now();
    let mut asked = None;
    loop {
        match place.hold()? {
            Held::Ours(mut lock) => {
                lock.name_owner(std::process::id())?;
                // It gives up its files a moment before it ends.
                while asked.is_some_and(runs) && began.elapsed() < END {
                    tokio::time::sleep(LOOK).await;
                }
                let remains = place.directory.exists();
                remove_remains(&place.name, &place.directory).await.map_err(failed)?;
                drop(lock);
                match (asked, remains) {
                    (Some(_), _) => println!("the cluster {} is gone, after {:.1} s", place.name, began.elapsed().as_secs_f64()),
                    (None, true) => println!("what the cluster {} left when it was killed is removed", place.name),
                    (None, false) => println!("no cluster named {} runs{}", place.name, of_root()),
                }
                return Ok(());
            }
            Held::Theirs(pid) if asked.is_none() => {
                let sent = kill(pid, Signal::SIGTERM);
                sent.map_err(|error| Error::io(format!("asking the cluster (process {pid}) to end"), error.into()))?;
                asked = Some(pid);
            }
            Held::Theirs(pid) if began.elapsed() > END => {
                return Err(Error::NotReady(format!(
                    "the cluster (process {pid}) has not ended within {END:?}; kill -9 {pid}, then run this again"
                )));
            }
            Held::Theirs(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Whether a process has not ended: one that nobody waited for has no command line any more.
fn runs(pid: Pid) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// What else to try when there is no cluster of a name.
fn of_root() -> &'static str {
    if geteuid().is_root() { "" } else { "; those that root has are found with sudo" }
}

async fn status(args: &StatusArgs) -> Result<()> {
    let place = ClusterPlace::of(&args.cluster.name)?;
    let status = control::status(&place).await?;
    if args.json {
        let text = serde_json::to_string_pretty(&status).map_err(|error| Error::part("writing the status", error))?;
        println!("{text}");
        return Ok(());
    }
    println!("cluster {}, for {} s, DNS {}", place.name, status.seconds, if status.dns { "ready" } else { "not ready" });
    for node in &status.nodes {
        let ready = if node.ready { "ready" } else { "NOT READY" };
        println!(
            "  {:<8} {ready:<9} {:>3} of {:>3} pods ready  {}",
            node.name,
            node.ready_pods,
            node.pods,
            node.addresses.join(" ")
        );
    }
    println!("export KUBECONFIG={}", place.directory.join("kubeconfig").display());
    Ok(())
}

async fn load(args: &LoadArgs) -> Result<()> {
    let place = ClusterPlace::of(&args.cluster.name)?;
    let began = Instant::now();
    let name = control::load(&place, &args.image).await?;
    println!("{name} is on every node, after {:.1} s: use it with `imagePullPolicy: Never`", began.elapsed().as_secs_f64());
    Ok(())
}
