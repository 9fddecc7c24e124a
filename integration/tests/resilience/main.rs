//! What our waypoint does for a mesh in which something fails: backends that fail, are slow, reset connections, or are asked for ten times as
//! much as they can do. Everything is told by counts at the backends and by ratios. Needs root or user namespaces.

mod backend;
mod cascade;
mod child;
mod client;
mod ejection;
mod mesh;
mod objects;
mod overload;
mod writes;

use std::process::ExitCode;
use std::sync::Arc;

use ambit_testbed::bed;
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use mesh::Mesh;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// The mesh, started by the first test; or why it does not start.
type Shared = Arc<OnceCell<Result<Mesh, String>>>;

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    // They share a waypoint and a machine, and count what comes.
    arguments.test_threads = Some(1);
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let mesh = Shared::default();
    let test = |name: &str, body: fn(&Mesh) -> LocalBoxFuture<'_, anyhow::Result<()>>| {
        let (mesh, runtime) = (Arc::clone(&mesh), Arc::clone(&runtime));
        Trial::test(name, move || {
            runtime.block_on(async {
                let start = || async { Box::pin(Mesh::start()).await.map_err(|error| format!("{error:#}")) };
                let mesh = mesh.get_or_init(start).await.as_ref().map_err(Failed::from)?;
                body(mesh).await.map_err(|error| Failed::from(format!("{error:#}\n{}", mesh.logs())))
            })
        })
    };
    let trials = vec![
        test("three layers that retry ask the last one for at most a fifth more", |mesh| Box::pin(cascade::three_layers(mesh))),
        test("so they do when the last one breaks off, or answers too late", |mesh| Box::pin(cascade::without_an_answer(mesh))),
        test("an endpoint that fails is left alone, and is asked again once it is well", |mesh| {
            Box::pin(ejection::returns(mesh))
        }),
        test("an endpoint that returns is given its share by and by", |mesh| Box::pin(ejection::returns_slowly(mesh))),
        test("a POST comes to an endpoint once at most, wherever its connection breaks", |mesh| Box::pin(writes::once(mesh))),
        test("asked for ten times as much as it can do, a service does what it can, in time", |mesh| {
            Box::pin(overload::ten_times(mesh))
        }),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    runtime.block_on(async {
        if let Some(Ok(mesh)) = mesh.get() {
            mesh.bed.shutdown().await;
        }
    });
    conclusion.exit_code()
}
