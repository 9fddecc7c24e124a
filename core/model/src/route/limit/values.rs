//! Buckets that are made for values as requests bring them: a bounded number, of which the one that was not used for longest goes first.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::bucket::{Bucket, Filling};

/// Buckets by value.
#[derive(Debug)]
pub(super) struct Values {
    filling: Filling,
    most: usize,
    /// Values are kept as their hashes, so that they take no memory of which a client says how much. What is hashed with is another for each
    /// process, so that nobody can choose values that share a bucket.
    hasher: RandomState,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    uses: u64,
    by_value: HashMap<u64, (Arc<Bucket>, u64)>,
    /// The values by their last use.
    by_use: BTreeMap<u64, u64>,
}

impl Values {
    pub(super) fn new(filling: Filling, most: usize) -> Self {
        Self { filling, most: most.max(1), hasher: RandomState::new(), held: Mutex::default() }
    }

    /// The bucket of a value, a full one if there is none.
    pub(super) fn bucket(&self, value: &[(&str, Cow<'_, str>)], now: Instant) -> Arc<Bucket> {
        let hash = self.hasher.hash_one(value);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Held { uses, by_value, by_use } = &mut *held;
        *uses += 1;
        let (bucket, used) = by_value.entry(hash).or_insert_with(|| (Arc::new(Bucket::new(self.filling, now)), 0));
        by_use.remove(&*used);
        *used = *uses;
        by_use.insert(*uses, hash);
        let bucket = bucket.clone();
        if by_value.len() > self.most
            && let Some((_, oldest)) = by_use.pop_first()
        {
            by_value.remove(&oldest);
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_value_has_a_bucket_until_others_were_used_later() {
        let now = Instant::now();
        let values = Values::new(Filling { most: 1, tokens: 1, every: Duration::from_secs(3600) }, 2);
        let take = |value: &str| values.bucket(&[("client", Cow::Borrowed(value))], now).take(now);
        assert!(take("a") && take("b"));
        assert!(!take("a") && !take("b"), "each had one");
        assert!(!take("a"));
        assert!(take("c"), "a third one takes the place of b");
        assert!(!take("a"), "a was used after b");
        assert!(take("b"), "b begins anew");
        let held = values.held.lock().unwrap();
        assert_eq!((held.by_value.len(), held.by_use.len()), (2, 2));
    }
}
