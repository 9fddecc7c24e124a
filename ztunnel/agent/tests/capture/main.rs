//! The node agent on real namespaces: its process, the CNI plugin's, pods, and a proxy of the test at the other end of the handover.
//! Needs root or user namespaces and leaves nothing behind.

mod carry;
mod child;
mod devices;
mod escape;
mod handover;
mod plugin;
mod proxy;
mod race;
mod repair;
mod rest;
mod restart;
mod talk;
mod world;

use std::process::ExitCode;

use ambit_testbed::{bed, trial::test};
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut tests = Vec::new();
    for filter in world::Filter::ALL {
        let of_filter = carry::tests(filter).into_iter().chain(repair::tests(filter)).chain(escape::tests(filter));
        let missing = filter.missing();
        if let Some(why) = &missing {
            eprintln!("ignored are the tests of {}, which this machine does not have: {why}", filter.name());
        }
        tests.extend(of_filter.map(|test| test.with_ignored_flag(missing.is_some())));
    }
    tests.extend(handover::tests());
    tests.extend(restart::tests());
    tests.extend(plugin::tests());
    tests.extend(devices::tests());
    tests.extend(race::tests());
    tests.extend(rest::tests());
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
