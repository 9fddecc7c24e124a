//! Where the agent learns which pods there are and which of them are in the mesh.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use futures::future::BoxFuture;
use serde::Deserialize;

use crate::Error;

/// Label of namespaces and pods that says whether the mesh carries their traffic (wire contract, section 7).
pub(crate) const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// What the agent has to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The UID of the Kubernetes object.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// Whether the mesh carries its traffic: its own label, else its namespace's; never for a pod on the host's network. Nothing while its
    /// namespace is not known.
    pub enrolled: Option<bool>,
    /// Whether it is being deleted.
    pub ending: bool,
}

/// Tells of the pods of the node.
pub trait PodSource: Send + Sync {
    /// All pods, as they are known now.
    ///
    /// # Errors
    /// When they cannot be read; then nothing is known, and nothing is changed.
    fn pods(&self) -> Result<Vec<PodFacts>, Error>;

    /// A pod starts of which nothing is known: if what is known may be out of date, it is asked for anew.
    fn doubt(&self) {}

    /// A pod starts that is not in the mesh by what is known: whether that is so. Where what is known may be out of date, who decides it is
    /// asked; if it is out of date, all is asked for anew.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn confirm<'a>(&'a self, _outside: &'a PodFacts) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(std::future::ready(Ok(true)))
    }
}

/// Whether the mesh carries a pod's traffic, by the mode of its own label and by its namespace's, which is nothing while the namespace is not
/// known: it may just be being written.
pub(crate) fn enrolled(host_network: bool, own: Option<&str>, namespace: Option<Option<&str>>) -> Option<bool> {
    if host_network {
        return Some(false);
    }
    own.map_or(namespace, |own| Some(Some(own))).map(|mode| mode == Some("ambient"))
}

/// Pods and Namespaces as YAML or JSON files of one directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// What was read of each file, until it changes.
    read: Mutex<BTreeMap<PathBuf, (Stamp, Vec<Object>)>>,
}

type Stamp = (Option<SystemTime>, u64);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    labels: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: Option<String>,
    host_network: Option<bool>,
}

impl Directory {
    /// The files of this directory whose names end with `.yaml`, `.yml` or `.json`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: Mutex::default() }
    }

    fn objects(&self) -> Result<Vec<Object>, Error> {
        let failed = |path: &Path| Error::path("read", path);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut there = BTreeMap::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed(&self.path))? {
            let path = entry.map_err(failed(&self.path))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') || ![".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) {
                continue;
            }
            let metadata = match std::fs::metadata(&path) {
                // Removed meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                metadata => metadata.map_err(failed(&path))?,
            };
            let stamp = (metadata.modified().ok(), metadata.len());
            let known = read.remove(&path).filter(|(known, _)| *known == stamp);
            let entry = match known {
                Some(known) => known,
                None => (stamp, parse(&std::fs::read_to_string(&path).map_err(failed(&path))?, &path)?),
            };
            there.insert(path, entry);
        }
        *read = there;
        Ok(read.values().flat_map(|(_, objects)| objects).cloned().collect())
    }
}

fn parse(text: &str, path: &Path) -> Result<Vec<Object>, Error> {
    let wrong = |error: serde_saphyr::Error| Error::path("read", path)(std::io::Error::other(error.to_string()));
    let documents = text.trim_start_matches("---").split("\n---").filter(|document| !document.trim().is_empty());
    let read = documents.map(|document| serde_saphyr::from_str::<Option<Object>>(document).map_err(wrong));
    Ok(read.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

impl PodSource for Directory {
    fn pods(&self) -> Result<Vec<PodFacts>, Error> {
        let objects = self.objects()?;
        let mode = |object: &Object| object.metadata.labels.as_ref().and_then(|labels| labels.get(DATAPLANE_MODE)).cloned();
        let namespaces: BTreeMap<&str, Option<String>> = objects
            .iter()
            .filter(|object| object.kind == "Namespace")
            .map(|object| (object.metadata.name.as_str(), mode(object)))
            .collect();
        let pods = objects.iter().filter(|object| object.kind == "Pod").map(|object| {
            let Metadata { name, namespace, uid, deletion_timestamp, .. } = object.metadata.clone();
            let namespace = if namespace.is_empty() { "default".to_owned() } else { namespace };
            let own = mode(object);
            let account = object.spec.service_account_name.clone().filter(|account| !account.is_empty());
            PodFacts {
                // Files that people write have no UID.
                uid: if uid.is_empty() { format!("{namespace}/{name}") } else { uid },
                enrolled: enrolled(
                    object.spec.host_network.unwrap_or_default(),
                    own.as_deref(),
                    namespaces.get(namespace.as_str()).map(Option::as_deref),
                ),
                ending: deletion_timestamp.is_some(),
                service_account: account.unwrap_or_else(|| "default".to_owned()),
                namespace,
                name,
            }
        });
        Ok(pods.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_own_label_goes_before_its_namespaces_and_the_hosts_network_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pods.yaml");
        let pod = |name: &str, labels: &str, spec: &str| {
            format!(
                "---\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}, labels: {labels}}}\nspec: {spec}\n"
            )
        };
        let text = "kind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n".to_owned()
            + &pod("a", "{}", "{serviceAccountName: web, containers: []}")
            + &pod("b", "{istio.io/dataplane-mode: none}", "{}")
            + &pod("c", "{}", "{hostNetwork: true}");
        std::fs::write(&file, text).unwrap();
        let source = Directory::new(directory.path());
        let pods = source.pods().unwrap();
        let found: Vec<_> = pods.iter().map(|pod| (pod.uid.as_str(), pod.service_account.as_str(), pod.enrolled)).collect();
        assert_eq!(found, [("u-a", "web", Some(true)), ("u-b", "default", Some(false)), ("u-c", "default", Some(false))]);
        let text =
            pod("a", "{}", "{}") + &pod("b", "{istio.io/dataplane-mode: none}", "{}") + &pod("c", "{}", "{hostNetwork: true}");
        std::fs::write(&file, text).unwrap();
        let without: Vec<_> = source.pods().unwrap().iter().map(|pod| pod.enrolled).collect();
        assert_eq!(without, [None, Some(false), Some(false)], "without its namespace nothing is known of a pod");
        std::fs::write(&file, "kind: Pod\nmetadata: {name: [}\n").unwrap();
        assert!(source.pods().is_err(), "what cannot be read is not the same as no pods");
    }
}
