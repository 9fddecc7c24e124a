//! Pods that ran before the agent did: nobody tells of their sandboxes, but their processes show whose they are and where.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use ambit_runtime::netns::NetNs;

/// Finds pods that nobody told of.
#[derive(Debug, Clone)]
pub struct Before {
    /// Where the processes of the node show.
    pub proc: PathBuf,
    /// The node's own network: pods on it are left out.
    pub host: NetNs,
}

impl Before {
    /// The network namespaces of these pods, by UID: that of the first process of each, as long as there is one, and it is not the node's.
    /// Later ones may have gone elsewhere. Reads a file of every process of the node.
    #[must_use]
    pub fn find(&self, uids: &BTreeSet<String>) -> BTreeMap<String, PathBuf> {
        let entries = std::fs::read_dir(&self.proc).into_iter().flatten();
        let number = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<u32>().ok();
        let wanted = |process: u32| {
            let cgroups = std::fs::read_to_string(self.proc.join(process.to_string()).join("cgroup")).ok()?;
            let uid = uid(&cgroups).filter(|uid| uids.contains(uid))?;
            Some((self.begun(process), process, uid))
        };
        let mut processes: Vec<(u64, u32, String)> = entries.filter_map(number).filter_map(wanted).collect();
        processes.sort_unstable();
        // A pod's first process stays as long as the pod does, and in its namespace; any other one may be in somebody else's.
        let mut first = BTreeMap::new();
        for (_, process, uid) in processes {
            first.entry(uid).or_insert(process);
        }
        let shown = first.into_iter().map(|(uid, process)| (uid, self.proc.join(process.to_string()).join("ns/net")));
        shown.filter(|(_, path)| NetNs::open(path).is_ok_and(|netns| netns != self.host)).collect()
    }

    /// When a process began, in ticks since the machine did (`proc_pid_stat(5)`, field 22); last if that cannot be read.
    fn begun(&self, process: u32) -> u64 {
        let stat = std::fs::read_to_string(self.proc.join(process.to_string()).join("stat")).unwrap_or_default();
        // The name before may have anything in it but its own closing bracket at the end.
        let begun = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok());
        begun.unwrap_or(u64::MAX)
    }
}

/// The UID of the pod that a process with these control groups belongs to: kubelets put `pod<uid>` into one part of the path, with
/// underscores for hyphens where systemd makes the groups. Elsewhere than below the kubelet's own, others can make
/// such groups.
fn uid(cgroups: &str) -> Option<String> {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let kubelets = paths.filter(|path| path.trim_start_matches("/..").starts_with("/kube") && path.contains("kubepods"));
    kubelets.flat_map(|path| path.split('/')).find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let at = if part.starts_with("pod") { 0 } else { part.find("-pod")? + 1 };
        let uid = part.get(at + 3..)?.replace('_', "-");
        (!uid.is_empty()).then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_of_a_pod_is_read_however_its_groups_are_made() {
        let id = "2f1c9e52-7d5c-4f0b-9d0e-0a4c1d2e3f40";
        for cgroups in [
            format!("0::/kubepods/burstable/pod{id}/2a3b\n"),
            format!("0::/kubepods/pod{id}\n"),
            format!(
                "12:cpu:/a\n0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-2a.scope\n",
                id.replace('-', "_")
            ),
            format!("0::/../kubepods-besteffort-pod{}.slice/cri-2a.scope", id.replace('-', "_")),
        ] {
            assert_eq!(uid(&cgroups).as_deref(), Some(id), "{cgroups}");
        }
        for cgroups in [
            "",
            "0::/",
            "0::/user.slice/podman-1.scope",
            "0::/user.slice/kubepods/pod2f1c9e52-7d5c-4f0b-9d0e-0a4c1d2e3f40",
            "garbage",
            "0::/kubepods.slice/kubepods-pod.slice",
        ] {
            assert_eq!(uid(cgroups).filter(|uid| uid.len() > 20), None, "{cgroups}");
        }
    }
}
