//! What a run could leave on the machine: processes, network namespaces, mounts, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// An environment variable by which all processes of a run are found.
pub const TAG: &str = "AMBIT_TEST_TAG";
/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// The machine before a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    named_namespaces: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Machine {
    /// As it is now; of all files only those below `directory`, which must be the run's alone.
    pub fn look(directory: &Path) -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
        let mut files = BTreeSet::new();
        list(directory, &mut files)?;
        let mut named_namespaces = BTreeSet::new();
        if Path::new("/run/netns").exists() {
            list(Path::new("/run/netns"), &mut named_namespaces)?;
        }
        Ok(Self { named_namespaces, mounts: mounts.lines().map(str::to_owned).collect(), files })
    }

    /// Whether everything is as it was, soon: no process with this tag, no process in one of these network namespaces, no mounts or
    /// files but those of before.
    pub fn same_again(&self, directory: &Path, tag: &str, namespaces: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (processes, held) = (tagged(tag)?, inhabited()?.intersection(namespaces).cloned().collect::<Vec<_>>());
            let now = Self::look(directory)?;
            if processes.is_empty() && held.is_empty() && now == *self {
                return Ok(());
            }
            if Instant::now() > deadline {
                let commands: Vec<String> = processes.iter().map(|pid| command(*pid)).collect();
                let files: Vec<_> = now.files.symmetric_difference(&self.files).collect();
                let mounts: Vec<_> = now.mounts.symmetric_difference(&self.mounts).collect();
                let named: Vec<_> = now.named_namespaces.symmetric_difference(&self.named_namespaces).collect();
                bail!("left: processes {commands:?}, namespaces {held:?} {named:?}, mounts {mounts:?}, files {files:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn list(directory: &Path, found: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            list(&path, found)?;
        }
        found.insert(path);
    }
    Ok(())
}

fn pids() -> anyhow::Result<Vec<u32>> {
    let names = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(names.collect())
}

/// The processes of a run. Zombies have no environment any more.
pub fn tagged(tag: &str) -> anyhow::Result<Vec<u32>> {
    let wanted = format!("{TAG}={tag}");
    let of_run = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    Ok(pids()?.into_iter().filter(of_run).collect())
}

/// The network namespaces of these processes, but for that of this one.
pub fn namespaces(pids: &[u32]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let own = fs::read_link("/proc/self/ns/net")?;
    let of = |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    Ok(pids.iter().filter_map(of).filter(|namespace| *namespace != own).collect())
}

/// All network namespaces that some process is in.
fn inhabited() -> anyhow::Result<BTreeSet<PathBuf>> {
    namespaces(&pids()?)
}

fn command(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ")
}
