use super::*;

const RING: Hashing = Hashing::Ring { least: 1024, most: 8_388_608 };
const MAGLEV: Hashing = Hashing::Maglev { size: 65_537 };

/// Endpoints of these weights, called by their place.
fn endpoints(weights: &[u32]) -> Vec<(String, f64)> {
    let total: u32 = weights.iter().sum();
    let endpoint = |(place, weight): (usize, &u32)| (format!("10.0.0.{place}:80"), f64::from(*weight) / f64::from(total));
    weights.iter().enumerate().map(endpoint).collect()
}

fn first(table: &Table, key: u32) -> usize {
    table.near(xxh64(0, format!("user-{key}").as_bytes()))[0]
}

/// How many of 20,000 keys each endpoint takes.
fn taken(hashing: Hashing, weights: &[u32]) -> Vec<usize> {
    let table = hashing.table(&endpoints(weights));
    let mut taken = vec![0; weights.len()];
    (0..20_000).for_each(|key| taken[first(&table, key)] += 1);
    taken
}

#[test]
fn the_hash_is_the_one_that_others_have() {
    assert_eq!(xxh64(0, b""), 0xef46_db37_51d8_e999);
    assert_eq!(xxh64(0, b"a"), 0xd24e_c4f1_a98c_6e5b);
    assert_eq!(xxh64(0, b"abc"), 0x44bc_2cf5_ad77_0999);
    assert_eq!(xxh64(1234, b"some bytes"), 0xeab5_5659_a496_d78b);
}

#[test]
fn endpoints_take_hashes_by_their_weights() {
    for (hashing, within) in [(RING, 45), (Hashing::Ring { least: 65_536, most: 8_388_608 }, 10), (MAGLEV, 10)] {
        for weights in [&[1, 1, 1, 1][..], &[1, 2, 5], &[9, 1], &[1]] {
            let total: u32 = weights.iter().sum();
            for (taken, weight) in taken(hashing, weights).into_iter().zip(weights) {
                let due = 20_000 * *weight as usize / total as usize;
                assert!(taken.abs_diff(due) * 100 <= due * within, "{hashing:?} {weights:?}: {taken} where {due} are due");
            }
        }
    }
}

#[test]
fn a_ring_has_no_more_places_than_it_may_and_a_whole_number_for_each_of_the_same_weight() {
    let places = |hashing: Hashing, weights: &[u32]| match hashing.table(&endpoints(weights)) {
        Table::Ring(places) => places.len(),
        Table::Maglev(places) => places.len(),
    };
    // And one more where a third is not quite one.
    assert!((1026..=1027).contains(&places(RING, &[1; 3])));
    assert_eq!(places(RING, &[1; 1024]), 1024);
    assert!((2000..=2001).contains(&places(Hashing::Ring { least: 1024, most: 2000 }, &[1; 3000])));
    assert_eq!(places(Hashing::Ring { least: 1, most: 1 }, &[1, 1]), 1);
    assert_eq!(places(MAGLEV, &[1, 7]), 65_537);
    assert_eq!(places(Hashing::Maglev { size: 2 }, &[1, 1, 1]), 2);
}

#[test]
fn when_one_endpoint_goes_hardly_any_hash_but_its_own_leads_elsewhere() {
    // Where there are fewer endpoints each has some more places on a ring, so that it is no smaller than it may be.
    for (hashing, of_hundred) in [(RING, 15), (MAGLEV, 8)] {
        let all = endpoints(&[1; 10]);
        let mut fewer = all.clone();
        fewer.remove(3);
        let (before, after) = (hashing.table(&all), hashing.table(&fewer));
        let name = |list: &[(String, f64)], place: usize| list[place].0.clone();
        let (mut own, mut moved) = (0, 0);
        for key in 0..10_000 {
            let (one, other) = (name(&all, first(&before, key)), name(&fewer, first(&after, key)));
            match one == all[3].0 {
                true => own += 1,
                false => moved += usize::from(one != other),
            }
        }
        assert!((500..1500).contains(&own), "{hashing:?}: {own}");
        assert!(moved <= 100 * of_hundred, "{hashing:?}: {moved} of 10,000 moved that need not have");
    }
}

#[test]
fn the_same_hash_leads_to_the_same_endpoint_and_others_follow_it_once_each() {
    for hashing in [RING, MAGLEV] {
        let (one, other) = (hashing.table(&endpoints(&[1; 5])), hashing.table(&endpoints(&[1; 5])));
        for key in 0..1000_u64 {
            let near = one.near(xxh64(0, &key.to_be_bytes()));
            assert_eq!(near, other.near(xxh64(0, &key.to_be_bytes())));
            let mut each = near.clone();
            each.sort_unstable();
            each.dedup();
            assert!(near.len() > 1 && each.len() == near.len(), "{near:?}");
        }
        for hash in [0, u64::MAX] {
            assert!(one.near(hash)[0] < 5, "the ends of the range lead somewhere");
        }
    }
}

#[test]
fn without_endpoints_no_hash_leads_anywhere() {
    for hashing in [RING, MAGLEV, Hashing::Maglev { size: 0 }] {
        assert!(hashing.table(&[]).near(7).is_empty());
    }
}
