//! Custom resource definitions that are not ours: from the Go modules of those who publish them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::programs;

/// The Go module that says which versions, as (path, text).
const MODULE: [(&str, &str); 2] = [("go.mod", include_str!("../crds/go.mod")), ("go.sum", include_str!("../crds/go.sum"))];

/// Which definitions of the Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// What will stay.
    Standard,
    /// The same with what may still change: session persistence and retries, for example.
    Experimental,
}

/// What `go mod download -json` says, as far as it is needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: Option<PathBuf>,
    error: Option<String>,
}

/// The YAML files with the definitions of the Gateway API, in the module cache of Go; downloaded if it is not there, and compared
/// with the hash that this library holds.
///
/// # Errors
/// Go is not installed, or the module is not in reach.
pub fn gateway_api(channel: Channel) -> Result<Vec<PathBuf>> {
    let go = programs::system("go", "golang-go")?;
    let module = tempfile::tempdir().map_err(Error::io("making a temporary directory"))?;
    for (name, text) in MODULE {
        let path = module.path().join(name);
        std::fs::write(&path, text).map_err(Error::path("writing", &path))?;
    }
    let mut command = Command::new(&go);
    command.args(["mod", "download", "-json", "sigs.k8s.io/gateway-api"]).current_dir(module.path()).stdin(Stdio::null());
    let said = command.env("GOFLAGS", "-mod=mod").env("GOWORK", "off").output().map_err(Error::path("starting", &go))?;
    let missing = |report: &str| Error::Missing {
        what: format!("the definitions of the Gateway API cannot be had: {report}"),
        remedy: "the module index of Go must be in reach (`go env GOPROXY`)".to_owned(),
    };
    let downloaded: Downloaded =
        serde_json::from_slice(&said.stdout).map_err(|_| missing(String::from_utf8_lossy(&said.stderr).trim()))?;
    let directory = downloaded.dir.ok_or_else(|| missing(&downloaded.error.unwrap_or_default()))?;
    let name = match channel {
        Channel::Standard => "standard",
        Channel::Experimental => "experimental",
    };
    let directory = directory.join("config/crd").join(name);
    let entries = directory.read_dir().map_err(Error::path("reading", &directory))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| is_definition(path)).collect();
    files.sort();
    Ok(files)
}

/// The directory has other things: a kustomization, a policy against older versions, and experiments of which one is for meshes.
fn is_definition(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let of_the_api = name.starts_with("gateway.networking.k8s.io_") && !name.contains("_vap_");
    of_the_api || name.contains("_xbackendtrafficpolicies.")
}
