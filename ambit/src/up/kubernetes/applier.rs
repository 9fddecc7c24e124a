//! Makes the objects of a cluster what the files of a directory say, again and again, and takes all of it out in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::documents::{Files, ObjectName, Objects, Room, Wanted};
use super::objects::{AnyObjects, is_immutable, is_unknown};
use super::unmet;
use crate::error::{Error, Result};
use crate::install::cluster::failed;

/// Pause between two looks at the directory.
const LOOK: Duration = Duration::from_millis(300);

/// Pause until something that was refused is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Pause between two questions what the control plane makes of the objects.
const CONDITIONS: Duration = Duration::from_secs(3);

/// How long waypoints may take before what they serve starts without them.
const WAYPOINTS: Duration = Duration::from_secs(90);

/// How long what was deleted may take to be gone.
const GONE: Duration = Duration::from_secs(120);

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

/// What is in the cluster because of this program.
struct Applied {
    object: Value,
    /// Whether it was not there before.
    made: bool,
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
    applied: BTreeMap<ObjectName, Applied>,
    refused: BTreeMap<ObjectName, Refused>,
    /// What was left alone, in words.
    left: BTreeSet<String>,
    /// What the control plane says of the objects, and when it was asked.
    unmet: (Vec<String>, Option<Instant>),
    state: watch::Sender<State>,
}

impl Applier {
    pub(super) fn new(objects: AnyObjects, files: Files, room: Room) -> Self {
        let (applied, refused, left) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { objects, files, room, applied, refused, left, unmet: (Vec::new(), None), state: watch::Sender::default() }
    }

    /// How far it is, now and later.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Goes on until it is told to stop, between two objects. Whoever calls it takes it back, to end what it began.
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
        let notices = wanted.notices.iter().cloned().chain(refused).chain(self.left.iter().cloned());
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
        for name in gone {
            if stop.is_cancelled() {
                return;
            }
            self.take_out(&name).await;
        }
        self.refused.retain(|name, _| wanted.objects.contains_key(name));
        for (name, object) in wanted.objects.iter().filter(|(name, _)| workloads || !name.is_workload()) {
            if stop.is_cancelled() {
                return;
            }
            let refused = self.refused.get(name).filter(|refused| refused.object == *object && refused.at.elapsed() < AGAIN);
            if refused.is_some() || self.applied.get(name).is_some_and(|applied| applied.object == *object) {
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

    /// Takes out what no file says any more.
    async fn take_out(&mut self, name: &ObjectName) {
        if self.applied.get(name).is_some_and(|applied| !applied.made) {
            self.left.insert(format!("{name} stays, as it was there before"));
            self.applied.remove(name);
            return;
        }
        match self.objects.delete(name).await {
            Ok(()) => _ = self.applied.remove(name),
            Err(error) if is_unknown(&error) => _ = self.applied.remove(name),
            // Tried again at the next look.
            Err(_) => {}
        }
    }

    async fn put(&mut self, name: &ObjectName, object: &Value) -> Result<(), String> {
        let words = |error: kube::Error| match &error {
            error if is_unknown(error) => format!("the cluster has no kind {} of {}, or not yet", name.kind, name.api_version),
            _ => failed("applying it", error).to_string(),
        };
        let before = self.objects.get(name).await.map_err(words)?;
        let going = before.as_ref().is_some_and(|before| before.metadata.deletion_timestamp.is_some());
        if going {
            return Err("the one of before is still being deleted".to_owned());
        }
        let made = match (self.applied.get(name), &before) {
            (Some(applied), Some(_)) => applied.made,
            (_, None) => true,
            (None, Some(_)) => false,
        };
        match self.objects.apply(name, object).await {
            Ok(()) => {
                self.left.retain(|left| !left.starts_with(&format!("{name} ")));
                self.applied.insert(name.clone(), Applied { object: object.clone(), made });
                Ok(())
            }
            // As somebody would who changes what a pod is: end it, and start another.
            Err(error) if made && name.kind == "Pod" && before.is_some() && is_immutable(&error) => {
                self.objects.delete(name).await.map_err(words)?;
                Err("it is made anew".to_owned())
            }
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

    /// Takes out everything that was not there before, and waits until it is gone.
    ///
    /// # Errors
    /// The cluster refuses something, or something is not gone in time; the message names it.
    pub(super) async fn remove(&mut self, mut tell: impl FnMut(&str)) -> Result<()> {
        let (made, found): (Vec<_>, Vec<_>) = self.applied.iter().rev().partition(|(_, applied)| applied.made);
        if !found.is_empty() {
            let names: Vec<_> = found.iter().map(|(name, _)| name.to_string()).collect();
            tell(&format!("there before, and left as they are now: {}", names.join(", ")));
        }
        let made: Vec<ObjectName> = made.into_iter().map(|(name, _)| name.clone()).collect();
        for name in &made {
            let deleted = self.objects.delete(name).await;
            deleted
                .or_else(|error| if is_unknown(&error) { Ok(()) } else { Err(error) })
                .map_err(|error| failed(&format!("deleting {name}"), error))?;
        }
        let began = Instant::now();
        for name in made.iter().rev() {
            loop {
                match self.objects.get(name).await {
                    Ok(None) => break,
                    Err(error) => return Err(failed(&format!("waiting for the end of {name}"), error)),
                    Ok(Some(_)) if began.elapsed() > GONE => {
                        return Err(Error::NotReady(format!(
                            "{name} is not gone after {} s; all that was made is deleted",
                            GONE.as_secs()
                        )));
                    }
                    Ok(Some(_)) => tokio::time::sleep(LOOK).await,
                }
            }
        }
        self.applied.clear();
        tell(&format!("{} objects deleted", made.len()));
        Ok(())
    }
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(LOOK) => {}
    }
}
