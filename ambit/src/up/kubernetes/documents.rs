//! The user's directory as objects for an API server: which files there are, what is in them, and what is changed to fit a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::install::chart;

/// No larger file is read, bytes.
const MAX_FILE: u64 = 16 << 20;

/// No more files are read.
const MAX_FILES: usize = 2000;

/// A file whose time stamp is younger than this when read may change again within the same stamp.
const STAMP_SLACK: Duration = Duration::from_secs(2);

/// Annotation of pods whose programs have to be installed on a machine without images.
const PROGRAMS: &str = "local.ambit.dev/programs";

/// An object by its kind and name. In the order in which objects are applied; they are deleted the other way round.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectName {
    rank: u8,
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace as written; empty if none is.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// The rank of what runs programs: all that says how has to be there before.
const WORKLOADS: u8 = 4;

impl ObjectName {
    /// The name of an object that has kind and name.
    pub(super) fn of(object: &Value) -> Self {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = text("/kind");
        let rank = match kind.as_str() {
            "Namespace" => 0,
            "CustomResourceDefinition" => 1,
            "ServiceAccount" | "Secret" | "ConfigMap" | "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => 2,
            "Pod" | "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet" | "Job" | "CronJob" => WORKLOADS,
            _ => 3,
        };
        let [api_version, namespace, name] = ["/apiVersion", "/metadata/namespace", "/metadata/name"].map(text);
        Self { rank, api_version, kind, namespace, name }
    }

    /// What is deleted together, in this order: what the rest is for, all else, definitions once there are no objects of them, and last
    /// of all what all of it was in.
    pub(super) fn stages() -> [RangeInclusive<u8>; 4] {
        [WORKLOADS..=WORKLOADS, 2..=3, 1..=1, 0..=0]
    }

    /// Whether it belongs to one of them.
    pub(super) fn is_of(&self, stage: &RangeInclusive<u8>) -> bool {
        stage.contains(&self.rank)
    }

    /// Whether it runs programs.
    pub(super) fn is_workload(&self) -> bool {
        self.rank == WORKLOADS
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, namespace, name, .. } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// Objects by their name.
pub(super) type Objects = BTreeMap<ObjectName, Value>;

/// What a pod's node and images are looked for in.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    /// Names of the nodes.
    pub nodes: BTreeSet<String>,
    /// Whether images come from registries; those of `ambit cluster` do not.
    pub registries: bool,
}

/// What is to be in the cluster, and what is wrong with that.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// The objects.
    pub objects: Objects,
    /// What is wrong with the files, was changed or left out, in words.
    pub notices: Vec<String>,
}

/// The files of a directory. One that cannot be read or understood keeps what it said before.
pub(super) struct Files {
    directory: PathBuf,
    stamps: BTreeMap<PathBuf, Stamp>,
    objects: BTreeMap<PathBuf, Vec<Value>>,
    problems: BTreeMap<PathBuf, String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// Whether it was old enough to tell the next change.
    settled: bool,
}

impl Files {
    /// Those of a directory, none of which is read yet.
    pub(super) fn new(directory: &Path) -> Self {
        let (stamps, objects, problems) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { directory: directory.to_owned(), stamps, objects, problems }
    }

    /// Reads what changed, and gives all that is to be in the cluster.
    pub(super) fn read(&mut self, room: &Room) -> Wanted {
        let mut found = BTreeMap::new();
        let complete = list(&self.directory, &mut found);
        match complete {
            Ok(()) => {
                self.problems.retain(|path, _| found.contains_key(path));
                self.stamps.retain(|path, _| found.contains_key(path));
                self.objects.retain(|path, _| found.contains_key(path));
            }
            // Not seeing a file is no reason to delete what it made.
            Err(problem) => _ = self.problems.insert(self.directory.clone(), problem),
        }
        for (path, stamp) in found {
            if stamp.settled && self.stamps.get(&path) == Some(&stamp) {
                continue;
            }
            match objects(&path, stamp.length) {
                Ok(objects) => {
                    self.problems.remove(&path);
                    self.objects.insert(path.clone(), objects);
                }
                Err(problem) => _ = self.problems.insert(path.clone(), problem),
            }
            self.stamps.insert(path, stamp);
        }
        let mut wanted = self.fitted(room);
        wanted.notices.extend(self.problems.values().cloned());
        wanted
    }

    fn fitted(&self, room: &Room) -> Wanted {
        let mut wanted = Wanted::default();
        for (path, objects) in &self.objects {
            for object in objects {
                let name = ObjectName::of(object);
                let mut object = object.clone();
                let fit = fit(&mut object, room);
                if let Some(changed) = fit.notice {
                    wanted.notices.push(format!("{name}: {changed}"));
                }
                if !fit.left_out && wanted.objects.insert(name.clone(), object).is_some() {
                    wanted.notices.push(format!("{}: {name} is there twice; this one counts", path.display()));
                }
            }
        }
        wanted
    }
}

/// What was done with an object.
#[derive(Debug, Default)]
struct Fit {
    left_out: bool,
    notice: Option<String>,
}

/// Makes a pod one that can run in a cluster.
fn fit(object: &mut Value, room: &Room) -> Fit {
    if object["kind"] != "Pod" {
        return Fit::default();
    }
    let foreign = object.pointer("/metadata/annotations").is_some_and(|annotations| annotations.get(PROGRAMS).is_some());
    if foreign && !room.registries {
        let image = object.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default();
        let notice = Some(format!("left out, as its image {image} comes from a registry, which this cluster does not reach"));
        return Fit { left_out: true, notice };
    }
    let node = object.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned);
    match node.filter(|node| !room.nodes.contains(node)) {
        Some(node) => {
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("nodeName");
            }
            Fit { left_out: false, notice: Some(format!("there is no {node} here; the scheduler chooses a node")) }
        }
        None => Fit::default(),
    }
}

/// Finds the YAML files below a directory, as `ambit istiod --source-dir` does.
fn list(directory: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> Result<(), String> {
    let failed = |cause: std::io::Error| format!("{} cannot be read: {cause}", directory.display());
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // One that vanished meanwhile is not there. Links to directories could lead in circles.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if metadata.is_dir() && !link {
            list(&path, found)?;
        } else if metadata.is_file() && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            if found.len() >= MAX_FILES {
                return Err(format!("{} has more than {MAX_FILES} files; the others are left out", directory.display()));
            }
            let modified = metadata.modified().ok();
            let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
            let settled = age.is_some_and(|age| age > STAMP_SLACK);
            found.insert(path, Stamp { modified, length: metadata.len(), settled });
        }
    }
    Ok(())
}

fn objects(path: &Path, length: u64) -> Result<Vec<Value>, String> {
    let file = path.display().to_string();
    if length > MAX_FILE {
        return Err(format!("{file} is larger than {} MiB", MAX_FILE >> 20));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{file} cannot be read: {error}"))?;
    chart::documents(&file, &text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn room(nodes: &[&str], registries: bool) -> Room {
        Room { nodes: nodes.iter().map(|node| (*node).to_owned()).collect(), registries }
    }

    fn names(wanted: &Wanted) -> Vec<String> {
        wanted.objects.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn what_says_how_comes_before_what_runs_and_a_broken_file_keeps_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
        write(
            "a.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\n---\n# nothing\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\n",
        );
        write("b.yml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
        write("c.yaml.off", "apiVersion: v1\nkind: Namespace\nmetadata: {name: off}\n");
        let (mut files, room) = (Files::new(directory.path()), room(&[], true));
        let wanted = files.read(&room);
        assert_eq!(names(&wanted), ["Namespace shop", "Service shop/s", "Pod shop/p"]);
        assert!(wanted.notices.is_empty(), "{:?}", wanted.notices);

        write("a.yaml", "apiVersion: v1\nkind: [");
        let broken = files.read(&room);
        assert_eq!(broken.objects, wanted.objects);
        assert!(broken.notices.len() == 1 && broken.notices[0].contains("a.yaml"), "{:?}", broken.notices);

        std::fs::remove_file(directory.path().join("a.yaml")).unwrap();
        let less = files.read(&room);
        assert_eq!((names(&less), less.notices), (vec!["Namespace shop".to_owned()], Vec::new()));
    }

    #[test]
    fn a_directory_that_cannot_be_read_deletes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n").unwrap();
        let (mut files, room) = (Files::new(directory.path()), room(&[], true));
        let wanted = files.read(&room);
        drop(directory);
        let gone = files.read(&room);
        assert_eq!(gone.objects, wanted.objects);
        assert_eq!(gone.notices.len(), 1, "{:?}", gone.notices);
    }

    #[test]
    fn a_pod_runs_where_there_are_its_node_and_its_image() {
        let pod = || {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {PROGRAMS: "curl"}},
                   "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "curl:8"}]}})
        };
        let mut there = pod();
        let fits = fit(&mut there, &room(&["node-1"], true));
        assert!(there == pod() && !fits.left_out && fits.notice.is_none(), "{fits:?}");

        let mut elsewhere = pod();
        let moved = fit(&mut elsewhere, &room(&["worker"], true));
        assert!(elsewhere["spec"].get("nodeName").is_none() && moved.notice.unwrap().contains("node-1"));

        let unreachable = fit(&mut pod(), &room(&["node-1"], false));
        assert!(unreachable.left_out && unreachable.notice.unwrap().contains("curl:8"));
    }

    #[test]
    fn the_demonstration_is_understood_whole() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
        let wanted = Files::new(&directory).read(&room(&["node-1", "node-2"], false));
        assert_eq!(wanted.notices.len(), 2, "{:?}", wanted.notices);
        let pods = wanted.objects.keys().filter(|name| name.is_workload()).count();
        assert!(pods >= 9 && wanted.objects.len() > 30, "{:?}", names(&wanted));
        assert!(wanted.objects.keys().any(|name| name.to_string() == "Gateway billing/waypoint"));
    }
}
