//! Resources of gRPC clients in the making: translated step by step, then written step by step, in an order in which a client looks for
//! nothing that is not there.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use ambit_api::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use ambit_xds::server::{Cache, Change};

use super::CLIENT_VIEW;
use crate::{mesh::Mesh, push::translated, source::NamespacedName};

/// How long the index, or the cache, is held by a step: a push may have to wait for as long.
const STEP: Duration = Duration::from_millis(2);

/// What resources are made together for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What is there whatever Services there are.
    Fixed,
    Service(NamespacedName),
}

/// A resource with its type.
type Typed = (&'static str, Change);

/// The one task's way from parts to what the cache has of them.
#[derive(Debug, Default)]
pub struct Making {
    /// The resources of each part, by type and name, as they are or will be in the cache.
    names: BTreeMap<Part, BTreeSet<(&'static str, String)>>,
    /// What is to be translated.
    left: BTreeSet<Part>,
    translated: Vec<(Part, Vec<Typed>)>,
    /// What is to be written.
    changes: VecDeque<Typed>,
    written: u64,
}

impl Making {
    /// These parts are to be made from what the index says at each step. What changes after that is noted, and made next.
    pub fn begin(&mut self, parts: BTreeSet<Part>) {
        self.left = parts;
    }

    /// All that was made is to go.
    pub fn forget(&mut self) {
        let names = std::mem::take(&mut self.names).into_values().flatten();
        self.order(names.map(|(type_url, name)| (type_url, Change::remove(name))).collect());
    }

    /// Whether all that was begun is in the cache.
    pub fn is_done(&self) -> bool {
        self.left.is_empty() && self.changes.is_empty()
    }

    /// How many resources really changed, since this was asked last.
    pub fn pushed(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Goes on for a moment.
    pub fn step(&mut self, mesh: &Mesh, cache: &Cache) {
        self.step_for(STEP, mesh, cache);
    }

    /// Goes on for so long; at least one part is translated or one resource written.
    pub fn step_for(&mut self, time: Duration, mesh: &Mesh, cache: &Cache) {
        if self.left.is_empty() {
            self.write(time, cache);
            return;
        }
        self.translate(time, mesh);
        if self.left.is_empty() {
            let changes = self.compared();
            self.order(changes);
        }
    }

    fn translate(&mut self, time: Duration, mesh: &Mesh) {
        let index = mesh.index();
        let began = Instant::now();
        while let Some(part) = self.left.pop_first() {
            let made = match &part {
                Part::Fixed => translated::fixed_for_clients(),
                Part::Service(name) => translated::for_clients(&index, name),
            };
            self.translated.push((part, made));
            if began.elapsed() >= time {
                break;
            }
        }
    }

    /// What was translated, with the end of what there was and is no more.
    fn compared(&mut self) -> Vec<Typed> {
        let mut changes = Vec::new();
        for (part, made) in std::mem::take(&mut self.translated) {
            let names: BTreeSet<_> = made.iter().map(|(type_url, change)| (*type_url, change.name.clone())).collect();
            let before = self.names.remove(&part).unwrap_or_default();
            changes.extend(before.difference(&names).map(|(type_url, name)| (*type_url, Change::remove(name.as_str()))));
            changes.extend(made);
            if !names.is_empty() {
                self.names.insert(part, names);
            }
        }
        changes
    }

    /// What is referred to comes before what refers to it, and goes after.
    fn order(&mut self, mut changes: Vec<Typed>) {
        changes.sort_by_key(|(type_url, change)| {
            let rank = [ENDPOINT, CLUSTER, ROUTE, LISTENER].iter().position(|known| known == type_url).unwrap_or_default();
            if change.body.is_some() { rank } else { 7 - rank }
        });
        self.changes = changes.into();
    }

    fn write(&mut self, time: Duration, cache: &Cache) {
        let changes = &mut self.changes;
        let changed = cache.write(CLIENT_VIEW, |writer| {
            let began = Instant::now();
            while let Some((type_url, change)) = changes.pop_front() {
                writer.update(type_url, [change]);
                if began.elapsed() >= time {
                    break;
                }
            }
        });
        self.written += changed as u64;
    }
}
