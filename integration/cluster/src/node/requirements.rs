//! What the large variant needs of the machine, looked for before anything is started, all of it at once.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};

use crate::error::{Error, Result};
use crate::programs;

/// Where distributions put CNI plugins.
const PLUGIN_DIRECTORIES: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Programs that others find in `PATH`, with the packages of Debian that have them.
const FOUND_BY_OTHERS: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("etcd", "etcd-server"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("mount", "mount"),
    ("umount", "mount"),
];

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Requirements {
    pub(crate) bash: PathBuf,
    pub(crate) unshare: PathBuf,
    pub(crate) ctr: PathBuf,
    pub(crate) etcd: PathBuf,
    pub(crate) busybox: PathBuf,
    /// The directory with the CNI plugins.
    pub(crate) plugins: PathBuf,
}

impl Requirements {
    /// Looks for everything.
    ///
    /// # Errors
    /// Something is missing; the message names all of it and the packages.
    pub(crate) fn find() -> Result<Self> {
        let mut missing = Missing::default();
        if !nix::unistd::geteuid().is_root() {
            missing
                .others
                .push("root: the kernel lets nobody else make control groups for pods (`sudo ambit cluster up`)".to_owned());
        }
        if !Path::new("/sys/fs/cgroup").is_dir() {
            missing.others.push("control groups, mounted at /sys/fs/cgroup".to_owned());
        }
        for (name, package) in FOUND_BY_OTHERS {
            missing.program(name, package);
        }
        let plugins = PLUGIN_DIRECTORIES.iter().map(PathBuf::from).find(|directory| directory.join("host-local").is_file());
        if plugins.is_none() {
            missing.add(
                format!("the CNI plugins host-local, loopback, portmap and ptp in {}", PLUGIN_DIRECTORIES.join(" or ")),
                "containernetworking-plugins",
            );
        }
        let found = Self {
            bash: missing.program("bash", "bash"),
            unshare: missing.program("unshare", "util-linux"),
            ctr: missing.program("ctr", "containerd"),
            etcd: missing.program("etcd", "etcd-server"),
            busybox: missing.program("busybox", "busybox-static"),
            plugins: plugins.unwrap_or_default(),
        };
        if found.busybox.is_file() && !is_static(&found.busybox) {
            missing
                .add(format!("a busybox that is linked statically, which {} is not", found.busybox.display()), "busybox-static");
        }
        missing.end(found)
    }
}

/// What has not been found so far.
#[derive(Debug, Default)]
struct Missing {
    others: Vec<String>,
    packages: Vec<&'static str>,
}

impl Missing {
    fn program(&mut self, name: &str, package: &'static str) -> PathBuf {
        programs::system(name, package).unwrap_or_else(|_| {
            self.add(format!("the program {name}"), package);
            PathBuf::new()
        })
    }

    fn add(&mut self, what: String, package: &'static str) {
        if !self.others.contains(&what) {
            self.others.push(what);
        }
        if !self.packages.contains(&package) {
            self.packages.push(package);
        }
    }

    fn end<T>(self, found: T) -> Result<T> {
        if self.others.is_empty() {
            return Ok(found);
        }
        let install = format!("apt-get install {} (Debian, Ubuntu)", self.packages.join(" "));
        let remedy = if self.packages.is_empty() { "see above".to_owned() } else { install };
        Err(Error::Missing {
            what: format!("this machine lacks what a cluster needs:\n    {}", self.others.join("\n    ")),
            remedy,
        })
    }
}

/// Whether a program runs where no library is: it does not name a loader then.
fn is_static(program: &Path) -> bool {
    const LOADER: &[u8] = b"/ld-linux";
    std::fs::read(program).is_ok_and(|bytes| !bytes.windows(LOADER.len()).any(|window| window == LOADER))
}

/// Whether a directory is on an overlay, as in a container: images cannot be unpacked as overlays there.
pub(crate) fn is_overlay(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == OVERLAYFS_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_a_loader() {
        assert!(!is_static(Path::new("/proc/self/exe")));
    }

    #[test]
    fn all_that_is_missing_is_named_at_once_with_its_packages() {
        let mut missing = Missing::default();
        missing.program("no-such-program", "one");
        missing.program("no-such-other", "two");
        missing.program("no-such-other", "two");
        let text = missing.end(()).unwrap_err().to_string();
        assert!(
            text.contains("no-such-program") && text.contains("no-such-other") && text.contains("install one two (Debian"),
            "{text}"
        );
        assert!(Missing::default().end(()).is_ok());
    }
}
