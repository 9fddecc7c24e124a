//! The program that measures what the mesh costs, and the client and server that it runs in pods.

use clap::{Parser, Subcommand};
use perf::{
    load,
    quick::{self, Quick},
    serve,
};

/// Measures what the mesh costs, beside no mesh and beside Envoy, on two local nodes and in one run.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  cargo run --release -p perf -- quick\n  cargo run --release -p perf -- quick --only no-mesh,ztunnel,envoy-tcp --rounds 5 --json out.json"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All paths, a few rounds: requests, latency, bulk, new connections, CPU and memory.
    Quick(Quick),
    /// The server under load, as it runs in a pod.
    #[command(hide = true)]
    Serve {
        /// Ports to listen on.
        #[arg(long, default_values_t = [8080])]
        port: Vec<u16>,
    },
    /// One sample of load, as it runs in a pod; prints it as JSON.
    #[command(hide = true, subcommand)]
    Load(load::Kind),
}

/// Parts of the mesh that this program is too, so that one build holds what is measured and what measures.
const PARTS: [&str; 4] = ["envoy", "istiod", "waypoint", "ztunnel"];

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).is_some_and(|first| PARTS.contains(&first.as_str())) {
        return Ok(ambit::cli::run()?);
    }
    let cli = Cli::parse();
    if matches!(cli.command, Command::Quick(_)) {
        ambit_testbed::bed::enter()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.command {
        Command::Quick(quick) => runtime.block_on(quick::run(&quick)),
        Command::Serve { port } => runtime.block_on(serve::run(&port)),
        Command::Load(kind) => {
            println!("{}", serde_json::to_string(&runtime.block_on(load::run(&kind))?)?);
            Ok(())
        }
    }
}
