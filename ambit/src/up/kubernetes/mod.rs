//! `ambit up --kubernetes`: the same view of the mesh on a real Kubernetes.
//!
//! | module | purpose |
//! |---|---|
//! | `place` | the cluster: running, started for this, or somebody else's |
//! | `documents`, `applier`, `objects` | the directory's objects, kept equal in the cluster by server-side apply, and taken out again |
//! | `watches`, `scene` | what runs where, as the API server says |
//! | `hearing` | the logs of proxies and programs, as they are written |
//! | `mesh` | all of it as something that can be shown |
//! | `unmet` | conditions of objects that do not hold |
//! | `session` | from nothing to the view, and back |

mod applier;
mod documents;
mod hearing;
mod mesh;
mod objects;
mod place;
mod scene;
mod session;
mod unmet;
mod watches;

use std::time::Duration;

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

#[cfg(test)]
mod tests;
