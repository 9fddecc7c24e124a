//! The L7 path: ztunnel, waypoint, ztunnel, with our waypoint and with Envoy, and many routes in both.

use clap::Args;

use crate::{
    bench::Bench,
    paths::Path,
    routes,
    session::{Options, Session, unless_told},
};

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Waypoint {
    /// Which paths, how often, how long, and where the result goes.
    #[command(flatten)]
    pub options: Options,
    /// Leaves requests, bulk and memory out: many routes and changes of one alone.
    #[arg(long)]
    pub skip_rounds: bool,
}

/// Measures and prints.
///
/// # Errors
/// When a path does not work at all, or a file cannot be written.
pub async fn run(waypoint: &Waypoint) -> anyhow::Result<()> {
    let session = unless_told(Session::start(&waypoint.options, &Path::L7, 5)).await?;
    session
        .run(async |session: &mut Session| {
            if !waypoint.skip_rounds {
                session.rounds("idle connections", async |bench: &mut Bench, path| bench.held(path).await).await?;
                session.rounds("load", async |bench: &mut Bench, path| bench.round(path).await).await?;
                session.at_rest().await;
            }
            routes::measure(session).await
        })
        .await
}
