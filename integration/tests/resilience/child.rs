//! What this program is when it is started again: a part of the mesh.

use std::process::ExitCode;

const PARTS: [&str; 2] = ["istiod", "waypoint"];

/// Runs what this process is for, if not the tests.
pub fn run() -> Option<ExitCode> {
    let first = std::env::args().nth(1)?;
    if !PARTS.contains(&first.as_str()) {
        return None;
    }
    Some(match ambit::cli::run() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{:?}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    })
}
