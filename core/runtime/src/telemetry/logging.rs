//! Program logs (not the access log), on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::Error;

/// How program logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends `tracing` events to standard error. `filter` has the syntax of `EnvFilter`, for example `info,ztunnel=debug`.
///
/// # Errors
/// The filter is not valid, or logging is already set up in this process.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), Error> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|error| Error::LogFilter { filter: filter.to_owned(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| Error::AlreadyInstalled("logging"))
}
