//! The ConfigMaps with the roots, and with revocation lists, in every namespace: written by the leader, on change only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{CONFIG_MAP, CONFIG_MAP_KEY, CRL_CONFIG_MAP, keeper::Leads, pauses::Pauses, secret::CRL};
use crate::mesh::Mesh;

/// Under this name the API server shows what we wrote.
pub(super) const MANAGER: &str = "istiod-lite";
/// Writes at one time.
const AT_ONCE: usize = 16;
/// ConfigMaps that are asked for at one time: with revocation lists each may have a megabyte.
const PAGE: u32 = 50;
/// After something has changed, so long more of it is waited for before what is missing is looked for.
const SETTLE: Duration = Duration::from_millis(50);
/// Until a write has to be answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is missing is looked at this often when nothing else happens.
const LOOK: Duration = Duration::from_secs(2);
/// One namespace is written to no more often than this: when somebody else writes the same, there is no race between us.
const PAUSE: Duration = Duration::from_secs(5);

/// The watches begin anew after so long, and up to the double of it: one that went silent without an end, or that waits for versions from
/// before the API server got a backup of its data back, would never tell of a change again.
const ANEW: Duration = Duration::from_mins(10);

/// What every namespace is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bundle {
    /// The roots that are believed, PEM.
    pub roots: Arc<str>,
    /// Revocation lists, PEM; `None` when there are none, and then nothing is said about them.
    pub crl: Option<Arc<str>>,
}

/// Writes what is missing.
pub(super) struct Publisher {
    client: kube::Client,
    bundle: watch::Receiver<Bundle>,
    mesh: Arc<Mesh>,
    leads: Leads,
    roots: Seen,
    lists: Seen,
    written: HashMap<(&'static str, String), Instant>,
    unwatched: Option<String>,
}

/// SHA-256 of a content: of each namespace only this is kept, for every replica sees what anybody writes under these names.
type Digest = [u8; 32];

/// One ConfigMap in all namespaces, as the API server has it; `None` when it lacks the key.
#[derive(Debug, Default)]
struct Seen {
    content: BTreeMap<String, Option<Digest>>,
    /// While a list is read anew: what it has so far.
    reading: Option<BTreeMap<String, Option<Digest>>>,
    /// It was read once, whole.
    complete: bool,
}

impl Seen {
    fn apply(&mut self, key: &str, event: Event<ConfigMap>) {
        let content = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get(key)).map(|text| digest(text));
        let namespace = |map: &ConfigMap| map.metadata.namespace.clone().unwrap_or_default();
        match event {
            Event::Init => self.reading = Some(BTreeMap::new()),
            Event::InitApply(map) => {
                self.reading.get_or_insert_default().insert(namespace(&map), content(&map));
            }
            Event::InitDone => {
                self.content = self.reading.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(map) => {
                self.content.insert(namespace(&map), content(&map));
            }
            Event::Delete(map) => {
                self.content.remove(&namespace(&map));
            }
        }
    }

    /// The namespaces that do not have `wanted`.
    fn missing<'a>(&self, namespaces: &'a [String], wanted: &str) -> Vec<&'a String> {
        let wanted = Some(digest(wanted));
        let has = |namespace: &&String| self.content.get(*namespace).is_some_and(|has| *has == wanted);
        namespaces.iter().filter(|namespace| !has(namespace)).collect()
    }
}

fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

impl Publisher {
    pub fn new(client: kube::Client, bundle: watch::Receiver<Bundle>, mesh: Arc<Mesh>, leads: Leads) -> Self {
        let (roots, lists) = (Seen::default(), Seen::default());
        Self { client, bundle, mesh, leads, roots, lists, written: HashMap::new(), unwatched: None }
    }

    /// Writes what is missing for as long as it is polled, and tells `published` the bundle whose roots every namespace has.
    pub async fn run(mut self, published: watch::Sender<Option<Bundle>>) {
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        let named = |name: &str| {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}")).page_size(PAGE);
            watcher(maps.clone(), config).backoff(Pauses::default())
        };
        let mut roots = std::pin::pin!(named(CONFIG_MAP));
        let mut lists = std::pin::pin!(named(CRL_CONFIG_MAP));
        let mut generation = self.mesh.generation();
        let later = || Instant::now() + ANEW.mul_f64(1.0 + fastrand::f64());
        let mut anew = later();
        let mut due = Instant::now();
        loop {
            tokio::select! {
                Some(event) = roots.next() => match event {
                    Ok(event) => self.roots.apply(CONFIG_MAP_KEY, event),
                    Err(error) => self.unwatched(CONFIG_MAP, &error),
                },
                Some(event) = lists.next() => match event {
                    Ok(event) => self.lists.apply(CRL, event),
                    Err(error) => self.unwatched(CRL_CONFIG_MAP, &error),
                },
                Ok(()) = generation.changed() => {}
                Ok(()) = self.bundle.changed() => {}
                () = sleep_until(due) => {}
                () = sleep_until(anew) => {
                    roots.set(named(CONFIG_MAP));
                    lists.set(named(CRL_CONFIG_MAP));
                    anew = later();
                }
            }
            // One round for all that comes at once, as a list does, and none is put off for longer by what comes meanwhile.
            let now = Instant::now();
            due = due.min(now + SETTLE);
            if now < due {
                continue;
            }
            let whole = self.round().await;
            published.send_if_modified(|before| {
                let changed = *before != whole;
                *before = whole;
                changed
            });
            due = Instant::now() + LOOK;
        }
    }

    /// Said once for each text: a watch tries again for ever.
    fn unwatched(&mut self, name: &str, error: &watcher::Error) {
        let error = error.to_string();
        if self.unwatched.as_ref() != Some(&error) {
            tracing::warn!(error, "ConfigMaps {name} cannot be watched");
            self.unwatched = Some(error);
        }
    }

    /// Writes what is missing; the bundle whose roots every namespace has, if one.
    async fn round(&mut self) -> Option<Bundle> {
        // Before everything is listed nobody knows what is missing.
        if *self.mesh.generation().borrow() == 0 || !self.roots.complete || !self.lists.complete {
            return None;
        }
        let bundle = self.bundle.borrow_and_update().clone();
        let namespaces = namespaces(&self.mesh);
        let write = |name, key, text: &Arc<str>| {
            let text = Arc::clone(text);
            move |namespace: &String| Write { name, key, namespace: namespace.clone(), text: Arc::clone(&text) }
        };
        let roots = self.roots.missing(&namespaces, &bundle.roots);
        // Lists that are too long to be written, say, keep no root from changing.
        let whole = roots.is_empty().then(|| bundle.clone());
        let mut missing: Vec<Write> = roots.into_iter().map(write(CONFIG_MAP, CONFIG_MAP_KEY, &bundle.roots)).collect();
        if let Some(crl) = &bundle.crl {
            missing.extend(self.lists.missing(&namespaces, crl).into_iter().map(write(CRL_CONFIG_MAP, CRL, crl)));
        }
        let now = Instant::now();
        self.written.retain(|_, at| now < *at + PAUSE);
        missing.retain(|write| !self.written.contains_key(&(write.name, write.namespace.clone())));
        if !missing.is_empty() && (self.leads)() {
            self.write(missing).await;
        }
        whole
    }

    async fn write(&mut self, missing: Vec<Write>) {
        let now = Instant::now();
        self.written.extend(missing.iter().map(|write| ((write.name, write.namespace.clone()), now)));
        let (client, leads) = (&self.client, &self.leads);
        let writes = missing.into_iter().map(|write| async move {
            // The next leader may be at work already.
            if leads() { (write.apply(client).await, write) } else { (Ok(()), write) }
        });
        let done: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        let failed: Vec<_> = done.iter().filter_map(|(result, write)| Some((result.as_ref().err()?, write))).collect();
        metrics::counter!("istiod_lite_root_config_maps_written_total").increment((done.len() - failed.len()) as u64);
        match failed.first() {
            None => tracing::info!(namespaces = done.len(), "roots were written to ConfigMaps"),
            Some((error, write)) => {
                let map = format!("{}/{}", write.namespace, write.name);
                tracing::warn!(failed = failed.len(), of = done.len(), map, error, "a ConfigMap cannot be written");
            }
        }
    }
}

/// One ConfigMap that is to be written.
struct Write {
    name: &'static str,
    key: &'static str,
    namespace: String,
    text: Arc<str>,
}

impl Write {
    async fn apply(&self, client: &kube::Client) -> Result<(), String> {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &self.namespace);
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name, "labels": {"app.kubernetes.io/managed-by": MANAGER}},
            "data": {self.key: &*self.text},
        });
        let params = PatchParams::apply(MANAGER).force();
        match timeout(PATIENCE, maps.patch(self.name, &params, &Patch::Apply(&object))).await {
            Ok(Ok(_)) => Ok(()),
            // The namespace went while we wrote.
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// The namespaces that something can be written to.
fn namespaces(mesh: &Mesh) -> Vec<String> {
    let index = mesh.index();
    let stays = |namespace: &&Arc<k8s_openapi::api::core::v1::Namespace>| namespace.metadata.deletion_timestamp.is_none();
    index.objects().namespaces.values().filter(stays).filter_map(|namespace| namespace.metadata.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(namespace: &str, content: Option<&str>) -> ConfigMap {
        let data = content.map(|content| BTreeMap::from([(CONFIG_MAP_KEY.to_owned(), content.to_owned())]));
        let metadata = kube::api::ObjectMeta { namespace: Some(namespace.to_owned()), ..Default::default() };
        ConfigMap { metadata, data, ..ConfigMap::default() }
    }

    #[test]
    fn a_namespace_is_written_to_when_it_has_no_map_or_another_content_and_not_otherwise() {
        let mut seen = Seen::default();
        let namespaces = ["a", "b", "c", "d"].map(str::to_owned);
        let mut apply = |event| {
            seen.apply(CONFIG_MAP_KEY, event);
            (seen.complete, seen.missing(&namespaces, "roots").into_iter().cloned().collect::<String>())
        };
        assert_eq!(apply(Event::Init), (false, "abcd".to_owned()));
        assert_eq!(apply(Event::InitApply(map("a", Some("roots")))), (false, "abcd".to_owned()));
        apply(Event::InitApply(map("b", Some("other"))));
        apply(Event::InitApply(map("c", None)));
        assert_eq!(apply(Event::InitDone), (true, "bcd".to_owned()));
        assert_eq!(apply(Event::Apply(map("b", Some("roots")))), (true, "cd".to_owned()));
        assert_eq!(apply(Event::Apply(map("a", Some("changed by somebody")))), (true, "acd".to_owned()));
        assert_eq!(apply(Event::Delete(map("b", Some("roots")))), (true, "abcd".to_owned()));
        // While it is listed anew, what was known counts.
        apply(Event::Apply(map("d", Some("roots"))));
        apply(Event::Init);
        assert_eq!(apply(Event::InitApply(map("a", Some("roots")))), (true, "abc".to_owned()));
        assert_eq!(apply(Event::InitDone), (true, "bcd".to_owned()));
        // To lack the key is another thing than to have it empty.
        apply(Event::Apply(map("a", None)));
        assert_eq!(seen.missing(&namespaces[..1], ""), ["a"]);
    }
}
