//! The node agent and the CNI plugin as processes of the tests: the test program again, told apart by its first argument.

use std::process::ExitCode;

use ambit_testbed::capture::{AGENT, PLUGIN};
use clap::Parser;

#[derive(Debug, Parser)]
struct Arguments {
    /// [`AGENT`].
    _name: String,
    #[command(flatten)]
    config: ambit_node_agent::Config,
}

/// Runs the program that this process is to be, if it is to be one.
pub fn run() -> Option<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some(AGENT) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            Some(match runtime.block_on(ambit_node_agent::program(Arguments::parse().config)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error:?}");
                    ExitCode::FAILURE
                }
            })
        }
        Some(PLUGIN) => Some(ambit_cni::program()),
        _ => None,
    }
}
