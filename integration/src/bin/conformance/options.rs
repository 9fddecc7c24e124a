//! What can be asked for on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Run the conformance suite of the Gateway API against Ambit, on a Kubernetes cluster of this machine
#[derive(Debug, Parser)]
#[command(
    name = "conformance",
    after_help = "Examples:\n  sudo integration/conformance/run.sh\n  sudo integration/conformance/run.sh --repeat 3 --report docs/conformance/report.yaml\n  \
                  sudo integration/conformance/run.sh --test MeshConsumerRoute\n  \
                  sudo integration/conformance/run.sh --gateway --without HTTPRouteCORS\n  \
                  sudo integration/conformance/run.sh --waypoint envoy\n\n\
                  It needs what `ambit cluster up` needs, Go, and the Go module index at first."
)]
pub struct Options {
    /// Where the report is written; else target/conformance/report.yaml, or with --gateway target/conformance/gateway.yaml
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How often the suite is run, one time after another on the same cluster; the report is that of the last
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub repeat: u8,
    /// Run only this test of the suite, and write no report
    #[arg(long, value_name = "NAME")]
    pub test: Option<String>,
    /// Measure as well how soon changes of a route are seen, which takes three minutes more
    #[arg(long, conflicts_with = "gateway")]
    pub changes: bool,
    /// Run the profiles GATEWAY-HTTP, GATEWAY-GRPC, GATEWAY-TLS and GATEWAY-TCP against Gateways of class `ambit`, in place of those of the mesh
    #[arg(long)]
    pub gateway: bool,
    /// With --gateway: extended features that are not declared, so that their tests are not run
    #[arg(long, value_name = "FEATURE", value_delimiter = ',', requires = "gateway")]
    pub without: Vec<String>,
    /// With --gateway: the backends are in the mesh, and reached by tunnels
    #[arg(long, requires = "gateway")]
    pub backends_in_mesh: bool,
    /// What carries out the routes of the mesh; with `none` all is well when the tests fail that need it, and the others pass
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Waypoint::Ours, conflicts_with = "gateway")]
    pub waypoint: Waypoint,
}

/// What carries out the routes of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Waypoint {
    /// The waypoint of this tree.
    Ours,
    /// An unmodified Envoy: `ambit envoy`.
    Envoy,
    /// Nothing.
    None,
}

impl Options {
    /// Where the report is written.
    pub fn report(&self) -> PathBuf {
        let usual = if self.gateway { "target/conformance/gateway.yaml" } else { "target/conformance/report.yaml" };
        self.report.clone().unwrap_or_else(|| usual.into())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Options;

    #[test]
    fn options_of_gateways_go_with_gateways_alone() {
        Options::command().debug_assert();
        let parsed = |arguments: &[&str]| Options::try_parse_from([&["conformance"][..], arguments].concat());
        assert!(parsed(&["--without", "HTTPRouteCORS"]).is_err());
        assert!(parsed(&["--gateway", "--waypoint", "none"]).is_err());
        let both = parsed(&["--gateway", "--without", "HTTPRouteCORS,HTTPRouteRetry", "--without", "GatewayPort8080"]).unwrap();
        assert_eq!(both.without, ["HTTPRouteCORS", "HTTPRouteRetry", "GatewayPort8080"]);
        assert_ne!(both.report(), parsed(&[]).unwrap().report());
    }
}
