//! What the suites on real namespaces share: a mesh from a directory of YAML, an HTTP client in a pod, and waiting with a reason.
//!
//! The suites are test programs without the standard harness: each enters a private bed first ([`run`]), then runs its tests one
//! after another inside it. What else runs beside them is said in `integration/plan.py`.

#![forbid(unsafe_code)]

pub mod client;
pub mod load;
pub mod suite;
pub mod tools;
pub mod wait;

pub use ambit_testbed::trial::{over, test};

use std::{pin::Pin, process::ExitCode, sync::OnceLock};

use ambit_testbed::{Families, bed};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

use crate::suite::Suite;

/// A test that shares one mesh, and the runtime that it lives in, with the other tests of its program.
pub fn shared(
    mesh: &'static SharedMesh,
    name: &str,
    body: impl AsyncFnOnce(&Suite) -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    Trial::test(mesh.families.title(name), move || {
        let start = || mesh.runtime().block_on((mesh.start)(mesh.families)).map_err(|error| format!("{error:#}"));
        let suite = mesh.suite.get_or_init(start);
        let suite = suite.as_ref().map_err(|error| Failed::from(format!("the mesh did not start: {error}")))?;
        mesh.runtime().block_on(body(suite)).map_err(|error| Failed::from(format!("{error:#}\n{}", suite.refusals())))
    })
}

/// The start of a mesh under way.
type Starting = Pin<Box<dyn Future<Output = anyhow::Result<Suite>>>>;

/// A mesh that is started by the first test which needs it and ends with the program.
pub struct SharedMesh {
    families: Families,
    start: fn(Families) -> Starting,
    runtime: OnceLock<Runtime>,
    suite: OnceLock<Result<Suite, String>>,
}

impl SharedMesh {
    /// Two meshes that `start` starts: one with both families, and one with IPv6 alone.
    #[must_use]
    pub const fn both(start: fn(Families) -> Starting) -> [Self; 2] {
        [Self::new(Families::Dual, start), Self::new(Families::Ipv6, start)]
    }

    const fn new(families: Families, start: fn(Families) -> Starting) -> Self {
        Self { families, start, runtime: OnceLock::new(), suite: OnceLock::new() }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.get_or_init(|| Runtime::new().expect("the system gives threads"))
    }
}

/// Enters a bed and runs `tests` in it, one at a time.
pub fn run(tests: Vec<Trial>) -> ExitCode {
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    run_here(tests)
}

/// Runs `tests` one at a time without a bed: for those that start programs which make their own.
pub fn run_here(tests: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, tests).exit_code()
}
