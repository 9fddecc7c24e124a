//! Takes out of a cluster what was made in it: what runs programs first and to its end, so that what guards them holds as long as they
//! run; namespaces last, and only those in which nobody else has anything.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::documents::ObjectName;
use super::objects::{AnyObjects, Taken};
use crate::error::Result;
use crate::install::cluster::failed;
use crate::install::{remains, uninstall};

/// Pause between two looks whether something is gone.
const LOOK: Duration = Duration::from_millis(300);

/// How long what is deleted together may take to be gone.
const GONE: Duration = Duration::from_secs(120);

/// Pause between two lines about what it waits for.
const TELL: Duration = Duration::from_secs(10);

/// How many of those that are left are named; the others are counted.
const NAMED: usize = 8;

/// What is left to take out, for whoever interrupts it.
#[derive(Clone, Default)]
pub(super) struct Left(Arc<Mutex<BTreeSet<String>>>);

impl Left {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, what: impl Into<String>) {
        self.lock().insert(what.into());
    }

    pub(super) fn remove(&self, what: &str) {
        self.lock().remove(what);
    }

    /// All of it in words; nothing if there is nothing.
    pub(super) fn words(&self) -> Option<String> {
        let left = self.lock();
        let named = left.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        match (left.len(), left.len().saturating_sub(NAMED)) {
            (0, _) => None,
            (_, 0) => Some(named),
            (_, more) => Some(format!("{named} and {more} more")),
        }
    }
}

/// Takes out one object, or what was added to it. A namespace or definition stays as long as there is something in it.
///
/// # Errors
/// The API server refuses it, or does not answer.
pub(super) async fn take_out(objects: &mut AnyObjects, name: &ObjectName) -> Result<Taken> {
    if let Some(reason) = keeps(objects, name).await? {
        return Ok(Taken::Stays(reason));
    }
    objects.take_out(name).await.map_err(|error| failed(&format!("deleting {name}"), error))
}

/// What of others would be lost with an object that was made here.
async fn keeps(objects: &mut AnyObjects, name: &ObjectName) -> Result<Option<String>> {
    if !matches!(name.kind.as_str(), "Namespace" | "CustomResourceDefinition") {
        return Ok(None);
    }
    let found = objects.get(name).await.map_err(|error| failed(&format!("reading {name}"), error))?;
    let Some(found) = found.filter(|found| objects.is_ours(found)) else { return Ok(None) };
    if name.kind == "Namespace" {
        let remains = remains::remains(objects.client(), &name.name).await?;
        return Ok(remains::reason(&name.name, &remains));
    }
    let count = uninstall::objects_of(objects.client(), &found).await?;
    Ok((count > 0).then(|| format!("there are {count} objects of it (`kubectl delete crd {}` deletes them, too)", name.name)))
}

/// Takes out all of these, as far as they were made here, and waits until they are gone. What could not be is said in the answer, a
/// sentence for each.
pub(super) async fn remove(
    objects: &mut AnyObjects,
    names: &BTreeSet<ObjectName>,
    left: &Left,
    tell: &impl Fn(&str),
) -> Vec<String> {
    names.iter().for_each(|name| left.add(name.to_string()));
    let (mut problems, mut theirs, mut deleted) = (Vec::new(), Vec::new(), 0);
    for stage in ObjectName::stages() {
        let mut going = Vec::new();
        for name in names.iter().rev().filter(|name| name.is_of(&stage)) {
            match take_out(objects, name).await {
                Ok(Taken::Going) => {
                    going.push(name);
                    continue;
                }
                Ok(Taken::Gone) => {}
                Ok(Taken::Theirs) => theirs.push(name.to_string()),
                Ok(Taken::Stays(reason)) => tell(&format!("{name} stays: {reason}")),
                Err(error) => {
                    problems.push(error.to_string());
                    continue;
                }
            }
            left.remove(&name.to_string());
        }
        deleted += going.len();
        problems.extend(gone(objects, going, left, tell).await);
    }
    if !theirs.is_empty() {
        tell(&format!("there before, and without what was added to them: {}", theirs.join(", ")));
    }
    if deleted > 0 {
        tell(&format!("{deleted} objects deleted"));
    }
    problems
}

/// Waits until these are gone.
async fn gone(objects: &mut AnyObjects, mut going: Vec<&ObjectName>, left: &Left, tell: &impl Fn(&str)) -> Vec<String> {
    let (began, mut told) = (Instant::now(), Instant::now());
    loop {
        let mut still = Vec::new();
        for name in going {
            match objects.get(name).await {
                Ok(found) if found.as_ref().is_none_or(|found| !objects.is_ours(found)) => left.remove(&name.to_string()),
                // One that does not answer now may do later.
                _ => still.push(name),
            }
        }
        let Some(first) = still.first() else { return Vec::new() };
        if began.elapsed() > GONE {
            let sentence = |name: &&ObjectName| {
                let namespace = if name.namespace.is_empty() { String::new() } else { format!(" -n {}", name.namespace) };
                let (seconds, kind, name) = (GONE.as_secs(), name.kind.to_lowercase(), &name.name);
                format!(
                    "{kind} {name} is deleted, but not gone after {seconds} s: `kubectl get{namespace} {kind} {name} -o yaml` says by its finalizers who holds it"
                )
            };
            return still.iter().map(sentence).collect();
        }
        if told.elapsed() > TELL {
            let more = if still.len() > 1 { format!(" and {} more", still.len() - 1) } else { String::new() };
            tell(&format!("waiting for the end of {first}{more}"));
            told = Instant::now();
        }
        going = still;
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_but_not_without_end() {
        let left = Left::default();
        assert_eq!(left.words(), None);
        (0..NAMED).for_each(|n| left.add(format!("Pod p{n}")));
        left.remove("Pod p0");
        assert!(left.words().unwrap().ends_with("Pod p7"));
        left.add("Pod p8");
        left.add("Pod p9");
        assert!(left.words().unwrap().ends_with("Pod p8 and 1 more"), "{:?}", left.words());
    }
}
