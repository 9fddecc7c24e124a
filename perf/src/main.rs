//! The program that measures what the mesh costs, and the client and server that it runs in pods.

use clap::{Parser, Subcommand};
use perf::{
    compare::{self, Compare},
    control::{self, Control},
    load,
    load_check::{self, LoadCheck},
    node::{self, Node},
    quick,
    report::{self, Report},
    scale::{self, Scale},
    serve,
    session::Options,
    versus::{self, Versus},
    waypoint::{self, Waypoint},
};

/// Measures what the mesh costs, beside no mesh and beside Envoy, on two local nodes and in one run.
#[derive(Debug, Parser)]
#[command(
    name = "perf",
    after_help = "Examples:
  perf node --all --json new.json --html new.html    the node path, everything
  perf node --only ztunnel,envoy-tcp --rounds 3      two paths, for a first look
  perf compare old.json new.json                     what changed beyond the noise
  perf versus perf-before                            an earlier build and this one, in turns
  perf load-check                                    the generator against wrk and iperf3
  perf quick                                         waypoints included, a few rounds
  perf waypoint                                      the L7 path, many routes included
  perf scale                                         memory for 100,000 idle connections
  perf control                                       the control plane of a large mesh

From a checkout: cargo run --release -p perf -- node"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All paths, waypoints included, in a few rounds.
    #[command(after_help = "Example:\n  perf quick --only no-mesh,waypoint,envoy-waypoint --rounds 5 --json out.json")]
    Quick(Options),
    /// The node path: no mesh, two ztunnels, two Envoys; and one node with and without.
    #[command(after_help = "Examples:
  perf node --all --json run.json --html run.html --markdown run.md
  perf node --only ztunnel,envoy-tcp --rounds 3 --seconds 1
  perf node --storm --skip-rounds --only ztunnel")]
    Node(Node),
    /// The L7 path: ztunnel, waypoint, ztunnel, our waypoint beside Envoy; with 5,000 routes, and while one changes.
    #[command(after_help = "Examples:
  perf waypoint --json run.json --html run.html
  perf waypoint --skip-rounds")]
    Waypoint(Waypoint),
    /// What 100,000 idle connections and 10,000 workloads take of memory.
    #[command(
        after_help = "Each proxy needs a descriptor for each connection: raise the limit first (ulimit -Hn), or there are fewer connections.

Examples:
  perf scale
  perf scale --connections 15000 --workloads 0 --budget 8"
    )]
    Scale(Scale),
    /// The control plane with 50,000 pods and 1,000 node proxies: time to the last subscriber, memory, CPU, and all coming back at once.
    #[command(after_help = "Examples:
  perf control --max-p99-ms 20 --max-memory-mb 500 --max-reconnect-s 60
  perf control --pods 500 --services 50 --ztunnels 20 --waypoints 4 --changes 20")]
    Control(Control),
    /// Which figures of two runs differ by more than noise.
    #[command(after_help = "Example:\n  perf compare before.json after.json --fail")]
    Compare(Compare),
    /// Which figures differ between an earlier build of this program and this one, run in turns.
    #[command(after_help = "Examples:
  perf versus perf-before
  perf versus perf-before --fail --pairs 9 -- quick --only no-mesh,ztunnel --rounds 1 --seconds 0.5")]
    Versus(Versus),
    /// A saved run as the table, and as a page or Markdown.
    #[command(after_help = "Example:\n  perf report run.json --html run.html --markdown run.md")]
    Report(Report),
    /// Whether the generator of load is at least as fast as wrk and iperf3.
    #[command(after_help = "Example:\n  apt-get install wrk iperf3\n  perf load-check --rounds 5")]
    LoadCheck(LoadCheck),
    /// The server under load, as it runs in a pod.
    #[command(hide = true)]
    Serve {
        /// Ports to listen on.
        #[arg(long, default_values_t = [8080])]
        port: Vec<u16>,
    },
    /// All subscribers of `control`, told on standard input what to do.
    #[command(hide = true)]
    Subscribers,
    /// One sample of load, as it runs in a pod; prints it as JSON.
    #[command(hide = true, subcommand)]
    Load(load::Kind),
}

/// Parts of the mesh that this program is too, so that one build holds what is measured and what measures.
const PARTS: [&str; 4] = ["envoy", "istiod", "waypoint", "ztunnel"];

/// Whether the mesh starts this program as one of its parts. A waypoint is always told which Gateway it is for; without one `waypoint` is
/// the measurement.
fn is_part(arguments: &[String]) -> bool {
    let gateway = || arguments.iter().any(|argument| argument == "--name" || argument.starts_with("--name="));
    arguments.get(1).is_some_and(|first| PARTS.contains(&first.as_str()) && (first != "waypoint" || gateway()))
}

fn main() -> anyhow::Result<()> {
    if is_part(&std::env::args().collect::<Vec<_>>()) {
        ambit::cli::run()?;
        return Ok(());
    }
    let cli = Cli::parse();
    if matches!(cli.command, Command::Quick(_) | Command::Node(_) | Command::Waypoint(_) | Command::Scale(_)) {
        ambit_testbed::bed::enter()?;
    }
    if matches!(cli.command, Command::Serve { .. } | Command::Load(_)) {
        ambit_runtime::sys::raise_open_files()?;
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    if matches!(cli.command, Command::Control(_) | Command::Subscribers) {
        // As the control plane runs.
        runtime = tokio::runtime::Builder::new_multi_thread();
    }
    let runtime = runtime.enable_all().build()?;
    match cli.command {
        Command::Quick(options) => runtime.block_on(quick::run(&options)),
        Command::Node(node) => runtime.block_on(node::run(&node)),
        Command::Waypoint(waypoint) => runtime.block_on(waypoint::run(&waypoint)),
        Command::Scale(scale) => runtime.block_on(scale::run(&scale)),
        Command::Control(control) => runtime.block_on(control::run(&control)),
        Command::Subscribers => runtime.block_on(control::serve()),
        Command::Compare(files) => compare::run(&files),
        Command::Versus(programs) => versus::run(&programs),
        Command::Report(saved) => report::run(&saved),
        Command::LoadCheck(check) => runtime.block_on(load_check::run(&check)),
        Command::Serve { port } => runtime.block_on(serve::run(&port)),
        Command::Load(kind) => {
            println!("{}", serde_json::to_string(&runtime.block_on(load::run(&kind))?)?);
            Ok(())
        }
    }
}
