//! The node proxy on real namespaces: two nodes, a proxy process on each, a control plane and an authority in the test.
//! Needs root or user namespaces and leaves nothing behind.

mod books;
mod bulk;
mod carry;
mod child;
mod dns;
mod endpoints;
mod fail;
mod families;
mod h2spec;
mod hostile;
mod lies;
mod limits;
mod load;
mod mesh;
mod near;
mod observe;
mod policy;
mod rotate;
mod same_policy;
mod seeing;
mod slow;
mod storm;
mod torture;
mod waypoint;

#[allow(dead_code, reason = "shared with the tests of tunnels")]
#[path = "../../../core/hbone/tests/torture/noise.rs"]
mod noise;
#[path = "../../../core/hbone/tests/torture/pipe.rs"]
mod pipe;
#[allow(dead_code, reason = "shared with the tests of tunnels")]
#[path = "../../../core/hbone/tests/torture/script.rs"]
mod script;
#[allow(dead_code, reason = "shared with the tests of tunnels")]
#[path = "../../../core/hbone/tests/torture/talk.rs"]
mod talk;

use std::process::ExitCode;

use ambit_runtime::sys::SampledAllocator;
use ambit_testbed::{
    Families, bed,
    trial::{over, test},
};
use libtest_mimic::Arguments;

/// As in the program.
#[global_allocator]
static ALLOCATOR: SampledAllocator = SampledAllocator;

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut tests = Vec::new();
    for families in Families::ALL {
        tests.extend(carry::tests(families));
        tests.extend(policy::tests(families));
        tests.extend(fail::tests(families));
        tests.extend(lies::tests(families));
        tests.extend(dns::tests(families));
        tests.extend(observe::tests(families));
        tests.extend(waypoint::tests(families));
        tests.extend(endpoints::tests(families));
        tests.extend(near::tests(families));
    }
    // These use both families in one mesh.
    tests.extend(families::tests());
    tests.extend(same_policy::tests());
    tests.extend(seeing::tests());
    tests.extend(torture::tests());
    tests.extend(slow::tests());
    tests.extend(storm::tests());
    tests.extend(rotate::tests());
    tests.extend(limits::tests());
    tests.extend(bulk::tests());
    tests.extend(observe::of_the_process());
    tests.extend(hostile::tests());
    tests.extend(h2spec::tests());
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
