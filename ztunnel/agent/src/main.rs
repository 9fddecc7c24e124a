//! The node agent as a program of its own.

#![forbid(unsafe_code)]

use clap::Parser;

/// Captures the traffic of labelled pods for the node proxy, and sees that it stays captured.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    config: ambit_node_agent::Config,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Arguments { config } = Arguments::parse();
    ambit_runtime::telemetry::init_logging(&config.log, ambit_runtime::telemetry::LogFormat::Text)?;
    // Each pod takes two descriptors; a user who may not have more goes on with what there is.
    let _as_it_is = ambit_runtime::sys::raise_open_files();
    let shutdown = ambit_runtime::signal::shutdown()?;
    Ok(ambit_node_agent::run(config, async { _ = shutdown.await }).await?)
}
