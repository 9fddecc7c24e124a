//! A user's way with a real Kubernetes of two nodes: from nothing to a mesh that also configures clients of others, then everything of it is
//! restarted, upgraded, killed or away under load, and out again. One cluster for all of it, so that its start is paid once. A phase that runs
//! alone first goes the way into the mesh.
//!
//! `AMBIT_API_AWAY_SECONDS` is how long the API server is away.

mod ask;
mod away;
mod echo;
mod held;
mod http2;
mod load;
mod nothing;
mod parts;
#[path = "../common/phases.rs"]
mod phases;
mod rolling;
mod sessions;
mod state;
mod unmodified;
mod user;

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use ambit_cluster::manifests::{Channel, gateway_api};
use ambit_cluster::programs::Programs;
use ambit_cluster::temporary::Temporary;
use ambit_cluster::{Cluster, ClusterOptions, ProxyMode};
use anyhow::Context;
use libtest_mimic::Trial;
use tokio::runtime::Runtime;

use load::Load;
use phases::Shared;
use user::{Stage, User};

/// What is made before the bed is entered, from which nothing can be downloaded.
struct Prepared {
    place: Temporary,
    programs: Programs,
    definitions: Vec<PathBuf>,
    front: TcpListener,
}

/// The cluster of all phases, with the runtime that it lives in.
struct World {
    runtime: Runtime,
    cluster: Cluster,
    place: Temporary,
    definitions: Vec<PathBuf>,
    began: Instant,
    stage: Cell<Stage>,
    load: RefCell<Option<Arc<Load>>>,
}

fn main() -> ExitCode {
    let shared: Shared<World> = Shared::new(prepare());
    let phases = vec![
        phase(
            &shared,
            "a cluster, ambit install, a label: what was in clear between the nodes is encrypted, and rules apply at once",
            async |user| user.whole_way().await,
        ),
        phase(
            &shared,
            "grpc-go and Envoy, unmodified, take their configuration from the control plane, and follow a route",
            async |user| user.unmodified_clients().await,
        ),
        phase(
            &shared,
            "every part is restarted under load, one after the other: no request, stream or WebSocket fails, connections are kept or drained",
            async |user| user.restarts().await,
        ),
        phase(
            &shared,
            "the API server is away, forgets its history, and etcd is started again: traffic goes on, states converge",
            async |user| user.api_server_away().await,
        ),
        phase(
            &shared,
            "replicas of the control plane are killed while they write status: traffic goes on, states converge",
            async |user| user.control_plane_killed().await,
        ),
        phase(&shared, "ambit upgrade replaces all parts under load: no request fails", async |user| user.upgrade().await),
        phase(&shared, "Helm takes over, replaces all parts under load and gives them back: no request fails", async |user| {
            user.helm_upgrade().await
        }),
        phase(&shared, "ambit uninstall: the demonstration goes on without the mesh", async |user| user.uninstall().await),
    ];
    shared.run(phases)
}

fn prepare() -> anyhow::Result<Prepared> {
    Ok(Prepared {
        place: Temporary::of_this_process("mesh")?,
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
        let Prepared { place, programs, definitions, front } = prepared;
        let (began, runtime) = (Instant::now(), Runtime::new()?);
        let (name, directory) = (place.name.clone(), place.directory.clone());
        let options = ClusterOptions { name, nodes: 2, directory, proxy: ProxyMode::default() };
        let tell = |what: &str| eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
        let cluster = runtime.block_on(Cluster::start(options, programs, front, &tell))?;
        let stage = Cell::new(Stage::Nothing);
        Ok(Self { runtime, cluster, place, definitions, began, stage, load: RefCell::default() })
    }

    fn stop(self) -> anyhow::Result<()> {
        let Self { runtime, cluster, .. } = self;
        runtime.block_on(cluster.stop()).map_err(Into::into)
    }
}

impl World {
    async fn run(&self, name: &str, body: impl AsyncFnOnce(&User<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Self { cluster, place, definitions, began, stage, load, .. } = self;
        let tell = |what: &str| eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
        tell(&format!("begins: {name}"));
        let begun = Instant::now();
        let user = User { cluster, directory: &place.directory, definitions, stage, load, tell: &tell };
        let outcome = body(&user).await;
        let state = if outcome.is_err() { user.state().await } else { String::new() };
        outcome.context(state)?;
        tell(&format!("done in {:.1} s: {name}", begun.elapsed().as_secs_f64()));
        Ok(())
    }
}
