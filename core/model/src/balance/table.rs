//! Which endpoint goes with a hash: rings and tables as Envoy builds them, so that on a ring a request finds the same endpoint through either.
//!
//! A table is built of the endpoints that may be used, and leads from each hash to one of them. When one goes, hardly any hash but its own
//! leads elsewhere.

use std::fmt::Write as _;

use serde::Serialize;
use twox_hash::XxHash64;

/// How many endpoints are looked for from a hash on: the one that takes it, and those that follow when it is not reached.
const NEAR: usize = 6;
/// How many places of a table are looked at for them.
const LOOKED_AT: usize = 64;
/// A place of a table that nobody has yet.
const FREE: u32 = u32::MAX;

/// The hash of Envoy's load balancing.
#[must_use]
pub(crate) fn xxh64(seed: u64, bytes: &[u8]) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// How hashes lead to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hashing {
    /// Each endpoint has places on a ring by its weight, and takes what comes before them (`RING_HASH`, after ketama).
    Ring {
        /// So many places there are at least, where weights allow it.
        least: u32,
        /// And so many at most.
        most: u32,
    },
    /// Endpoints take turns to have the next place of a table that they like best (`MAGLEV`, after the paper of that name).
    Maglev {
        /// How many places there are: a prime.
        size: u32,
    },
}

/// Which endpoint goes with which hash; endpoints are called by their place among all.
#[derive(Debug, Clone)]
pub(super) enum Table {
    /// By the hash of each place.
    Ring(Vec<(u64, u32)>),
    /// By the rest of the hash.
    Maglev(Vec<u32>),
}

impl Hashing {
    /// The table for endpoints of these keys, each with its share of 1.
    pub(super) fn table(self, endpoints: &[(String, f64)]) -> Table {
        match self {
            Self::Ring { least, most } => Table::Ring(ring(endpoints, least, most)),
            Self::Maglev { size } => Table::Maglev(maglev(endpoints, size)),
        }
    }

    /// Which endpoint takes a request, as the beginning of a sentence.
    pub(super) fn in_words(self) -> String {
        match self {
            Self::Ring { .. } => "requests go where their hash leads on a ring of endpoints by weight".to_owned(),
            Self::Maglev { .. } => "requests go where their hash leads in a Maglev table of endpoints by weight".to_owned(),
        }
    }
}

impl Table {
    /// The endpoints from a hash on, none of them twice: the first one takes it.
    pub(super) fn near(&self, hash: u64) -> Vec<usize> {
        let (begin, length) = match self {
            Self::Ring(places) => (places.partition_point(|(place, _)| *place < hash), places.len()),
            Self::Maglev(places) => (hash.checked_rem(places.len() as u64).unwrap_or(0) as usize, places.len()),
        };
        let mut near = Vec::with_capacity(NEAR.min(length));
        for step in 0..length.min(LOOKED_AT) {
            let at = (begin + step) % length;
            let endpoint = match self {
                Self::Ring(places) => places.get(at).map(|(_, endpoint)| *endpoint),
                Self::Maglev(places) => places.get(at).copied(),
            };
            let Some(endpoint) = endpoint.map(|endpoint| endpoint as usize).filter(|endpoint| !near.contains(endpoint)) else {
                continue;
            };
            near.push(endpoint);
            if near.len() == NEAR {
                break;
            }
        }
        near
    }
}

/// As Envoy has it: the endpoint with the least share has a whole number of places, so that all have if their shares are the same.
fn ring(endpoints: &[(String, f64)], least: u32, most: u32) -> Vec<(u64, u32)> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let smallest = endpoints.iter().map(|(_, share)| *share).fold(1.0, f64::min);
    let scale = ((smallest * f64::from(least)).ceil() / smallest).min(f64::from(most));
    let mut places = Vec::with_capacity(scale.ceil() as usize);
    let (mut made, mut due) = (0.0, 0.0);
    let mut key = String::new();
    for (number, (name, share)) in (0_u32..).zip(endpoints) {
        due += scale * share;
        let mut copy = 0_u64;
        while made < due {
            key.clear();
            // Writing to a text does not fail.
            let _ = write!(key, "{name}_{copy}");
            places.push((xxh64(0, key.as_bytes()), number));
            copy += 1;
            made += 1.0;
        }
    }
    places.sort_unstable();
    places
}

/// An endpoint that looks for places of a table: its own order of all places begins at one, and goes on by so many.
struct Seeker {
    offset: u64,
    skip: u64,
    next: u64,
    share: f64,
    /// What its share must come to until it has its next turn.
    target: f64,
}

impl Seeker {
    /// The place that it likes best of those that it has not tried.
    fn next(&mut self, size: u64) -> usize {
        let place = (self.offset + self.skip * self.next) % size;
        self.next += 1;
        place as usize
    }
}

/// As in the paper, with weights as Envoy has them: who has the largest share has a turn in each round, and others in so many as fit.
fn maglev(endpoints: &[(String, f64)], size: u32) -> Vec<u32> {
    if endpoints.is_empty() || size < 2 {
        return Vec::new();
    }
    let (places, size) = (size, u64::from(size));
    let largest = endpoints.iter().map(|(_, share)| *share).fold(0.0, f64::max);
    let seeker = |(key, share): &(String, f64)| Seeker {
        offset: xxh64(0, key.as_bytes()) % size,
        skip: xxh64(1, key.as_bytes()) % (size - 1) + 1,
        next: 0,
        share: *share,
        target: 0.0,
    };
    let mut seekers: Vec<Seeker> = endpoints.iter().map(seeker).collect();
    let mut table = vec![FREE; places as usize];
    let (mut left, mut round) = (places, 0.0);
    while left > 0 {
        round += 1.0;
        for (number, seeker) in (0_u32..).zip(&mut seekers) {
            if left == 0 {
                break;
            }
            if round * seeker.share < seeker.target {
                continue;
            }
            seeker.target += largest;
            // One is free, and as their number is a prime it comes to all of them.
            while let Some(place) = table.get_mut(seeker.next(size)) {
                if *place == FREE {
                    *place = number;
                    left -= 1;
                    break;
                }
            }
        }
    }
    table
}

#[cfg(test)]
mod tests;
