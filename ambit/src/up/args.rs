//! Command line of `ambit up`.

use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::cluster_name;
use crate::error::Error;
use crate::install::cluster::ClusterArgs;
use crate::local::WaypointKind;

/// How long everything may take to be ready on this machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long on Kubernetes, once there is one.
const PATIENCE_KUBERNETES: Duration = Duration::from_secs(180);

/// A whole mesh on this machine: two nodes, the demonstration, live.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  ambit up                          the demonstration, its files in ./ambit-demo\n  ambit up --for 20s --json         20 seconds of it as one JSON document\n  ambit up --manifests my-yaml/     your own Pods, Services, routes and policies\n  ambit up --waypoint envoy         with an unmodified Envoy as waypoint\n  sudo ambit up --kubernetes        the same on a real Kubernetes on this machine\n  ambit up --kubernetes --context try --manifests my-yaml/   on a cluster of yours\n  ambit up --kubernetes --context try --remove   take out of it what one that was killed has left"
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
    #[arg(long, value_enum, default_value_t = WaypointKind::Ours, conflicts_with = "kubernetes")]
    pub waypoint: WaypointKind,
    /// Without IPv4: nodes, pods and services have IPv6 addresses alone
    #[arg(long, conflicts_with = "kubernetes")]
    pub ipv6_only: bool,
    /// Keep the logs of all programs in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "kubernetes")]
    pub logs: Option<PathBuf>,
    /// How long to wait for everything to be ready
    #[arg(long, value_name = "TIME", value_parser = duration, hide = true)]
    pub patience: Option<Duration>,
    /// On a real Kubernetes: that of `ambit cluster`, which is started if it does not run and then ends with this; needs root
    #[arg(long, help_heading = "On Kubernetes")]
    pub kubernetes: bool,
    #[command(flatten)]
    pub(super) on: OnArgs,
}

/// Which Kubernetes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "On Kubernetes")]
pub struct OnArgs {
    /// Name of the cluster of `ambit cluster`, if there are several
    #[arg(long, value_name = "NAME", default_value = "ambit", value_parser = cluster_name, requires = "kubernetes", conflicts_with_all = ["kubeconfig", "context"])]
    pub cluster: String,
    /// Another cluster: that of this file, as kubectl reads it
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Another cluster: that of this context of the file, or of the one that kubectl finds
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    pub context: Option<String>,
    /// Take out of the cluster what an `ambit up --kubernetes` that was killed has left in it, and do nothing else
    #[arg(long, requires = "kubernetes", conflicts_with_all = ["manifests", "dir", "demo", "duration", "json"])]
    pub remove: bool,
}

impl OnArgs {
    /// The cluster of somebody else that is meant, if one is.
    pub(super) fn other(&self) -> Option<ClusterArgs> {
        let named = self.kubeconfig.is_some() || self.context.is_some();
        named.then(|| ClusterArgs { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() })
    }
}

impl UpArgs {
    /// How long everything may take to be ready.
    pub(super) fn patience(&self) -> Duration {
        self.patience.unwrap_or(if self.kubernetes { PATIENCE_KUBERNETES } else { PATIENCE })
    }
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
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        up: UpArgs,
    }

    fn read(words: &[&str]) -> Result<UpArgs, String> {
        Line::try_parse_from(["up"].iter().chain(words)).map(|line| line.up).map_err(|error| error.to_string())
    }

    #[test]
    fn what_makes_no_sense_on_kubernetes_or_only_there_is_refused_by_name() {
        for words in [["--waypoint", "envoy"], ["--logs", "x"]] {
            assert!(read(&words).is_ok());
            let error = read(&[&["--kubernetes"][..], &words].concat()).unwrap_err();
            assert!(error.contains(words[0]) && error.contains("--kubernetes"), "{error}");
        }
        assert!(read(&["--ipv6-only", "--kubernetes"]).unwrap_err().contains("--ipv6-only"));
        for words in [["--cluster", "x"], ["--kubeconfig", "x"], ["--context", "x"]] {
            assert!(read(&words).unwrap_err().contains("--kubernetes"), "{words:?}");
            assert!(read(&[&["--kubernetes"][..], &words].concat()).is_ok(), "{words:?}");
        }
        assert!(read(&["--remove"]).unwrap_err().contains("--kubernetes"));
        assert!(read(&["--kubernetes", "--remove", "--context", "x"]).is_ok_and(|args| args.on.remove));
        assert!(read(&["--kubernetes", "--remove", "--manifests", "x"]).unwrap_err().contains("--manifests"));
        let both = read(&["--kubernetes", "--cluster", "x", "--context", "y"]).unwrap_err();
        assert!(both.contains("--cluster") && both.contains("--context"), "{both}");
    }

    #[test]
    fn only_a_cluster_that_is_named_is_somebody_elses() {
        assert!(read(&["--kubernetes"]).unwrap().on.other().is_none());
        assert_eq!(read(&["--kubernetes", "--context", "y"]).unwrap().on.other().unwrap().context.as_deref(), Some("y"));
    }

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
