//! What is there of all waypoints, by watching what bears the label of this control plane.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::{Api, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use super::{MANAGED_BY, MANAGER, Part};
use crate::roots::pauses::Pauses;
use crate::source::NamespacedName;

/// Events that may wait.
const EVENTS: usize = 256;

type Key = (Part, NamespacedName);
type Event = (Part, watcher::Event<DynamicObject>);

/// The objects that bear the label, without their status.
#[derive(Debug, Default)]
pub(super) struct Owned {
    objects: BTreeMap<Key, Value>,
    /// Parts of which all objects are known.
    listed: BTreeSet<Part>,
    /// Objects that a list in progress has not named yet.
    unseen: BTreeMap<Part, BTreeSet<NamespacedName>>,
}

impl Owned {
    /// Whether all objects of all parts are known.
    pub(super) fn complete(&self) -> bool {
        self.listed.len() == Part::ALL.len()
    }

    pub(super) fn get(&self, part: Part, name: &NamespacedName) -> Option<&Value> {
        self.objects.get(&(part, name.clone()))
    }

    /// Notes an object as the API server gave it.
    pub(super) fn insert(&mut self, part: Part, object: DynamicObject) {
        let name = NamespacedName::of(&object.metadata);
        let Ok(mut value) = serde_json::to_value(object) else { return };
        if let Some(fields) = value.as_object_mut() {
            fields.remove("status");
        }
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        self.objects.insert((part, name), value);
    }

    pub(super) fn remove(&mut self, part: Part, name: &NamespacedName) {
        self.objects.remove(&(part, name.clone()));
    }

    /// All objects, by part and name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter()
    }

    /// Takes an event in; the name of the waypoint that it is about, `None` for those that are about all.
    pub(super) fn apply(&mut self, (part, event): Event) -> Option<NamespacedName> {
        match event {
            watcher::Event::Apply(object) => {
                let name = NamespacedName::of(&object.metadata);
                self.insert(part, object);
                Some(name)
            }
            watcher::Event::Delete(object) => {
                let name = NamespacedName::of(&object.metadata);
                self.remove(part, &name);
                Some(name)
            }
            watcher::Event::Init => {
                let held = self.objects.keys().filter(|(of, _)| *of == part).map(|(_, name)| name.clone());
                self.unseen.insert(part, held.collect());
                None
            }
            watcher::Event::InitApply(object) => {
                let name = NamespacedName::of(&object.metadata);
                if let Some(unseen) = self.unseen.get_mut(&part) {
                    unseen.remove(&name);
                }
                self.insert(part, object);
                Some(name)
            }
            watcher::Event::InitDone => {
                for name in self.unseen.remove(&part).into_iter().flatten() {
                    self.remove(part, &name);
                }
                self.listed.insert(part);
                None
            }
        }
    }
}

/// Watches all parts until it is dropped.
pub(super) struct Watches {
    events: mpsc::Receiver<Event>,
    _tasks: JoinSet<()>,
}

impl Watches {
    pub(super) fn start(client: &kube::Client) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let mut tasks = JoinSet::new();
        for part in Part::ALL {
            tasks.spawn(watch(client.clone(), part, sender.clone()));
        }
        Self { events, _tasks: tasks }
    }

    /// The next event; pends for ever once all watches have ended, which they do not by themselves.
    pub(super) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// An event that is there already.
    pub(super) fn at_hand(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

async fn watch(client: kube::Client, part: Part, events: mpsc::Sender<Event>) {
    let api: Api<DynamicObject> = Api::all_with(client, &part.resource());
    let config = watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}")).page_size(500);
    let mut stream = std::pin::pin!(watcher(api, config).backoff(Pauses::default()));
    let mut failing = false;
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                failing = false;
                if events.send((part, event)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(kind = part.kind(), %error, "cannot watch the objects of waypoints; trying again");
                }
            }
        }
    }
}
