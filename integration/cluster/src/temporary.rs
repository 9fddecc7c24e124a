//! Clusters that are to live no longer than a process, such as those of tests: what they left when it was killed is removed by the next one.
//!
//! Each has its directory and its lock beside those of `ambit cluster`, which takes a lock of the same kind for its own.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::node::cgroups;
use crate::programs::cache_directory;

/// What their names begin with; the number of the process follows.
const KINDS: [&str; 3] = ["test", "life", "mesh"];

/// What the name of a lock ends with.
const LOCK: &str = ".lock";

/// The place of a cluster of this process, which holds its lock, as do the processes that this one becomes. Its name is free when this is dropped.
#[derive(Debug)]
pub struct Temporary {
    /// The name of the cluster.
    pub name: String,
    /// Its directory, which is not made yet.
    pub directory: PathBuf,
    lock: PathBuf,
    _held: File,
}

impl Temporary {
    /// The place of a cluster of this process, named after `kind`: `test`, `life` or `mesh`. What such clusters left whose process was killed is
    /// removed. To be called before a bed is entered, where every process has another number.
    ///
    /// # Errors
    /// The place cannot be made.
    pub fn of_this_process(kind: &str) -> Result<Self> {
        remove_dead();
        let (all, name) = (place()?, format!("{kind}-{}", std::process::id()));
        let lock = all.join(format!("{name}{LOCK}"));
        let held = File::create(&lock).map_err(Error::path("making", &lock))?;
        held.try_lock().map_err(|error| Error::failed(format!("locking {}", lock.display()), error))?;
        Ok(Self { directory: all.join(&name), name, lock, _held: held })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // One that is left holds nobody off, and is removed by the next.
        let _best_effort = fs::remove_file(&self.lock);
    }
}

fn place() -> Result<PathBuf> {
    let all = cache_directory()?.join("cluster");
    DirBuilder::new().recursive(true).mode(0o700).create(&all).map_err(Error::path("making", &all))?;
    Ok(all)
}

/// Removes what clusters left whose process was killed, as far as it can be: each of a test may have 1.5 GB. To be called before a bed is entered.
/// Gives their names.
pub fn remove_dead() -> Vec<String> {
    place().map(|all| remove_dead_of(&all)).unwrap_or_default()
}

fn remove_dead_of(all: &Path) -> Vec<String> {
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    let names: BTreeSet<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| name.strip_suffix(LOCK).map_or(name.clone(), str::to_owned))
        .filter(|name| process_of(name).is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()))
        .collect();
    names.into_iter().filter(|name| remove(all, name)).collect()
}

/// The number of the process that a cluster of this name belongs to, if it is of one.
fn process_of(name: &str) -> Option<u32> {
    let (kind, number) = name.split_once('-')?;
    number.parse().ok().filter(|_| KINDS.contains(&kind))
}

/// Removes what is left of a cluster, unless another process has it: one in the bed of its own, or one that this process cannot see.
fn remove(all: &Path, name: &str) -> bool {
    let lock = all.join(format!("{name}{LOCK}"));
    let Ok(held) = File::options().create(true).truncate(false).write(true).open(&lock) else { return false };
    if held.try_lock().is_err() {
        return false;
    }
    let directory = all.join(name);
    let gone = cgroups::remove_now(name).is_empty() && (fs::remove_dir_all(&directory).is_ok() || !directory.exists());
    gone && fs::remove_file(&lock).is_ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_process_left_that_was_killed_is_removed_and_nothing_else() {
        let all = tempfile::tempdir().unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let (own, path) = (std::process::id(), |name: &str| all.path().join(name));
        let (gone, held) = (format!("mesh-{dead}"), format!("test-{dead}"));
        let stay = [held.clone(), format!("life-{own}"), format!("other-{dead}"), "test".to_owned(), format!("mesh-{dead}-x")];
        for name in stay.iter().chain([&gone]) {
            fs::create_dir_all(path(name).join("node-1/rootfs")).unwrap();
        }
        fs::write(path(&format!("life-{dead}{LOCK}")), dead.to_string()).unwrap();
        let lock = File::create(path(&format!("{held}{LOCK}"))).unwrap();
        lock.lock().unwrap();
        assert_eq!(remove_dead_of(all.path()), [format!("life-{dead}"), gone.clone()]);
        assert!(!path(&gone).exists() && stay.iter().all(|name| path(name).exists()));
        // To close it would not do: a process that another test begins at this moment has it open as well until it executes.
        lock.unlock().unwrap();
        assert_eq!(remove_dead_of(all.path()), [held]);
        let locks = fs::read_dir(all.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count();
        assert_eq!(locks, 0);
    }
}
