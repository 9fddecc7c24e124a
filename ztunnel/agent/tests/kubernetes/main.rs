//! The node agent on a real API server: what it learns there and what it writes, with the rights of its role and no more.
//! Needs root or user namespaces and leaves nothing behind.

mod mesh;
#[path = "../capture/proxy.rs"]
#[allow(dead_code, reason = "the other suite uses all of it")]
mod proxy;
mod world;

use std::process::ExitCode;

use ambit_cluster::programs::{Programs, Progress};
use ambit_testbed::bed;
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if let Ok(filter) = std::env::var("RUST_LOG")
        && let Err(error) = ambit_runtime::telemetry::init_logging(&filter, ambit_runtime::telemetry::LogFormat::Text)
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    // Built, if need be, where the network still is.
    let built = Programs::get(&mut |progress| {
        if let Progress::Built { program } = progress {
            eprintln!("{program} is built");
        }
    });
    if let Err(error) = built {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, mesh::tests()).exit_code()
}
