//! What is known of the node's pods and of all namespaces, from what the API server told.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{ResourceExt, core::PartialObjectMeta, runtime::watcher::Event};

use crate::{
    Error,
    source::{DATAPLANE_MODE, PodFacts, enrolled},
};

/// The annotation by which others know whether a pod is captured (wire contract, sections 5 and 7).
pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";

/// A pod, as far as the agent is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    namespace: String,
    name: String,
    service_account: String,
    /// Its own label.
    mode: Option<String>,
    host_network: bool,
    ending: bool,
    /// All its programs have ended for good: there is nothing to capture, nor will be.
    finished: bool,
    /// Its annotation [`REDIRECTION`].
    redirection: Option<String>,
}

/// Objects of one kind by their key, whole or still being listed.
#[derive(Debug)]
struct Kept<T> {
    objects: BTreeMap<String, T>,
    /// What came of the list that is under way, which takes the place of `objects` when it is whole.
    list: Option<BTreeMap<String, T>>,
    listed: bool,
    /// Why the last attempt to hear of them failed.
    failure: Option<String>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), list: None, listed: false, failure: None }
    }
}

impl<T: PartialEq> Kept<T> {
    /// Takes in what the watch told; whether anything is different now.
    fn apply<K>(&mut self, event: Event<K>, read: impl Fn(K) -> (String, T)) -> bool {
        match event {
            Event::Apply(object) => {
                self.failure = None;
                let (key, value) = read(object);
                let news = self.objects.get(&key) != Some(&value);
                self.objects.insert(key, value);
                news
            }
            Event::Delete(object) => self.objects.remove(&read(object).0).is_some(),
            Event::Init => {
                self.list = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                let (key, value) = read(object);
                self.list.get_or_insert_default().insert(key, value);
                false
            }
            Event::InitDone => {
                self.failure = None;
                let now = self.list.take().unwrap_or_default();
                let news = !self.listed || now != self.objects;
                self.objects = now;
                self.listed = true;
                news
            }
        }
    }
}

/// The pods of the node by UID, and the labels of namespaces.
#[derive(Debug, Default)]
pub(super) struct Store {
    pods: Kept<Known>,
    namespaces: Kept<Option<String>>,
}

/// What the API server has of a pod that the agent may annotate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Annotated {
    pub(super) facts: PodFacts,
    /// Its annotation.
    pub(super) redirection: Option<String>,
}

impl Store {
    /// The watch of pods told something.
    pub(super) fn pod(&mut self, event: Event<Pod>) -> bool {
        self.pods.apply(event, |pod| {
            let uid = pod.uid().unwrap_or_default();
            let spec = pod.spec.as_ref();
            let account = spec.and_then(|spec| spec.service_account_name.clone()).filter(|account| !account.is_empty());
            let known = Known {
                namespace: pod.namespace().unwrap_or_default(),
                name: pod.name_any(),
                service_account: account.unwrap_or_else(|| "default".to_owned()),
                mode: pod.labels().get(DATAPLANE_MODE).cloned(),
                host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
                ending: pod.metadata.deletion_timestamp.is_some(),
                finished: matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")),
                redirection: pod.annotations().get(REDIRECTION).cloned(),
            };
            (uid, known)
        })
    }

    /// The watch of namespaces told something.
    pub(super) fn namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>) -> bool {
        self.namespaces.apply(event, |namespace| (namespace.name_any(), namespace.labels().get(DATAPLANE_MODE).cloned()))
    }

    /// Whether it is by its namespace that a pod is in the mesh or not.
    pub(super) fn is_by_namespace(&self, uid: &str) -> bool {
        self.pods.objects.get(uid).is_none_or(|pod| !pod.host_network && pod.mode.is_none())
    }

    /// Whether there is a pod whose namespace is not known.
    pub(super) fn lacks_namespace(&self) -> bool {
        self.pods.objects.values().any(|pod| !self.namespaces.objects.contains_key(&pod.namespace))
    }

    /// The watch of pods, or of namespaces, failed. What is known stays.
    pub(super) fn failed(&mut self, pods: bool, why: String) {
        *(if pods { &mut self.pods.failure } else { &mut self.namespaces.failure }) = Some(why);
    }

    /// All pods that run or are to run.
    pub(super) fn pods(&self) -> Result<Vec<PodFacts>, Error> {
        Ok(self.annotated()?.into_iter().map(|pod| pod.facts).collect())
    }

    /// All pods that run or are to run, with what the agent may write on them.
    ///
    /// # Errors
    /// Until both kinds were told of whole: a pod of which nothing is known yet may be in the mesh.
    pub(super) fn annotated(&self) -> Result<Vec<Annotated>, Error> {
        for (what, listed, failure) in [
            ("pods of the node", self.pods.listed, &self.pods.failure),
            ("namespaces", self.namespaces.listed, &self.namespaces.failure),
        ] {
            if !listed {
                let why = failure.as_deref().unwrap_or("it has not answered yet");
                return Err(Error::Kubernetes(format!("the API server has not told of the {what}: {why}")));
            }
        }
        let pods = self.pods.objects.iter().filter(|(_, pod)| !pod.finished);
        Ok(pods.map(|(uid, pod)| self.with_annotation(uid, pod)).collect())
    }

    /// The pod that has a UID, if it runs or is to run.
    pub(super) fn one(&self, uid: &str) -> Option<Annotated> {
        let pod = self.pods.objects.get(uid).filter(|pod| !pod.finished)?;
        Some(self.with_annotation(uid, pod))
    }

    fn with_annotation(&self, uid: &str, pod: &Known) -> Annotated {
        let namespace = self.namespaces.objects.get(&pod.namespace).map(Option::as_deref);
        Annotated {
            facts: PodFacts {
                uid: uid.to_owned(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                service_account: pod.service_account.clone(),
                enrolled: enrolled(pod.host_network, pod.mode.as_deref(), namespace),
                ending: pod.ending,
            },
            redirection: pod.redirection.clone(),
        }
    }

    /// Notes an annotation that was written: the watch tells of it later.
    pub(super) fn annotate(&mut self, uid: &str, value: Option<&str>) {
        if let Some(pod) = self.pods.objects.get_mut(uid) {
            pod.redirection = value.map(str::to_owned);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, change: Value) -> Pod {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "shop", "uid": format!("u-{name}"), "labels": {}, "annotations": {} },
            "spec": { "containers": [], "serviceAccountName": "web" },
        });
        for part in ["metadata", "spec", "status"] {
            for (key, value) in change[part].as_object().into_iter().flatten() {
                pod[part][key] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn namespace(mode: &str) -> PartialObjectMeta<Namespace> {
        serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": { "name": "shop", "labels": { DATAPLANE_MODE: mode } },
        }))
        .unwrap()
    }

    /// A store with a namespace of this mode, and these pods.
    fn listed(mode: &str, pods: Vec<Pod>) -> Store {
        let mut store = Store::default();
        store.namespace(Event::Init);
        store.namespace(Event::InitApply(namespace(mode)));
        store.namespace(Event::InitDone);
        store.pod(Event::Init);
        pods.into_iter().for_each(|pod| _ = store.pod(Event::InitApply(pod)));
        store.pod(Event::InitDone);
        store
    }

    fn enrolled_pods(store: &Store) -> Vec<(String, Option<bool>)> {
        store.pods().unwrap().into_iter().map(|pod| (pod.name, pod.enrolled)).collect()
    }

    #[test]
    fn nothing_is_known_before_both_kinds_are_listed_and_it_is_said_why() {
        let mut store = Store::default();
        store.pod(Event::Init);
        assert!(!store.pod(Event::InitApply(pod("a", json!({})))));
        assert!(store.pod(Event::InitDone));
        store.failed(false, "namespaces is forbidden".to_owned());
        let error = store.pods().unwrap_err().to_string();
        assert!(error.contains("namespaces") && error.contains("forbidden"), "{error}");
        assert!(store.namespace(Event::InitDone), "no namespaces are told of, too");
        assert_eq!(enrolled_pods(&store), [("a".to_owned(), None)], "of its namespace nothing is known");
    }

    #[test]
    fn a_pods_own_label_goes_before_its_namespaces_and_the_hosts_network_is_left_alone() {
        let pods = vec![
            pod("a", json!({})),
            pod("b", json!({ "metadata": { "labels": { DATAPLANE_MODE: "none" } } })),
            pod("c", json!({ "spec": { "hostNetwork": true } })),
            pod("finished", json!({ "status": { "phase": "Succeeded" } })),
        ];
        let mut store = listed("ambient", pods);
        let [a, b, c] = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(enrolled_pods(&store), [(a.clone(), Some(true)), (b.clone(), Some(false)), (c.clone(), Some(false))]);
        assert!(store.namespace(Event::Apply(namespace("none"))));
        assert_eq!(enrolled_pods(&store)[0].1, Some(false));
        assert!(!store.namespace(Event::Apply(namespace("none"))), "the same again is no news");
        assert!(["u-a", "u-never-heard-of"].iter().all(|uid| store.is_by_namespace(uid)));
        assert!(!["u-b", "u-c"].iter().any(|uid| store.is_by_namespace(uid)));
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone_and_until_it_is_whole_the_old_one_counts() {
        let mut store = listed("ambient", vec![pod("a", json!({})), pod("b", json!({}))]);
        store.pod(Event::Init);
        store.pod(Event::InitApply(pod("b", json!({}))));
        assert_eq!(store.pods().unwrap().len(), 2);
        assert!(store.pod(Event::InitDone));
        assert_eq!(enrolled_pods(&store), [("b".to_owned(), Some(true))]);
        assert!(store.pod(Event::Delete(pod("b", json!({})))));
        assert!(store.pods().unwrap().is_empty());
    }

    #[test]
    fn an_annotation_that_was_written_is_known_before_the_watch_tells() {
        let mut store = listed("ambient", vec![pod("a", json!({}))]);
        store.annotate("u-a", Some("enabled"));
        assert_eq!(store.annotated().unwrap()[0].redirection.as_deref(), Some("enabled"));
        assert_eq!(store.one("u-a").as_ref(), store.annotated().unwrap().first());
        assert_eq!(store.one("u-b"), None);
        let told = pod("a", json!({ "metadata": { "annotations": { REDIRECTION: "enabled" } } }));
        assert!(!store.pod(Event::Apply(told)));
    }
}
