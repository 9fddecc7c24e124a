//! The CNI plugin as a program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ambit_cni::program()
}
