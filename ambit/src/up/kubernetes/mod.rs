//! `ambit up --kubernetes`: the same view of the mesh on a real Kubernetes.
//!
//! | module | purpose |
//! |---|---|
//! | `place` | the cluster: running, started for this, or somebody else's |
//! | `documents`, `applier`, `objects` | the directory's objects, kept equal in the cluster by server-side apply |
//! | `record` | what that is, written in the cluster before it is done |
//! | `removal`, `ending` | all of it taken out again, also what one that was killed has left |
//! | `watches`, `scene` | what runs where, as the API server says |
//! | `hearing`, `log` | the logs of proxies and programs, as they are written |
//! | `mesh` | all of it as something that can be shown |
//! | `unmet` | conditions of objects that do not hold |
//! | `session` | from nothing to the view, and back |

mod applier;
mod documents;
mod ending;
mod hearing;
mod log;
mod mesh;
mod objects;
mod place;
mod record;
mod removal;
mod scene;
mod session;
mod unmet;
mod watches;

use std::time::Duration;

use super::args::OnArgs;
use super::{UpArgs, demo_files, directory};
use crate::error::{Error, Result};
use place::Target;

/// Time that the runtime gets for what is still running in the end.
const LAST: Duration = Duration::from_millis(100);

/// Runs it to its end. The caller has started no thread yet.
///
/// # Errors
/// If the cluster or the mesh cannot be started, or not all can be taken out again; the message says what to do.
pub(super) fn run(args: &UpArgs) -> Result<()> {
    if args.on.remove {
        return remove(&args.on);
    }
    let unkept = tempfile::tempdir().map_err(|cause| Error::io("making a temporary directory", cause))?;
    let watched = directory(args, || unkept.path().join("ambit-demo"))?;
    let target = Target::find(&args.on)?;
    if watched.demo {
        demo_files::copy_to(&watched.path)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::io("starting the runtime", cause))?;
    let outcome = runtime.block_on(session::run(args, &watched, &target));
    runtime.shutdown_timeout(LAST);
    outcome
}

/// Takes out what was left by those that were killed.
fn remove(args: &OnArgs) -> Result<()> {
    let Some(target) = Target::running(args)? else {
        println!("no cluster named {} runs: nothing is left in it", args.cluster);
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|cause| Error::io("starting the runtime", cause))?.block_on(ending::remove(&target))
}

#[cfg(test)]
mod tests;
