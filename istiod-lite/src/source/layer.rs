//! Files in layers, and the objects in force that come of them. No I/O.
//!
//! An object is the deep merge of its documents over the layers. A file is taken whole or not at all: while anything
//! in it is wrong, its last good documents stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use super::document::{Document, Parsed, parse};
use super::object::{Event, Object, ObjectKey};
use super::typed::{self, FieldError};
use super::validate::{validate, without_effect};
use super::{Problem, Severity};

/// A file: the number of its layer, and its path.
pub(super) type FileId = (usize, PathBuf);

/// The objects of which parts may change, each with the files that gave or give these.
type Touched = BTreeMap<ObjectKey, BTreeSet<FileId>>;

/// What a file says, and said.
#[derive(Debug, Default)]
struct File {
    /// The documents in force.
    accepted: BTreeMap<ObjectKey, Document>,
    /// The newest documents, while they cannot be taken.
    waiting: Option<Vec<Document>>,
    /// What is wrong with the newest text.
    problems: Vec<Problem>,
}

/// All files and the objects in force.
#[derive(Debug, Default)]
pub(super) struct Layers {
    files: BTreeMap<FileId, File>,
    /// Which file gives which part of an object.
    parts: BTreeMap<ObjectKey, BTreeMap<usize, FileId>>,
    objects: BTreeMap<ObjectKey, Object>,
    taken: Vec<FileId>,
}

impl Layers {
    /// Takes in files that are new or changed (with their text) or gone (without), and says what objects that changes.
    pub(super) fn update(&mut self, changes: Vec<(FileId, Option<String>)>) -> Vec<Event> {
        let mut dirty = BTreeSet::new();
        let mut touched = Touched::new();
        for (id, text) in changes {
            let before = self.files.get(&id).into_iter().flat_map(|file| file.accepted.keys());
            before.for_each(|key| note(&mut touched, key, &id));
            match text {
                None => self.remove(&id, &mut dirty),
                Some(text) => self.replace(id, &text),
            }
        }
        for (id, file) in self.files.iter().filter(|(_, file)| file.waiting.is_some()) {
            let waiting = file.waiting.iter().flatten().map(|document| &document.key);
            file.accepted.keys().chain(waiting).for_each(|key| note(&mut touched, key, id));
        }
        // Taking one file can free another (an object that moved), so go on until nothing more is taken.
        while self.take_waiting(&mut dirty) {}
        // What was wrong with a file because of another, which gave or gives a part of the same object, may be well by now.
        for (own, file) in &mut self.files {
            let by_others = |object: &ObjectKey| touched.get(object).is_some_and(|files| files.iter().any(|id| id != own));
            if file.waiting.is_none() && file.problems.iter().filter_map(|problem| problem.object.as_ref()).any(by_others) {
                file.waiting = Some(file.accepted.values().cloned().collect());
            }
        }
        while self.take_waiting(&mut dirty) {}
        dirty.into_iter().filter_map(|key| self.refresh(&key)).collect()
    }

    /// The files whose newest text came into force since the last call.
    pub(super) fn take_taken(&mut self) -> Vec<FileId> {
        std::mem::take(&mut self.taken)
    }

    /// What is wrong at present, in the order of files and lines.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        problems.sort();
        problems
    }

    fn remove(&mut self, id: &FileId, dirty: &mut BTreeSet<ObjectKey>) {
        if let Some(file) = self.files.remove(id) {
            for key in file.accepted.into_keys() {
                self.forget(&key, id.0);
                dirty.insert(key);
            }
        }
    }

    fn replace(&mut self, id: FileId, text: &str) {
        let Parsed { documents, problems } = parse(&id.1, text);
        let good = !problems.iter().any(|problem| problem.severity == Severity::Error);
        let file = self.files.entry(id).or_default();
        file.waiting = good.then_some(documents);
        file.problems = problems;
    }

    /// Tries to take each waiting file once; whether any was taken.
    fn take_waiting(&mut self, dirty: &mut BTreeSet<ObjectKey>) -> bool {
        let waiting: Vec<FileId> =
            self.files.iter().filter(|(_, file)| file.waiting.is_some()).map(|(id, _)| id.clone()).collect();
        let mut taken = false;
        for id in waiting {
            let Some(documents) = self.files.get_mut(&id).and_then(|file| file.waiting.take()) else { continue };
            let found = self.check(&id, &documents);
            let failed = found.iter().any(|problem| problem.severity == Severity::Error);
            let Some(file) = self.files.get_mut(&id) else { continue };
            // Warnings of the text itself stay; what this check found is replaced.
            file.problems.retain(|problem| problem.object.is_none());
            file.problems.extend(found);
            if failed {
                file.waiting = Some(documents);
                continue;
            }
            let new: BTreeMap<ObjectKey, Document> =
                documents.into_iter().map(|document| (document.key.clone(), document)).collect();
            let keys: Vec<ObjectKey> = new.keys().cloned().collect();
            for key in std::mem::replace(&mut file.accepted, new).into_keys() {
                self.forget(&key, id.0);
                dirty.insert(key);
            }
            for key in keys {
                self.parts.entry(key.clone()).or_default().insert(id.0, id.clone());
                dirty.insert(key);
            }
            self.taken.push(id);
            taken = true;
        }
        taken
    }

    fn forget(&mut self, key: &ObjectKey, layer: usize) {
        if let Some(parts) = self.parts.get_mut(key) {
            parts.remove(&layer);
            if parts.is_empty() {
                self.parts.remove(key);
            }
        }
    }

    /// What is wrong with the documents of a file, seen together with the other layers.
    fn check(&self, id: &FileId, documents: &[Document]) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut seen: BTreeSet<&ObjectKey> = BTreeSet::new();
        for document in documents {
            if !seen.insert(&document.key) {
                problems.push(document.problem(&id.1, "metadata.name", "the object is given twice in this file".into()));
                continue;
            }
            if let Some(other) = self.parts.get(&document.key).and_then(|parts| parts.get(&id.0)).filter(|other| *other != id) {
                let reason = format!("the object is given in {} already", other.1.display());
                problems.push(document.problem(&id.1, "metadata.name", reason));
                continue;
            }
            let lower = self.parts.get(&document.key).is_some_and(|parts| parts.range(..id.0).next().is_some());
            match read(&document.key, self.merged(&document.key, Some((id.0, document)))) {
                Ok(object) => problems.extend(without_effect(&object).into_iter().map(|found| {
                    let problem = document.problem(&id.1, &found.path, found.reason);
                    Problem { severity: Severity::Warning, ..problem }
                })),
                Err(errors) => problems.extend(errors.into_iter().map(|error| {
                    let mut problem = document.problem(&id.1, &error.path, error.reason);
                    if error.absent && id.0 > 0 && !lower {
                        problem.severity = Severity::Warning;
                        problem.reason = format!("waits for the object it lies over: {}", problem.reason);
                    }
                    problem
                })),
            }
        }
        problems
    }

    /// The object's documents over all layers, with `own` in place of its layer's.
    fn merged(&self, key: &ObjectKey, own: Option<(usize, &Document)>) -> Value {
        let mut parts: BTreeMap<usize, &Value> = BTreeMap::new();
        for (layer, id) in self.parts.get(key).into_iter().flatten() {
            let accepted = self.files.get(id).and_then(|file| file.accepted.get(key));
            if let Some(document) = accepted {
                parts.insert(*layer, &document.value);
            }
        }
        if let Some((layer, document)) = own {
            parts.insert(layer, &document.value);
        }
        let mut merged = Value::Null;
        for part in parts.into_values() {
            merge(&mut merged, part);
        }
        merged
    }

    /// Reads an object again; the event when it is other than before.
    fn refresh(&mut self, key: &ObjectKey) -> Option<Event> {
        let object = if self.parts.contains_key(key) { read(key, self.merged(key, None)).ok() } else { None };
        match object {
            Some(object) => {
                let old = self.objects.insert(key.clone(), object.clone());
                (old.as_ref() != Some(&object)).then_some(Event::Upsert(object))
            }
            None => self.objects.remove(key).map(|_| Event::Delete(key.clone())),
        }
    }
}

fn note(touched: &mut Touched, object: &ObjectKey, file: &FileId) {
    touched.entry(object.clone()).or_default().insert(file.clone());
}

fn read(key: &ObjectKey, value: Value) -> Result<Object, Vec<FieldError>> {
    let object = typed::read(key.kind, value)?;
    let errors = validate(&object);
    if errors.is_empty() { Ok(object) } else { Err(errors) }
}

/// Lays `over` on `base`: mappings field by field, anything else as a whole; null takes a field away (RFC 7396).
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

#[cfg(test)]
mod tests;
