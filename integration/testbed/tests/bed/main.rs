//! The bed on real namespaces. Runs inside a bed of its own, so it needs root or user namespaces and leaves nothing behind.

mod end;
mod network;
mod places;
mod sockets;
mod watch;

use std::process::ExitCode;

use ambit_testbed::{bed, trial::test};
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    if let Some(code) = end::held_program() {
        return code;
    }
    if let Err(error) = end::prepare() {
        eprintln!("cannot copy this program: {error}");
        return ExitCode::FAILURE;
    }
    let mut tests = Vec::new();
    tests.extend(network::tests());
    tests.extend(places::tests());
    tests.extend(sockets::tests());
    tests.extend(watch::tests());
    tests.extend(end::tests());
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
