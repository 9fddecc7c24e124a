//! `ambit up`: start a mesh, show it, report on it, and leave nothing behind.
//!
//! | module | purpose |
//! |---|---|
//! | `args` | the command line |
//! | `shown`, `viewer` | a mesh of either kind, and the view of it |
//! | `table`, `screen`, `report` | the live table, the terminal, the document of `--json` |
//! | `demo_files` | the demonstration's manifests |
//! | `kubernetes` | the same on a real Kubernetes |

mod args;
mod demo_files;
mod kubernetes;
mod report;
mod screen;
mod shown;
mod table;
mod viewer;

use std::path::PathBuf;
use std::time::Duration;

pub use args::UpArgs;
pub(crate) use args::duration;
pub use report::Report;

use ambit_testbed::Families;

use crate::error::{Error, Result};
use crate::local::{LocalMesh, LocalOptions};
use viewer::Viewer;

/// Time after which everything must have stopped.
const STOP: Duration = Duration::from_millis(2500);

/// Where the demonstration's files are when nobody is to keep them: in the bed's own `/run`, which is memory and gone with it however
/// it ends.
const UNKEPT: &str = "/run/ambit-demo";

/// Runs `ambit up` to its end. The caller has started no thread yet.
///
/// # Errors
/// If the mesh cannot be started; the message says what is missing and how to get it.
pub fn run(args: UpArgs) -> Result<()> {
    if args.kubernetes {
        return kubernetes::run(&args);
    }
    let directory = directory(&args, || PathBuf::from(UNKEPT))?;
    ambit_testbed::bed::enter().map_err(|error| Error::part("a private place for nodes and pods cannot be made", error))?;
    if directory.demo {
        demo_files::copy_to(&directory.path)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::io("starting the runtime", cause))?;
    let outcome = runtime.block_on(session(&args, &directory));
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// The directory to watch.
struct Watched {
    path: PathBuf,
    /// Whether the demonstration's files belong into it.
    demo: bool,
}

/// What is to be watched; `unkept` is where the demonstration's files go if nobody is to keep them.
fn directory(args: &UpArgs, unkept: impl FnOnce() -> PathBuf) -> Result<Watched> {
    if let Some(path) = &args.manifests {
        if !path.is_dir() {
            return Err(Error::Invalid(format!("{} is not a directory", path.display())));
        }
        return Ok(Watched { path: path.clone(), demo: false });
    }
    let unnamed = || if args.json { unkept() } else { PathBuf::from("ambit-demo") };
    Ok(Watched { path: args.dir.clone().unwrap_or_else(unnamed), demo: true })
}

async fn session(args: &UpArgs, watched: &Watched) -> Result<()> {
    let stop = ambit_runtime::signal::shutdown().map_err(|error| Error::part("waiting for signals", error))?;
    tokio::pin!(stop);
    let families = if args.ipv6_only { Families::Ipv6 } else { Families::Dual };
    let options = LocalOptions { waypoint: args.waypoint, logs: args.logs.clone(), families, ..LocalOptions::new(&watched.path) };
    if !args.json {
        println!("Ambit starts the mesh of {} ...", watched.path.display());
    }
    let mesh = tokio::select! {
        mesh = LocalMesh::start(options) => mesh?,
        // What has been started ends with this process.
        _signal = &mut stop => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = show(args, watched, &mesh) => outcome.map(Some),
        _signal = &mut stop => Ok(None),
    };
    if !args.json {
        println!("stopping ...");
    }
    let _late = tokio::time::timeout(STOP, mesh.stop()).await;
    if let Some(report) = outcome?.filter(|_| args.json) {
        report.print()?;
    }
    Ok(())
}

/// Waits until the mesh is ready, then shows it until the time is over.
async fn show(args: &UpArgs, watched: &Watched, mesh: &LocalMesh) -> Result<Report> {
    let progress = |waits_for: &str| {
        if !args.json {
            println!("  {:>5.1} s  waiting for {waits_for}", mesh.began().elapsed().as_secs_f64());
        }
    };
    let ready = mesh.wait_ready(args.patience(), progress).await?;
    if !args.json {
        println!("  {:>5.1} s  ready", ready.as_secs_f64());
    }
    Ok(Viewer::new(args, watched, mesh).show(args.duration, ready).await)
}
