//! The mesh with programs that others run beside one, unmodified where they can be had: cert-manager as the issuer, Prometheus, Flagger. One
//! Kubernetes of two nodes for all of it; each phase goes on where the one before has left it, and none begins once one has failed. What is
//! applied to it is the YAML of `docs/ecosystem.md`.
//!
//! `integration/ecosystem.sh` brings the programs and runs this; it is not part of a default run.

mod canary;
mod documented;
mod http;
mod issuer;
mod load;
#[path = "../common/phases.rs"]
mod phases;
mod prometheus;
mod signals;
mod user;

use std::cell::Cell;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use ambit_cluster::manifests::{Channel, gateway_api};
use ambit_cluster::programs::Programs;
use ambit_cluster::temporary::Temporary;
use ambit_cluster::{Cluster, ClusterOptions, ProxyMode};
use anyhow::Context;
use libtest_mimic::Trial;
use tokio::runtime::Runtime;

use phases::Shared;
use user::{Outside, User};

/// What is made before the bed is entered, from which nothing can be downloaded.
struct Prepared {
    place: Temporary,
    programs: Programs,
    definitions: Vec<PathBuf>,
    outside: Outside,
    front: TcpListener,
}

/// The cluster of all phases, with the runtime that it lives in.
struct World {
    runtime: Runtime,
    cluster: Cluster,
    place: Temporary,
    definitions: Vec<PathBuf>,
    outside: Outside,
    began: Instant,
    meshed: Cell<bool>,
    scraped: Cell<bool>,
}

fn main() -> ExitCode {
    let shared: Shared<World> = Shared::new(prepare());
    let phases = vec![
        phase(
            &shared,
            "cert-manager issues the authority of the mesh, and renews it without a request that fails",
            async |user| issuer::issues_and_renews(user).await,
        ),
        phase(&shared, "Prometheus answers one question for each golden signal as the load was", async |user| {
            signals::answered(user).await
        }),
        phase(&shared, "Flagger promotes a good release through an HTTPRoute and rolls a bad one back", async |user| {
            canary::promotes_and_rolls_back(user).await
        }),
    ];
    shared.run(phases)
}

fn prepare() -> anyhow::Result<Prepared> {
    Ok(Prepared {
        outside: Outside::find()?,
        place: Temporary::of_this_process("ecosystem")?,
        programs: Programs::get(&mut |_| {})?,
        definitions: gateway_api(Channel::Standard)?,
        front: TcpListener::bind("127.0.0.1:0")?,
    })
}

fn phase(
    shared: &Shared<World>,
    name: &'static str,
    body: impl AsyncFnOnce(&User<'_>) -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    shared.phase(name, move |world| world.runtime.block_on(world.run(name, body)))
}

impl phases::World for World {
    type Prepared = Prepared;

    fn start(prepared: Prepared) -> anyhow::Result<Self> {
        let Prepared { place, programs, definitions, outside, front } = prepared;
        let (began, runtime) = (Instant::now(), Runtime::new()?);
        let (name, directory) = (place.name.clone(), place.directory.clone());
        let options = ClusterOptions { name, nodes: 2, directory, proxy: ProxyMode::default() };
        let tell = |what: &str| eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
        let cluster = runtime.block_on(Cluster::start(options, programs, front, &tell))?;
        let (meshed, scraped) = (Cell::new(false), Cell::new(false));
        Ok(Self { runtime, cluster, place, definitions, outside, began, meshed, scraped })
    }

    fn stop(self) -> anyhow::Result<()> {
        let Self { runtime, cluster, .. } = self;
        runtime.block_on(cluster.stop()).map_err(Into::into)
    }
}

impl World {
    async fn run(&self, name: &str, body: impl AsyncFnOnce(&User<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Self { cluster, place, definitions, outside, began, meshed, scraped, .. } = self;
        let tell = |what: &str| eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
        tell(&format!("begins: {name}"));
        let begun = Instant::now();
        let user = User { cluster, directory: &place.directory, definitions, outside, meshed, scraped, tell: &tell };
        let outcome = body(&user).await;
        let state = if outcome.is_err() { user.state().await } else { String::new() };
        outcome.context(state)?;
        tell(&format!("done in {:.1} s: {name}", begun.elapsed().as_secs_f64()));
        Ok(())
    }
}
