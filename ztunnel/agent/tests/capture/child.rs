//! The node agent and the CNI plugin as processes of the test: this program again.

use std::{io::Read, process::ExitCode};

use clap::Parser;

/// The first argument that makes this program a node agent.
pub const AGENT: &str = "node-agent";
/// The first argument that makes it the CNI plugin.
pub const PLUGIN: &str = "cni-plugin";

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
            Some(match runtime.block_on(agent()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error:?}");
                    ExitCode::FAILURE
                }
            })
        }
        Some(PLUGIN) => {
            let mut configuration = String::new();
            std::io::stdin().read_to_string(&mut configuration).expect("a configuration");
            let answer = ambit_cni::run(|name| std::env::var(name).ok(), &configuration);
            print!("{}", answer.printed);
            Some(ExitCode::from(answer.status))
        }
        _ => None,
    }
}

async fn agent() -> anyhow::Result<()> {
    let Arguments { config, .. } = Arguments::parse();
    ambit_runtime::telemetry::init_logging(&config.log, ambit_runtime::telemetry::LogFormat::Text)?;
    let shutdown = ambit_runtime::signal::shutdown()?;
    Ok(ambit_node_agent::run(config, async { _ = shutdown.await }).await?)
}
