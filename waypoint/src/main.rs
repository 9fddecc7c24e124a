//! The waypoint as a program of its own.

use clap::Parser;

#[derive(Parser)]
#[command(about = "The L7 proxy of the mesh", version)]
struct Cli {
    #[command(flatten)]
    config: waypoint::Config,
}

// Connections have threads of their own. What is done beside them is little, but for the compilation of configuration.
#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    ambit_runtime::telemetry::init_logging("info", ambit_runtime::telemetry::LogFormat::Text)?;
    waypoint::run(cli.config).await?;
    Ok(())
}
