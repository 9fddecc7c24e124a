//! The `ambit` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match ambit::cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ambit: {error}");
            ExitCode::FAILURE
        }
    }
}
