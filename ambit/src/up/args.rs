//! Command line of `ambit up`.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::local::WaypointKind;

/// A whole mesh on this machine: two nodes, the demonstration, live.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  ambit up                          the demonstration, its files in ./ambit-demo\n  ambit up --for 20s --json         20 seconds of it as one JSON document\n  ambit up --manifests my-yaml/     your own Pods, Services, routes and policies\n  ambit up --waypoint envoy         with an unmodified Envoy as waypoint"
)]
pub struct UpArgs {
    /// Directory for the demonstration's files, which you may edit while it runs [default: ./ambit-demo; a temporary one with --json]
    #[arg(long, value_name = "DIR", conflicts_with = "manifests")]
    pub dir: Option<PathBuf>,
    /// Your own directory of Kubernetes YAML instead of the demonstration
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Show the demonstration (the default)
    #[arg(long, conflicts_with = "manifests")]
    pub demo: bool,
    /// Stop after this time (20s, 2m) counted from ready
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Print one JSON document at the end and nothing else
    #[arg(long, requires = "duration")]
    pub json: bool,
    /// Which program serves as waypoint
    #[arg(long, value_enum, default_value_t = WaypointKind::Ours)]
    pub waypoint: WaypointKind,
    /// Without IPv4: nodes, pods and services have IPv6 addresses alone
    #[arg(long)]
    pub ipv6_only: bool,
    /// Keep the logs of all programs in this directory
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
    /// How long to wait for everything to be ready
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s", hide = true)]
    pub patience: Duration,
}

/// A time as people write it: `20s`, `500ms`, `2m`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, Error> {
    let wrong = || Error::Invalid(format!("`{text}` is not a time such as 20s, 500ms or 2m"));
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1000.0,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, millis) in [("20s", 20_000), ("20", 20_000), ("500ms", 500), ("1.5s", 1500), ("2m", 120_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for wrong in ["", "s", "20 s", "-1s", "20x", "1e400s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
