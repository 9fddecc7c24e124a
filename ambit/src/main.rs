//! The `ambit` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use ambit_runtime::sys::SampledAllocator;

/// As the system's, for `/debug/pprof/heap`.
#[global_allocator]
static ALLOCATOR: SampledAllocator = SampledAllocator;

fn main() -> ExitCode {
    match ambit::cli::run().and_then(ambit::print::finished) {
        Ok(code) => code,
        Err(error) => {
            ambit::print::err(format_args!("ambit: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
