//! Program logs (not the access log), on standard error. What is written can be changed while the program runs.

use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use crate::Error;

/// How program logs and access logs are written: `text` or `json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("it is neither text nor json"),
        }
    }
}

/// The filter of this process, once logging is set up.
static FILTER: OnceLock<Filter> = OnceLock::new();

struct Filter {
    at_start: String,
    now: Mutex<String>,
    put: Put,
}

/// Puts another filter in the place of the one in force.
type Put = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// Sends `tracing` events to standard error. `filter` has the syntax of `EnvFilter`, for example `info,ztunnel=debug`.
///
/// # Errors
/// The filter is not valid, or logging is already set up in this process.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), Error> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed(filter)?)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let (put, installed): (Put, _) = match format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(move |filter| handle.reload(filter)), builder.finish().try_init())
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(move |filter| handle.reload(filter)), builder.finish().try_init())
        }
    };
    installed.map_err(|_| Error::AlreadyInstalled("logging"))?;
    let at_start = filter.to_owned();
    // Whoever installed it first also is the first here.
    let _first = FILTER.set(Filter { now: Mutex::new(at_start.clone()), at_start, put });
    Ok(())
}

fn parsed(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(filter).map_err(|error| Error::LogFilter { filter: filter.to_owned(), reason: error.to_string() })
}

/// What is logged now, in the syntax of `EnvFilter`; nothing when logging was not set up by [`init_logging`].
#[must_use]
pub fn log_filter() -> Option<String> {
    FILTER.get().map(|filter| filter.now.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Changes what is logged from now on. `change` is a level for everything (`debug`), or levels for parts of the program, which are added to
/// what is logged now (`ztunnel::outbound=debug`, `:` in place of `=` as well); with `reset` it is a change of what the program started with,
/// and may be empty.
///
/// # Errors
/// The change is not valid, and nothing is changed; or logging was not set up by [`init_logging`].
pub fn change_log_filter(change: &str, reset: bool) -> Result<(), Error> {
    let filter = FILTER.get().ok_or(Error::NotInstalled("logging"))?;
    let mut now = filter.now.lock().unwrap_or_else(PoisonError::into_inner);
    let changed = changed(if reset { &filter.at_start } else { &now }, change);
    let refused = |error: reload::Error| Error::LogFilter { filter: changed.clone(), reason: error.to_string() };
    (filter.put)(parsed(&changed)?).map_err(refused)?;
    *now = changed;
    Ok(())
}

/// The directives of `now` with those of `change` in place of, or beside, them.
fn changed(now: &str, change: &str) -> String {
    let mut directives: Vec<String> = parts(now).map(str::to_owned).collect();
    for part in parts(change) {
        if part.parse::<LevelFilter>().is_ok() {
            directives = vec![part.to_owned()];
            continue;
        }
        // As `istioctl ztunnel-config log` writes it.
        let written = match part.rsplit_once(':') {
            Some((target, level)) if !target.ends_with(':') && level.parse::<LevelFilter>().is_ok() => {
                format!("{target}={level}")
            }
            _ => part.to_owned(),
        };
        let target = |directive: &str| directive.rsplit_once('=').map_or(directive, |(target, _)| target).to_owned();
        directives.retain(|directive| directive.parse::<LevelFilter>().is_ok() || target(directive) != target(&written));
        directives.push(written);
    }
    directives.join(",")
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_for_everything_and_a_part_keeps_what_is_said_of_others() {
        for (now, change, then) in [
            ("info,h2=warn", "debug", "debug"),
            ("info,h2=warn", "ztunnel::outbound=trace", "info,h2=warn,ztunnel::outbound=trace"),
            ("info,h2=warn", "ztunnel::outbound:trace", "info,h2=warn,ztunnel::outbound=trace"),
            ("info,h2=warn", "h2:error, ztunnel=debug", "info,h2=error,ztunnel=debug"),
            ("info,h2=warn", "debug,h2=info", "debug,h2=info"),
            ("info", "", "info"),
        ] {
            assert_eq!(changed(now, change), then, "{now} and {change}");
        }
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        assert!(parsed(&changed("info", "ztunnel=loud")).is_err());
        assert!(parsed(&changed("info", "ztunnel::outbound:trace")).is_ok());
    }
}
