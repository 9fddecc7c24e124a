use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ambit_model::balance::{Hashing, Limits, Outcome};

use super::super::{
    Aim, Live,
    tests::{LONG, endpoints, host, outliers},
};
use super::*;
use crate::compiled::{Cluster, Target};

/// A cluster to whose endpoints hashes lead.
fn hashed(live: &Arc<Live>, hashing: Hashing) -> Arc<Cluster> {
    let limits = Limits { connections: 0, pending: 0, requests: 0 };
    let mut cluster = Arc::into_inner(super::super::tests::cluster(live, Some(outliers(LONG)), limits)).unwrap();
    cluster.balance.policy = Policy::Hash(hashing);
    Arc::new(cluster)
}

fn port(place: &Place) -> u16 {
    let Target::Clear { address } = &place.endpoint.target else { panic!("in clear") };
    address.port()
}

/// The ports that a request with this hash goes to, in turn, where these have failed at it.
fn order(cluster: &Cluster, hash: u64, failed: &[u16]) -> Vec<u16> {
    let failed: Vec<SocketAddr> = failed.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
    let aim = Aim { hash: Some(hash), failed: &failed, ..Aim::default() };
    cluster.live.choose_for(aim, cluster, 9, |place| Ok::<_, ()>(port(place))).unwrap()
}

/// Where each of a hundred hashes leads.
fn led(cluster: &Cluster) -> Vec<u16> {
    (0..100_u64).map(|number| order(cluster, number.wrapping_mul(0x9e37_79b9_7f4a_7c15), &[])[0]).collect()
}

const BOTH: [Hashing; 2] = [Hashing::Ring { least: 1024, most: 4096 }, Hashing::Maglev { size: 65_537 }];

#[test]
fn a_hash_leads_to_the_same_endpoint_until_that_one_goes_or_fails() {
    for hashing in BOTH {
        let live = Arc::new(Live::default());
        let cluster = hashed(&live, hashing);
        live.follow(&cluster, endpoints(&[1, 2, 3]));
        let before = led(&cluster);
        assert!([1, 2, 3].iter().all(|port| before.contains(port)), "{before:?}");
        assert_eq!(led(&cluster), before);
        for (number, port) in (0..100_u64).zip(&before) {
            let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_eq!(live.led_by(hash).map(|place| self::port(&place)), Some(*port));
            let again = order(&cluster, hash, &[*port]);
            assert!(again[0] != *port && again.len() == 3, "another one first, and all of them: {again:?}");
        }
        // Without a runtime nothing is made aside.
        let first = host(&cluster, 1);
        cluster.note(&first, Outcome::Failed);
        cluster.note(&first, Outcome::Failed);
        let after = led(&cluster);
        assert!(!after.contains(&1), "it is ejected");
        let moved = before.iter().zip(&after).filter(|(before, after)| **before != 1 && before != after).count();
        assert!(moved < 40, "{hashing:?}: {moved} of those for others");
        live.follow(&cluster, endpoints(&[3, 2]));
        assert!(led(&cluster).iter().all(|port| [2, 3].contains(port)));
        let anywhere = || live.choose(&cluster, 1, |place| Ok::<_, ()>(port(place))).unwrap()[0];
        let random: Vec<_> = (0..100).map(|_| anywhere()).collect();
        assert!(random.contains(&2) && random.contains(&3), "without a hash any other number is as good");
    }
}

#[tokio::test]
async fn no_request_waits_for_a_table_and_the_last_one_is_in_force() {
    for hashing in BOTH {
        let live = Arc::new(Live::default());
        let cluster = hashed(&live, hashing);
        live.follow(&cluster, endpoints(&[1, 2, 3, 4]));
        for port in [1, 2] {
            let host = host(&cluster, port);
            cluster.note(&host, Outcome::Failed);
            cluster.note(&host, Outcome::Failed);
        }
        let began = Instant::now();
        while led(&cluster).iter().any(|port| *port < 3) {
            assert!(began.elapsed() < Duration::from_secs(30), "those that are ejected are still led to");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        live.follow(&cluster, endpoints(&[4]));
        // Something of before that is still made does not come after it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(led(&cluster).iter().all(|port| *port == 4));
    }
}
