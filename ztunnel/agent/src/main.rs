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
    Ok(ambit_node_agent::program(Arguments::parse().config).await?)
}
