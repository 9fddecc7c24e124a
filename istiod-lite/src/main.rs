//! The control plane as a program of its own.

use clap::Parser;

/// The control plane of the mesh.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    config: istiod_lite::Config,
    /// What to log, in the syntax of `tracing_subscriber::EnvFilter`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    ambit_runtime::telemetry::init_logging(&flags.log, ambit_runtime::telemetry::LogFormat::default())?;
    Ok(istiod_lite::run(flags.config).await?)
}
