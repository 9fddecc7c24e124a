//! `ambit up` as people start it: what it reports, for whom it runs, and what it leaves behind however it ends, which is nothing.

mod ends;
mod machine;
mod report;
mod run;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use ambit_integration::suite::program;

fn main() -> ExitCode {
    // Not in a bed: the program makes its own.
    let copied = tempfile::tempdir().map_err(anyhow::Error::from).and_then(|directory| {
        copy(directory.path())?;
        Ok(directory)
    });
    let directory = match copied {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let program = directory.path().join("ambit");
    ambit_integration::run_here(report::tests(&program).into_iter().chain(ends::tests(&program)).collect())
}

/// Copies the program to where every user may read it, wherever the build directory lies.
fn copy(directory: &Path) -> anyhow::Result<()> {
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755))?;
    std::fs::copy(program()?, directory.join("ambit"))?;
    Ok(())
}
