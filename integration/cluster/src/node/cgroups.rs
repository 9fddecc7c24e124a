//! Control groups of the nodes: the one thing of theirs that no namespace ends with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Where the kernel shows them.
const ROOT: &str = "/sys/fs/cgroup";

/// Time for the kernel to let go of the last processes of a group.
const PATIENCE: Duration = Duration::from_secs(5);

/// The directories of a node's group: one with version 2, one for each controller with version 1.
pub(crate) fn of_node(cluster: &str, number: u8) -> Result<Vec<PathBuf>> {
    let roots = hierarchies(Path::new(ROOT))?;
    Ok(roots.into_iter().map(|root| root.join(format!("{}{number}", prefix(cluster)))).collect())
}

/// What the names of a cluster's groups begin with; the number of a node follows.
fn prefix(cluster: &str) -> String {
    format!("ambit-{cluster}-node-")
}

/// The roots of all trees that groups can be made in.
fn hierarchies(root: &Path) -> Result<Vec<PathBuf>> {
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(Error::path("reading", root))?.flatten() {
        // Of controllers that share a tree, such as cpu and cpuacct, one is a link to the other or to both.
        let is_tree = entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.path().join("cgroup.procs").exists();
        if is_tree {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes what is left of the groups of a cluster whose processes are gone, and gives those that could not be.
pub(crate) async fn remove(cluster: &str) -> Vec<PathBuf> {
    let began = Instant::now();
    loop {
        let left = remove_now(cluster);
        if left.is_empty() || began.elapsed() > PATIENCE {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Removes what can be removed at once, and gives the rest.
pub(crate) fn remove_now(cluster: &str) -> Vec<PathBuf> {
    remove_below(Path::new(ROOT), cluster)
}

fn remove_below(root: &Path, cluster: &str) -> Vec<PathBuf> {
    let prefix = prefix(cluster);
    // The name of one cluster may begin with another's.
    let of_cluster = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(&prefix).is_some_and(|number| number.parse::<u8>().is_ok())
    };
    let groups =
        hierarchies(root).unwrap_or_default().into_iter().flat_map(|tree| children(&tree)).filter(|path| of_cluster(path));
    groups.filter(|group| !remove_tree(group)).collect()
}

/// Removes a group after the groups in it. Its files are the kernel's and vanish with it.
fn remove_tree(group: &Path) -> bool {
    children(group).iter().all(|child| remove_tree(child)) && fs::remove_dir(group).is_ok()
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_cluster_are_removed_and_those_of_others_are_not() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("memory");
        for group in ["ambit-one-node-1/pod/container", "ambit-one-two-node-1", "ambit-one-node-1-node-1", "others"] {
            fs::create_dir_all(tree.join(group)).unwrap();
        }
        fs::write(tree.join("cgroup.procs"), "").unwrap();
        assert_eq!(remove_below(root.path(), "one"), Vec::<PathBuf>::new());
        assert!(!tree.join("ambit-one-node-1").exists());
        for other in ["ambit-one-two-node-1", "ambit-one-node-1-node-1", "others"] {
            assert!(tree.join(other).exists(), "{other} is gone");
        }
    }

    #[test]
    fn with_the_second_version_there_is_one_tree() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        assert_eq!(hierarchies(root.path()).unwrap(), [root.path()]);
    }
}
