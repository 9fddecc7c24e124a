//! What a cluster could leave on the machine.

use std::path::Path;

/// What still has the name of the cluster: control groups, files, command lines.
pub fn left_of(name: &str) -> anyhow::Result<Vec<String>> {
    let entries =
        |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let groups = entries(Path::new("/sys/fs/cgroup"));
    let cache = ambit_cluster::programs::cache_directory()?.join("cluster");
    let files = groups.iter().flat_map(|tree| entries(tree)).chain(groups.clone()).chain(entries(&cache));
    let mut left: Vec<_> =
        files.filter(|path| path.to_string_lossy().contains(name)).map(|path| path.display().to_string()).collect();
    for process in entries(Path::new("/proc")) {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(name) {
            left.push(line);
        }
    }
    Ok(left)
}
