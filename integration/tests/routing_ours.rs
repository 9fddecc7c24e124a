//! The routing suite with our waypoint.

mod routing;

use std::process::ExitCode;

use ambit::local::WaypointKind;
use ambit_integration::{SharedMesh, suite::Suite};

static MESH: SharedMesh = SharedMesh::new(|| Box::pin(Suite::start("routing", WaypointKind::Ours)));

fn main() -> ExitCode {
    ambit_integration::run(routing::tests(&MESH))
}
