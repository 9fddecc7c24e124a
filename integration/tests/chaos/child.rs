//! What this program is when it is started again: a part of the mesh.

use std::process::ExitCode;

use crate::agent;

/// Parts that are commands of `ambit`.
const PARTS: [&str; 2] = ["istiod", "ztunnel"];

/// Runs what this process is for, if not the tests.
pub fn run() -> Option<ExitCode> {
    let first = std::env::args().nth(1)?;
    if !PARTS.contains(&first.as_str()) {
        return agent::run();
    }
    Some(match ambit::cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}
