//! Makes the objects of a cluster what the files of a directory say, again and again. What it is about to apply is in its [`Record`] before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::documents::{Files, ObjectName, Objects, Room, Wanted};
use super::objects::{AnyObjects, Taken, is_immutable, is_unknown};
use super::record::{Record, references};
use super::{removal, unmet};
use crate::install::cluster::failed;

/// Pause between two looks at the directory.
const LOOK: Duration = Duration::from_millis(300);

/// Pause until something that was refused is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Pause between two questions what the control plane makes of the objects.
const CONDITIONS: Duration = Duration::from_secs(3);

/// How long waypoints may take before what they serve starts without them.
const WAYPOINTS: Duration = Duration::from_secs(90);

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    /// Whether everything was applied, or refused, once.
    pub complete: bool,
    /// Namespaces of the objects.
    pub namespaces: BTreeSet<String>,
    /// What is wrong, in words.
    pub notices: Vec<String>,
    /// What it waits for.
    pub waits_for: Option<String>,
}

/// An object that was refused.
struct Refused {
    object: Value,
    reason: String,
    at: Instant,
}

/// What it has done so far.
pub(super) struct Applier {
    objects: AnyObjects,
    files: Files,
    room: Room,
    record: Record,
    /// What was applied, as it was; of one that somebody who was killed has applied that is not known.
    applied: BTreeMap<ObjectName, Value>,
    refused: BTreeMap<ObjectName, Refused>,
    /// What no file says any more and is not gone yet.
    going: BTreeSet<ObjectName>,
    /// What no file says any more and stays, in words.
    stays: BTreeMap<ObjectName, String>,
    /// Why it does nothing now.
    halted: Option<String>,
    /// What the control plane says of the objects, and when it was asked.
    unmet: (Vec<String>, Option<Instant>),
    state: watch::Sender<State>,
}

impl Applier {
    /// One that goes on with what is in the record.
    pub(super) fn new(objects: AnyObjects, files: Files, room: Room, record: Record) -> Self {
        let applied = record.objects().into_iter().map(|name| (name, Value::Null)).collect();
        Self {
            objects,
            files,
            room,
            record,
            applied,
            refused: BTreeMap::new(),
            going: BTreeSet::new(),
            stays: BTreeMap::new(),
            halted: None,
            unmet: (Vec::new(), None),
            state: watch::Sender::default(),
        }
    }

    /// What it did it with, and the record, in which all is that it has applied.
    pub(super) fn into_parts(self) -> (AnyObjects, Record) {
        (self.objects, self.record)
    }

    /// How far it is, now and later.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Goes on until it is told to stop, between two objects. Whoever calls it takes it back, to take out what it applied.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Self {
        let began = Instant::now();
        // What is in force before a program starts holds from its first connection on.
        while !stop.is_cancelled() {
            let wanted = self.files.read(&self.room);
            self.step(&wanted, false, &stop).await;
            let waits_for = self.unready_waypoint(&wanted.objects).await.filter(|_| began.elapsed() < WAYPOINTS);
            let ready = waits_for.is_none();
            self.tell(&wanted, false, waits_for);
            if ready {
                break;
            }
            pause(&stop).await;
        }
        while !stop.is_cancelled() {
            let wanted = self.files.read(&self.room);
            self.step(&wanted, true, &stop).await;
            if self.unmet.1.is_none_or(|at| at.elapsed() > CONDITIONS) {
                self.unmet = (self.conditions().await, Some(Instant::now()));
            }
            self.tell(&wanted, true, None);
            pause(&stop).await;
        }
        self
    }

    fn tell(&self, wanted: &Wanted, complete: bool, waits_for: Option<String>) {
        let namespace = |name: &ObjectName| match (name.kind.as_str(), name.namespace.as_str()) {
            ("Namespace", _) => name.name.clone(),
            (_, "") => "default".to_owned(),
            (_, namespace) => namespace.to_owned(),
        };
        let refused = self.refused.iter().map(|(name, refused)| format!("{name}: {}", refused.reason));
        let notices = wanted.notices.iter().cloned().chain(refused).chain(self.stays.values().cloned());
        let notices = notices.chain(self.halted.iter().cloned());
        let state = State {
            complete,
            namespaces: wanted.objects.keys().map(namespace).collect(),
            notices: notices.chain(self.unmet.0.iter().cloned()).collect(),
            waits_for,
        };
        self.state.send_if_modified(|told| {
            let differs = *told != state;
            *told = state;
            differs
        });
    }

    /// Makes the cluster more like what is wanted.
    async fn step(&mut self, wanted: &Wanted, workloads: bool, stop: &CancellationToken) {
        let gone: Vec<_> = self.applied.keys().rev().filter(|name| !wanted.objects.contains_key(*name)).cloned().collect();
        self.refused.retain(|name, _| wanted.objects.contains_key(name));
        self.stays.retain(|name, _| !wanted.objects.contains_key(name));
        self.halted = self.write_down(wanted).await;
        if self.halted.is_some() {
            return;
        }
        self.forget_gone().await;
        for name in gone {
            // What programs were guarded by stays until they have ended.
            let guards = !name.is_workload() && self.going.iter().any(ObjectName::is_workload);
            if guards || stop.is_cancelled() {
                break;
            }
            self.take_out(&name).await;
        }
        for (name, object) in wanted.objects.iter().filter(|(name, _)| workloads || !name.is_workload()) {
            if stop.is_cancelled() {
                return;
            }
            let refused = self.refused.get(name).filter(|refused| refused.object == *object && refused.at.elapsed() < AGAIN);
            if refused.is_some() || self.applied.get(name).is_some_and(|applied| applied == object) {
                continue;
            }
            match self.put(name, object).await {
                Ok(()) => _ = self.refused.remove(name),
                Err(reason) => {
                    self.refused.insert(name.clone(), Refused { object: object.clone(), reason, at: Instant::now() });
                }
            }
        }
    }

    /// Writes down what is to be taken out some time. Without that nothing is applied; why, in words.
    async fn write_down(&mut self, wanted: &Wanted) -> Option<String> {
        let names: BTreeSet<_> =
            self.applied.keys().chain(wanted.objects.keys()).chain(&self.going).chain(self.stays.keys()).collect();
        let names = references(names);
        let written = self.record.change(|content| content.objects = names).await;
        written.err().map(|error| format!("nothing is applied: {error}"))
    }

    async fn forget_gone(&mut self) {
        for name in self.going.clone() {
            if self.objects.get(&name).await.is_ok_and(|found| found.is_none_or(|found| !self.objects.is_ours(&found))) {
                self.going.remove(&name);
            }
        }
    }

    /// Takes out what no file says any more.
    async fn take_out(&mut self, name: &ObjectName) {
        match removal::take_out(&mut self.objects, name).await {
            Ok(Taken::Going) => _ = self.going.insert(name.clone()),
            Ok(Taken::Gone) => {}
            Ok(Taken::Theirs) => {
                _ = self.stays.insert(name.clone(), format!("{name} stays, without what was added to it: it was there before"))
            }
            Ok(Taken::Stays(reason)) => _ = self.stays.insert(name.clone(), format!("{name} stays: {reason}")),
            // Tried again at the next look.
            Err(_) => return,
        }
        self.applied.remove(name);
    }

    async fn put(&mut self, name: &ObjectName, object: &Value) -> Result<(), String> {
        let words = |error: kube::Error| match &error {
            error if is_unknown(error) => format!("the cluster has no kind {} of {}, or not yet", name.kind, name.api_version),
            // The fix that `ambit install` has for it is none here.
            kube::Error::Api(status) if status.code == 409 => {
                format!("{}; take these fields out of the file, or the other one's change back", status.message)
            }
            _ => failed("applying it", error).to_string(),
        };
        let before = self.objects.get(name).await.map_err(words)?;
        if before.as_ref().is_some_and(|before| before.metadata.deletion_timestamp.is_some()) {
            return Err("the one of before is still being deleted".to_owned());
        }
        match self.objects.apply(name, object, before.as_ref()).await {
            Ok(()) => {
                self.applied.insert(name.clone(), object.clone());
                Ok(())
            }
            // As somebody would who changes what a pod is: end it, and start another.
            Err(error) if name.kind == "Pod" && is_immutable(&error) => match self.objects.take_out(name).await.map_err(words)? {
                Taken::Going | Taken::Gone => {
                    // Also if the file says again what it said before.
                    self.applied.insert(name.clone(), Value::Null);
                    Err("it is made anew".to_owned())
                }
                Taken::Theirs | Taken::Stays(_) => Err(words(error)),
            },
            Err(error) => Err(words(error)),
        }
    }

    /// The first waypoint that takes no traffic yet.
    async fn unready_waypoint(&mut self, wanted: &Objects) -> Option<String> {
        let gateways = wanted.iter().filter(|(name, object)| {
            let class = object.pointer("/spec/gatewayClassName").and_then(Value::as_str);
            name.kind == "Gateway" && class.is_some_and(|class| class.starts_with("istio-waypoint"))
        });
        for (name, _) in gateways {
            let found = self.objects.get(name).await.ok().flatten();
            let programmed = found.is_some_and(|found| unmet::holds(&found.data, "Programmed"));
            if !programmed {
                return Some(format!("the waypoint {}/{}", name.namespace, name.name));
            }
        }
        None
    }

    /// What the control plane says that does not hold of the objects.
    async fn conditions(&mut self) -> Vec<String> {
        let ours = |name: &&ObjectName| unmet::GROUPS.iter().any(|group| name.api_version.starts_with(group));
        let names: Vec<_> = self.applied.keys().filter(ours).cloned().collect();
        let mut sentences = Vec::new();
        for name in names {
            if let Ok(Some(found)) = self.objects.get(&name).await {
                sentences.extend(unmet::sentences(&name.to_string(), &found.data));
            }
        }
        sentences
    }
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(LOOK) => {}
    }
}
