//! The routing suite with an unmodified Envoy as the waypoint, driven by the same control plane.

mod routing;

use std::process::ExitCode;

use ambit::local::WaypointKind;
use ambit_integration::{SharedMesh, suite::Suite};

static MESHES: [SharedMesh; 2] = SharedMesh::both(|families| Box::pin(Suite::start("routing", WaypointKind::Envoy, families)));

fn main() -> ExitCode {
    ambit_integration::run(MESHES.iter().flat_map(routing::tests).collect())
}
