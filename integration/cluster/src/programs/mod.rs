//! The programs of a cluster: those of Kubernetes and CoreDNS, which are built once and cached, and those of the system.
//!
//! Kubernetes is built from its Go module: distributions do not package it, and what is built from a `go.sum` is the same everywhere. The
//! module (`programs/` of this crate) is part of this library, so that an installed `ambit` can build it too. The cache is
//! `$XDG_CACHE_HOME/ambit/kubernetes/<hash>` (else `~/.cache`), where the hash is of everything that goes into the build.

mod build;

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Version of Kubernetes that is built.
pub const KUBERNETES: &str = "v1.36.3";

/// What the cached program of Kubernetes is called as, to be each of its parts.
const NAMES: [&str; 6] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"];

/// The Go module, by path in it.
const SOURCES: [(&str, &str); 4] = [
    ("go.mod", include_str!("../../programs/go.mod")),
    ("go.sum", include_str!("../../programs/go.sum")),
    ("kube/main.go", include_str!("../../programs/kube/main.go")),
    ("coredns/main.go", include_str!("../../programs/coredns/main.go")),
];

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

/// What a build tells while it goes on.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Another process is building; this one waits for it.
    Waiting,
    /// The modules that a program is made of are being downloaded.
    Downloading {
        /// Its name.
        program: &'a str,
        /// How many were begun so far.
        modules: usize,
    },
    /// A program is being built.
    Building {
        /// Its name.
        program: &'a str,
        /// How many packages were compiled so far: fewer than `packages` in the end, if some were compiled before.
        compiled: usize,
        /// Of how many it is made.
        packages: usize,
    },
    /// A program is ready.
    Built {
        /// Its name.
        program: &'a str,
    },
}

impl Programs {
    /// Finds the programs in the cache, or builds them: 8 to 15 minutes on two cores, which `progress` is told about. Two processes that
    /// need them at once build them once.
    ///
    /// # Errors
    /// Go is missing or too old, or a module cannot be had; the message says how to get it.
    pub fn get(progress: &mut dyn FnMut(Progress<'_>)) -> Result<Self> {
        let cache = cache_directory()?.join("kubernetes");
        let directory = cache.join(hash());
        if !directory.is_dir() {
            build::into(&cache, &directory, progress)?;
        }
        Ok(Self { directory })
    }

    /// The program of this name, such as `kubectl` or `coredns`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The directory that holds all of them, for a `PATH`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Where Ambit keeps what can be made again: `$XDG_CACHE_HOME/ambit`, else `~/.cache/ambit`.
///
/// # Errors
/// Neither variable is set.
pub fn cache_directory() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("ambit")).ok_or_else(|| Error::Missing {
        what: "there is no place for programs that are built once: neither XDG_CACHE_HOME nor HOME is set".to_owned(),
        remedy: "export XDG_CACHE_HOME=/a/directory/with/1/GB".to_owned(),
    })
}

/// A program of the system by its name, in `PATH` or where programs for root are.
///
/// # Errors
/// It is not installed; the message names `package` of Debian, which has it.
pub fn system(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(others).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::Missing {
        what: format!("the program {name} is not installed"),
        remedy: format!("apt-get install {package} (Debian, Ubuntu), or the package of your system that has {name}"),
    })
}

/// What decides whether a cached build is the wanted one.
fn hash() -> String {
    let mut hash = Sha256::new();
    for (path, text) in SOURCES {
        hash.update(format!("{path} {}\n{text}", text.len()));
    }
    hash.update(build::FLAGS.join(" "));
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::path("making", parent))?;
    }
    fs::write(path, text).map_err(Error::path("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_asks_for_the_kubernetes_that_its_programs_say_they_are() {
        let (_, module) = SOURCES[0];
        assert!(module.contains(&format!("k8s.io/kubernetes {KUBERNETES}")), "programs/go.mod and KUBERNETES differ");
        assert!(build::FLAGS.iter().any(|flag| flag.contains(&format!("gitVersion={KUBERNETES} "))), "{:?}", build::FLAGS);
    }

    #[test]
    fn a_program_that_is_not_installed_is_named_with_its_package() {
        let error = system("no-such-program", "some-package").unwrap_err().to_string();
        assert!(error.contains("no-such-program") && error.contains("apt-get install some-package"), "{error}");
    }
}
