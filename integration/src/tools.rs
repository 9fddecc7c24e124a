//! Programs of others that the suites run through the mesh: where they are, and what to do when they are not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// What brings everything that is missing.
const REMEDY: &str = "run integration/test.sh, which installs it";

/// The directory that `integration/test.sh` installs Python packages and their programs into.
#[must_use]
pub fn directory() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    workspace.join("target/test-tools/bin")
}

/// A Python interpreter that can import these modules.
///
/// # Errors
/// When there is none; a suite must fail then, not skip.
pub fn python(modules: &[&str]) -> anyhow::Result<PathBuf> {
    let import = format!("import {}", modules.join(", "));
    let can = |python: &Path| {
        let mut check = Command::new(python);
        check.args(["-c", &import]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        check.status().is_ok_and(|status| status.success())
    };
    let installed = directory().join("python3");
    let candidates = [Some(installed), find("python3", &[])];
    let found = candidates.into_iter().flatten().find(|python| can(python));
    found.with_context(|| format!("there is no python3 that can `{import}`: {REMEDY}"))
}

/// A program that `integration/test.sh` installs, by its name.
///
/// # Errors
/// When it is not there.
pub fn installed(name: &str) -> anyhow::Result<PathBuf> {
    let candidates = [Some(directory().join(name)), find(name, &[])];
    let found = candidates.into_iter().flatten().find(|path| path.is_file());
    found.with_context(|| format!("{name} is not there: {REMEDY}"))
}

/// A program of the system by its name.
///
/// # Errors
/// When it is not installed.
pub fn system(name: &str) -> anyhow::Result<PathBuf> {
    match find(name, &["/usr/sbin", "/sbin"]) {
        Some(path) => Ok(path),
        None => bail!("{name} is not installed: {REMEDY}"),
    }
}

/// Where this machine has its C library, and with it what programs of others are linked to besides.
///
/// # Errors
/// When this program is not linked to glibc.
pub fn libraries() -> anyhow::Result<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.ends_with("/libc.so.6"));
    let directory = libc.and_then(|path| Path::new(path).parent());
    Ok(directory.context("this program is not linked to glibc, as Envoy is")?.to_owned())
}

fn find(name: &str, besides: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(besides.iter().map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_an_error_that_says_how_to_get_it() {
        let errors = [python(&["no_such_module"]).unwrap_err(), system("no-such-program").unwrap_err()];
        for error in errors.into_iter().chain(installed("no-such-program").err()) {
            assert!(error.to_string().contains("integration/test.sh"), "{error}");
        }
    }
}
