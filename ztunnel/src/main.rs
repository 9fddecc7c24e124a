//! The node proxy as a program of its own.

use clap::Parser;

/// Carries the TCP connections of a node's pods over HBONE.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    config: ztunnel::Config,
}

/// One thread for what is not carrying connections; those have their own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Arguments { config } = Arguments::parse();
    ambit_runtime::telemetry::init_logging(&config.log, ambit_runtime::telemetry::LogFormat::Text)?;
    Ok(ztunnel::run(config).await?)
}
