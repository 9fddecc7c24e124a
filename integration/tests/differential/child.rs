//! What this program is when it is started again: a part of the mesh, or a command that is asked about it.

use std::process::ExitCode;

const PARTS: [&str; 4] = ["istiod", "waypoint", "envoy", "explain"];

/// Runs what this process is for, if not the tests.
pub fn run() -> Option<ExitCode> {
    let first = std::env::args().nth(1)?;
    if !PARTS.contains(&first.as_str()) {
        return None;
    }
    Some(match ambit::cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{:?}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    })
}
