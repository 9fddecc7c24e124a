//! Profiles of the process, in the format of `pprof` (`profile.proto`): where processor time goes, and who allocates. Nothing runs, and
//! nothing is kept, while no profile is asked for.
//!
//! Stacks are followed by the tables that the compiler writes for unwinding, so no build needs frame pointers; names are from the
//! symbols of the program's files. Neither is done on the threads that are looked at.

mod cpu;
mod encode;
mod heap;
mod modules;
mod symbols;
mod unwind;

use std::time::Duration;

use http::StatusCode;

use crate::admin::{Query, Reply};

pub use cpu::cpu;
pub use heap::{heap, memory};

/// How long a profile takes when nothing else is said, and at most.
const DEFAULT: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_mins(5);

/// How long the profile of a request is to take.
fn duration(query: &Query) -> Result<Duration, Reply> {
    let Some(seconds) = query.get("seconds") else { return Ok(DEFAULT) };
    let seconds = seconds.parse().ok().map(Duration::from_secs);
    seconds.filter(|asked| !asked.is_zero() && *asked <= LONGEST).ok_or_else(|| {
        Reply::text(format!("seconds: a number from 1 to {}\n", LONGEST.as_secs())).status(StatusCode::BAD_REQUEST)
    })
}

/// Why there is no profile.
fn refused(error: &std::io::Error) -> Reply {
    let (status, text) = match error.kind() {
        std::io::ErrorKind::ResourceBusy => (StatusCode::CONFLICT, "another profile is being taken".to_owned()),
        std::io::ErrorKind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "this program's allocator cannot be sampled".to_owned()),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    Reply::text(format!("{text}\n")).status(status)
}

/// Runs what may take a second of processor time where it holds up nobody.
async fn aside(work: impl FnOnce() -> std::io::Result<Vec<u8>> + Send + 'static) -> Reply {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(profile)) => Reply::bytes(profile),
        Ok(Err(error)) => refused(&error),
        Err(error) => refused(&std::io::Error::other(error)),
    }
}
