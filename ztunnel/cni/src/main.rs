//! The CNI plugin as a program.

#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    let mut configuration = String::new();
    let read = std::io::stdin().read_to_string(&mut configuration);
    // What cannot be read is no configuration, and refused as such.
    let configuration = if read.is_ok() { configuration } else { String::new() };
    let answer = ambit_cni::run(|name| std::env::var(name).ok(), &configuration);
    if std::io::stdout().write_all(answer.printed.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(answer.status)
}
