//! What changed last in a view as it is sent: the same for all who had everything before, which are nearly all of a thousand node proxies.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, Weak},
};

/// No more bytes than this are kept when nobody is being sent them.
const KEPT: usize = 64 << 10;

/// What changed between two generations.
#[derive(Clone, Default)]
pub(super) struct Changed {
    /// The resources, as fields of a response.
    pub(super) resources: Arc<Vec<u8>>,
    /// The names of what is gone.
    pub(super) removed: Vec<String>,
}

/// The changes that were asked for last, and between which generations they were.
#[derive(Default)]
pub(super) struct Latest(RwLock<Kept>);

#[derive(Default)]
struct Kept {
    seen: u64,
    now: u64,
    resources: Weak<Vec<u8>>,
    removed: Vec<String>,
    /// The resources, where they are few.
    _held: Option<Arc<Vec<u8>>>,
}

impl Kept {
    /// What is kept, if it is that.
    fn between(&self, seen: u64, now: u64) -> Option<Changed> {
        if (self.seen, self.now) != (seen, now) {
            return None;
        }
        Some(Changed { resources: self.resources.upgrade()?, removed: self.removed.clone() })
    }
}

impl fmt::Debug for Latest {
    /// Without the bytes, which may be those of private keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latest").finish_non_exhaustive()
    }
}

impl Latest {
    /// What changed after one generation and up to the other, which `collect` finds; `None` when it cannot.
    pub(super) fn between(&self, seen: u64, now: u64, collect: impl FnOnce() -> Option<Changed>) -> Option<Changed> {
        // A thousand sessions ask at the same time: none of them waits for another.
        let found = self.0.read().unwrap_or_else(PoisonError::into_inner).between(seen, now);
        if found.is_some() {
            return found;
        }
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Another one may have been quicker.
        if let Some(found) = kept.between(seen, now) {
            return Some(found);
        }
        let changed = collect()?;
        let held = (changed.resources.len() <= KEPT).then(|| Arc::clone(&changed.resources));
        *kept = Kept { seen, now, resources: Arc::downgrade(&changed.resources), removed: changed.removed.clone(), _held: held };
        Some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_collected_once_for_all_who_are_equally_far_and_much_of_it_is_not_kept() {
        let changed = |length: usize| Changed { resources: Arc::new(vec![1; length]), removed: vec!["a".to_owned()] };
        let latest = Latest::default();
        let first = latest.between(1, 2, || Some(changed(3))).unwrap();
        let second = latest.between(1, 2, || None).unwrap();
        assert!(Arc::ptr_eq(&first.resources, &second.resources) && first.removed == second.removed);
        drop((first, second));
        assert_eq!(latest.between(1, 2, || None).unwrap().resources.len(), 3);
        assert!(latest.between(0, 2, || None).is_none(), "of who was further behind");
        let much = latest.between(2, 3, || Some(changed(KEPT + 1))).unwrap();
        let shared = latest.between(2, 3, || None).unwrap();
        assert!(Arc::ptr_eq(&much.resources, &shared.resources) && shared.removed == ["a"]);
        drop((much, shared));
        assert!(latest.between(2, 3, || None).is_none(), "nobody is being sent it any more");
    }
}
