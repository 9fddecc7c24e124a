//! The routing suite with an unmodified Envoy as the waypoint, driven by the same control plane.

mod routing;

use std::process::ExitCode;

use ambit::local::WaypointKind;
use ambit_integration::{SharedMesh, suite::Suite};

static MESH: SharedMesh = SharedMesh::new(|| Box::pin(Suite::start("routing", WaypointKind::Envoy)));

fn main() -> ExitCode {
    ambit_integration::run(routing::tests(&MESH))
}
