//! All paths, waypoints included, in a few rounds.

use crate::{
    bench::Bench,
    paths::Path,
    session::{Options, Session, unless_told},
};

/// Measures and prints.
///
/// # Errors
/// When a path does not work at all, or a file cannot be written.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let session = unless_told(Session::start(options, &Path::QUICK, 3)).await?;
    session.run(rounds).await
}

async fn rounds(session: &mut Session) -> anyhow::Result<()> {
    session.rounds("idle connections", async |bench: &mut Bench, path| bench.held(path).await).await?;
    session.rounds("load", async |bench: &mut Bench, path| bench.round(path).await).await?;
    session.at_rest().await;
    Ok(())
}
