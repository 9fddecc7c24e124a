//! What is found under one key of an index.

use std::{borrow::Borrow, cmp::Ordering, collections::HashMap, hash::Hash};

/// One value or several. Nearly always it is one, for which no further memory is needed.
#[derive(Debug, Clone)]
pub(super) enum Few<T> {
    One(T),
    #[expect(clippy::box_collection, reason = "every key has room for it, and nearly none needs it")]
    More(Box<Vec<T>>),
}

impl<T> Few<T> {
    /// The values, in the order in which they came.
    pub(super) fn all(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

/// The values under `key`, in the order in which they came.
pub(super) fn under<'a, K: Hash + Eq + Borrow<Q>, Q: Hash + Eq + ?Sized, T>(map: &'a HashMap<K, Few<T>>, key: &Q) -> &'a [T] {
    map.get(key).map(Few::all).unwrap_or_default()
}

/// Puts a value behind those that are there.
pub(super) fn add<K: Hash + Eq, T>(map: &mut HashMap<K, Few<T>>, key: K, value: T) {
    let few = match map.remove(&key) {
        None => Few::One(value),
        Some(Few::One(first)) => Few::More(Box::new(vec![first, value])),
        Some(Few::More(mut more)) => {
            more.push(value);
            Few::More(more)
        }
    };
    map.insert(key, few);
}

/// Puts the values under `key` in order.
pub(super) fn sort<K: Hash + Eq, T>(map: &mut HashMap<K, Few<T>>, key: &K, compare: impl FnMut(&T, &T) -> Ordering) {
    if let Some(Few::More(more)) = map.get_mut(key) {
        more.sort_by(compare);
    }
}

/// Removes the values that are meant, and the key with the last of them.
pub(super) fn remove<K: Hash + Eq, T>(map: &mut HashMap<K, Few<T>>, key: &K, meant: impl Fn(&T) -> bool) {
    let left = match map.get_mut(key) {
        None => return,
        Some(Few::One(one)) => usize::from(!meant(one)),
        Some(Few::More(more)) => {
            more.retain(|value| !meant(value));
            more.len()
        }
    };
    if left == 0 {
        map.remove(key);
    }
}

/// Room for so many entries is not worth giving back.
const ROOM: usize = 1024;

/// Gives back the room of a table that was much larger once.
pub(super) fn fit<K: Hash + Eq, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > ROOM && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_in_their_order_until_the_last_is_removed() {
        let mut map = HashMap::new();
        for value in [1, 2, 3] {
            add(&mut map, "key".to_owned(), value);
        }
        assert_eq!(under(&map, "key"), [1, 2, 3]);
        remove(&mut map, &"key".to_owned(), |value| *value == 2);
        assert_eq!(under(&map, "key"), [1, 3]);
        sort(&mut map, &"key".to_owned(), |one, other| other.cmp(one));
        assert_eq!(under(&map, "key"), [3, 1]);
        remove(&mut map, &"key".to_owned(), |value| *value != 2);
        add(&mut map, "other".to_owned(), 4);
        remove(&mut map, &"other".to_owned(), |value| *value == 5);
        assert_eq!((under(&map, "key"), under(&map, "other")), (&[][..], &[4][..]));
        remove(&mut map, &"other".to_owned(), |value| *value == 4);
        assert!(map.is_empty());
    }

    #[test]
    fn a_table_that_was_large_once_gives_its_room_back() {
        let mut map: HashMap<u32, u32> = (0..100_000).map(|number| (number, number)).collect();
        let large = map.capacity();
        for number in 0..99_990 {
            map.remove(&number);
            fit(&mut map);
        }
        assert!(map.capacity() < 2 * ROOM && large >= 100_000, "{}", map.capacity());
        assert_eq!(map.len(), 10);
    }
}
