//! Builds the programs of Kubernetes into the cache, where the tests find them. Prints where that is.

use std::process::ExitCode;

use ambit_cluster::programs::{Programs, Progress};

fn main() -> ExitCode {
    let mut last = 0;
    let mut tell = |progress: Progress<'_>| match progress {
        Progress::Waiting => eprintln!("another process builds Kubernetes; waiting for it"),
        Progress::Downloading { program, modules } if modules % 50 == 1 => {
            eprintln!("downloading what {program} is made of: module {modules}")
        }
        Progress::Downloading { .. } => {}
        // A line for each twentieth of it.
        Progress::Building { program, compiled, packages } if compiled * 20 / packages.max(1) != last => {
            last = compiled * 20 / packages.max(1);
            eprintln!("building {program}: {compiled} of {packages} packages");
        }
        Progress::Building { .. } => {}
        Progress::Built { program } => eprintln!("{program} is built"),
    };
    match Programs::get(&mut tell) {
        Ok(programs) => {
            println!("{}", programs.directory().display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ambit-cluster: {error}");
            ExitCode::FAILURE
        }
    }
}
