//! What an `ambit up --kubernetes` does to a cluster, written in the cluster before it is done. After one that was killed, the next of
//! the same directory goes on with it, and `ambit up --kubernetes --remove` takes it out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::documents::ObjectName;
use crate::error::{Error, Result};
use crate::install::cluster::failed;
use crate::up::Watched;

/// The namespace of the records: every cluster has it.
const NAMESPACE: &str = "default";

/// Label of a record, and the key of its content.
const LABEL: &str = "up.ambit.dev/record";
const KEY: &str = "record";

/// Pause after which one that does not change is written anew, to say that somebody still has it.
const RENEW: Duration = Duration::from_secs(60);

/// One of another machine that was not written for so long has nobody any more: longer than an installation and its end take.
const DEAD: Duration = Duration::from_secs(900);

/// The largest one that is written, bytes: etcd takes 1.5 MiB.
const LARGEST: usize = 1 << 20;

/// What is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Content {
    /// The directory, in words.
    pub directory: String,
    /// Who has it: the machine, the process there, and when that was started, in ticks since the machine was.
    pub host: String,
    /// Tells that machine from others of its name, and the processes of a container from those of another; see [`place`].
    pub place: String,
    pub process: u32,
    pub started: u64,
    /// When it was written, in seconds since 1970.
    pub renewed: u64,
    /// Whether Ambit was installed by it.
    pub installed: bool,
    /// Definitions of kinds that it has made.
    pub definitions: Vec<Value>,
    /// What it has applied or is about to.
    pub objects: Vec<Value>,
}

impl Content {
    /// Whether the process that has it still runs, as far as that is known on `host`, in `place`, at this time.
    fn is_alive(&self, host: &str, place: &str, now: u64) -> bool {
        if (self.host.as_str(), self.place.as_str()) == (host, place) {
            return started(self.process).is_some_and(|started| started == self.started);
        }
        now.saturating_sub(self.renewed) < DEAD.as_secs()
    }
}

/// One of them, which is ours.
pub(super) struct Record {
    client: Client,
    owner: String,
    /// As the API server has it: nobody else may have changed it meanwhile.
    stored: ConfigMap,
    content: Content,
    written: Instant,
}

impl Record {
    /// Takes that of a directory, whether there was one or not.
    ///
    /// # Errors
    /// Somebody has it, or the API server does not let it be written.
    pub(super) async fn open(client: &Client, watched: &Watched) -> Result<Self> {
        let path = std::path::absolute(&watched.path).unwrap_or_else(|_| watched.path.clone());
        // The demonstration is the same objects wherever its files are.
        let directory = if watched.demo { "the demonstration".to_owned() } else { path.display().to_string() };
        let (host, place) = (host(), place());
        let owner = owner(&host, &directory);
        let api = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
        let found = api.get_opt(&name(&owner)).await.map_err(|error| doing("reading", &owner, error))?;
        let content = found.as_ref().map(content).unwrap_or_default();
        if found.is_some() && content.is_alive(&host, &place, now()) {
            return Err(Error::Invalid(format!(
                "`ambit up --kubernetes` of {directory} runs already in this cluster: process {} on {}\n  end that one first, or show another directory (--manifests)",
                content.process, content.host
            )));
        }
        let process = std::process::id();
        let content = Content { directory, host, place, process, started: started(process).unwrap_or_default(), ..content };
        let mut stored = found.unwrap_or_default();
        stored.metadata.name = Some(name(&owner));
        stored.metadata.labels = Some([(LABEL.to_owned(), owner.clone())].into());
        let mut record = Self { client: client.clone(), owner, stored, content, written: Instant::now() };
        record.save().await?;
        Ok(record)
    }

    /// Those in a cluster that nobody has any more, and sentences about the others.
    ///
    /// # Errors
    /// The API server does not list them.
    pub(super) async fn left_behind(client: &Client) -> Result<(Vec<Self>, Vec<String>)> {
        let api = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
        let listed = api.list(&ListParams::default().labels(LABEL)).await;
        let listed = listed.map_err(|error| failed(&format!("listing ConfigMaps in namespace {NAMESPACE}"), error))?;
        let (mut dead, mut alive) = (Vec::new(), Vec::new());
        let (host, place, now) = (host(), place(), now());
        for stored in listed.items {
            let content = content(&stored);
            let owner = stored.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).cloned().unwrap_or_default();
            if content.is_alive(&host, &place, now) {
                let Content { directory, process, host, .. } = &content;
                alive.push(format!("{directory}: process {process} on {host} is at work on it, and keeps what it has made"));
            } else {
                dead.push(Self { client: client.clone(), owner, stored, content, written: Instant::now() });
            }
        }
        Ok((dead, alive))
    }

    /// Which one, for the label of what it makes.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// What is in it.
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// The objects in it.
    pub(super) fn objects(&self) -> BTreeSet<ObjectName> {
        self.content.objects.iter().map(ObjectName::of).collect()
    }

    /// The definitions in it.
    pub(super) fn definitions(&self) -> BTreeSet<ObjectName> {
        self.content.definitions.iter().map(ObjectName::of).collect()
    }

    /// Changes it, in the cluster too if that makes a difference, or if it is time to say that somebody has it.
    ///
    /// # Errors
    /// The API server does not let it be written, or somebody else has taken it.
    pub(super) async fn change(&mut self, change: impl FnOnce(&mut Content)) -> Result<()> {
        let before = self.content.clone();
        change(&mut self.content);
        if self.content == before && self.written.elapsed() < RENEW {
            return Ok(());
        }
        let saved = self.save().await;
        if saved.is_err() {
            self.content = before;
        }
        saved
    }

    async fn save(&mut self) -> Result<()> {
        self.content.renewed = now();
        let text = serde_json::to_string(&self.content).map_err(|error| Error::part("writing what is applied", error))?;
        if text.len() > LARGEST {
            return Err(Error::Invalid(format!(
                "{} objects are too many to keep a record of\n  show a part of the directory (--manifests)",
                self.content.objects.len()
            )));
        }
        self.stored.data = Some([(KEY.to_owned(), text)].into());
        self.stored = match self.write().await {
            // Who was interrupted in it does not know what became of the last write.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.stored.metadata = self.ours_now().await?;
                self.write().await.map_err(|error| doing("writing", &self.owner, error))?
            }
            written => written.map_err(|error| doing("writing", &self.owner, error))?,
        };
        self.written = Instant::now();
        Ok(())
    }

    async fn write(&self) -> std::result::Result<ConfigMap, kube::Error> {
        let how = PostParams { field_manager: Some("ambit-up".to_owned()), ..PostParams::default() };
        match self.stored.metadata.resource_version {
            None => self.api().create(&how, &self.stored).await,
            Some(_) => self.api().replace(&name(&self.owner), &how, &self.stored).await,
        }
    }

    /// What the API server has of it now, if that is ours.
    async fn ours_now(&self) -> Result<ObjectMeta> {
        let found = self.api().get(&name(&self.owner)).await.map_err(|error| doing("reading", &self.owner, error))?;
        let theirs = content(&found);
        let ours = &self.content;
        let who = |content: &Content| (content.host.clone(), content.place.clone(), content.process, content.started);
        if who(&theirs) == who(ours) {
            return Ok(found.metadata);
        }
        Err(Error::Invalid(format!(
            "another `ambit up --kubernetes` of {} has begun meanwhile: process {} on {}\n  end that one first, or show another directory (--manifests)",
            ours.directory, theirs.process, theirs.host
        )))
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Deletes it: nothing of it is left in the cluster.
    ///
    /// # Errors
    /// The API server does not let it be deleted.
    pub(super) async fn delete(self) -> Result<()> {
        match self.api().delete(&name(&self.owner), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop).map_err(|error| doing("deleting", &self.owner, error)),
        }
    }
}

/// These names as they are written.
pub(super) fn references<'a>(names: impl IntoIterator<Item = &'a ObjectName>) -> Vec<Value> {
    let reference = |name: &ObjectName| {
        let ObjectName { api_version, kind, namespace, name, .. } = name;
        json!({ "apiVersion": api_version, "kind": kind, "metadata": { "namespace": namespace, "name": name } })
    };
    names.into_iter().map(reference).collect()
}

fn name(owner: &str) -> String {
    format!("ambit-up-{owner}")
}

fn doing(what: &str, owner: &str, error: kube::Error) -> Error {
    failed(&format!("{what} ConfigMap {NAMESPACE}/{}, which keeps what is applied", name(owner)), error)
}

fn content(stored: &ConfigMap) -> Content {
    let text = stored.data.as_ref().and_then(|data| data.get(KEY));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// A short name for a directory on a machine: the same in every version of this program (FNV-1a, 64 bits).
fn owner(host: &str, directory: &str) -> String {
    let bytes = host.bytes().chain([0]).chain(directory.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

fn host() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Where the numbers of processes are those that are seen here: since when the machine runs (random(4), `boot_id`), and which of its
/// namespaces of processes it is (pid_namespaces(7)).
fn place() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// When a process was started, which tells it from a later one of its number; nothing if there is none. proc(5), field 22 of `stat`.
fn started(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_record_is_asked_for_by_its_process_or_elsewhere_by_its_last_sign() {
        let ours = std::process::id();
        let here = |process, started| {
            let (host, place) = ("here".into(), "boot pid:[1]".into());
            Content { host, place, process, started, renewed: 1000, ..Content::default() }
        };
        let alive_here = |content: Content, now| content.is_alive("here", "boot pid:[1]", now);
        assert!(alive_here(here(ours, started(ours).unwrap()), 1_000_000));
        // Another process of the same number.
        assert!(!alive_here(here(ours, started(ours).unwrap() + 1), 1000));
        assert!(!alive_here(here(u32::MAX, 1), 1000));
        // Another machine, one of the same name, and another container of this one.
        for (host, place) in [("elsewhere", "boot pid:[1]"), ("here", "other pid:[1]"), ("here", "boot pid:[2]")] {
            assert!(here(u32::MAX, 1).is_alive(host, place, 1000 + DEAD.as_secs() - 1), "{host} {place}");
            assert!(!here(u32::MAX, 1).is_alive(host, place, 1000 + DEAD.as_secs()), "{host} {place}");
        }
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read_and_goes_by_its_last_sign() {
        let earlier = json!({"directory": "d", "host": host(), "process": std::process::id(), "started": 1, "renewed": 1000});
        let data = Some([(KEY.to_owned(), earlier.to_string())].into());
        let content = content(&ConfigMap { data, ..ConfigMap::default() });
        assert_eq!((content.directory.as_str(), content.place.as_str(), content.renewed), ("d", "", 1000));
        assert!(content.is_alive(&host(), &place(), 1000) && !content.is_alive(&host(), &place(), 1000 + DEAD.as_secs()));
    }

    #[test]
    fn names_are_read_as_they_were_written_and_each_directory_has_its_own() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        let names: BTreeSet<_> = [&pod, &namespace].map(ObjectName::of).into();
        assert_eq!(references(&names).iter().map(ObjectName::of).collect::<BTreeSet<_>>(), names);
        assert_eq!(owner("", ""), "af63bd4c8601b7df");
        assert_ne!(owner("a", "b"), owner("ab", ""));
    }
}
