use super::super::tests::{AGE, WINDOW, endpoints, host, of_age, outliers, share, slowly};
use super::*;

use std::sync::Arc;

use ambit_model::balance::Outcome;

/// Has these endpoints take requests for so long by now.
fn since(cluster: &crate::compiled::Cluster, ports: &[u16], long: Duration) {
    ports.iter().for_each(|port| host(cluster, *port).since.now(AGE - long));
    cluster.live.warms.store(0, Ordering::Release);
}

#[test]
fn a_new_endpoint_is_given_little_at_first_and_its_share_only_when_its_window_is_over() {
    let live = of_age();
    let cluster = slowly(&live, false, None);
    live.follow(&cluster, endpoints(&[1, 2]));
    assert!(share(&cluster, 1).abs_diff(500) < 20, "all are new, so that all have the same");
    since(&cluster, &[1, 2], AGE);
    assert!(share(&cluster, 1).abs_diff(500) < 20);
    assert_eq!(live.warms.load(Ordering::Acquire), NEVER, "nobody is new");
    live.follow(&cluster, endpoints(&[1, 2, 3]));
    let grown = [Duration::ZERO, WINDOW / 2, WINDOW].map(|long| {
        since(&cluster, &[3], long);
        share(&cluster, 3)
    });
    // A tenth of the others', half of theirs, and as much. Later than it was meant to be it is more.
    let [first, half, whole] = grown;
    assert!((30..150).contains(&first) && (180..310).contains(&half) && (310..350).contains(&whole), "{grown:?}");
    // One that was there before is not new when its cluster changes.
    live.follow(&cluster, endpoints(&[3, 4]));
    assert!(share(&cluster, 3) > 800, "{}", share(&cluster, 3));
    // One that comes back is.
    live.follow(&cluster, endpoints(&[4]));
    since(&cluster, &[4], AGE);
    live.follow(&cluster, endpoints(&[3, 4]));
    assert!(share(&cluster, 3) < 250, "{}", share(&cluster, 3));
}

#[test]
fn one_that_was_ejected_returns_slowly_where_that_is_asked_for_and_at_once_elsewhere() {
    for after_ejection in [false, true] {
        let live = of_age();
        let cluster = slowly(&live, after_ejection, Some(outliers(Duration::from_millis(1))));
        live.follow(&cluster, endpoints(&[1, 2]));
        since(&cluster, &[1, 2], AGE);
        assert!(share(&cluster, 1).abs_diff(500) < 20);
        let first = host(&cluster, 1);
        cluster.note(&first, Outcome::Failed);
        cluster.note(&first, Outcome::Failed);
        while first.is_ejected() {
            std::thread::sleep(Duration::from_millis(1));
            live.look(&cluster);
        }
        let share = share(&cluster, 1);
        assert!(if after_ejection { (30..250).contains(&share) } else { share > 450 }, "{after_ejection}: {share}");
    }
}

#[test]
fn one_that_returns_is_asked_a_little_at_first_while_new_ones_have_their_whole_share_at_once() {
    let live = of_age();
    let mut cluster = Arc::into_inner(slowly(&live, true, Some(outliers(Duration::from_millis(1))))).unwrap();
    cluster.balance.slow_start = Some(SlowStart { window: WINDOW, ..SlowStart::OF_RETURNING });
    let cluster = Arc::new(cluster);
    live.follow(&cluster, endpoints(&[1, 2]));
    live.follow(&cluster, endpoints(&[1, 2, 3]));
    assert!(share(&cluster, 3).abs_diff(333) < 20, "a new one");
    assert_eq!(live.warms.load(Ordering::Acquire), NEVER);
    let first = host(&cluster, 1);
    cluster.note(&first, Outcome::Failed);
    cluster.note(&first, Outcome::Failed);
    while first.is_ejected() {
        std::thread::sleep(Duration::from_millis(1));
        live.look(&cluster);
    }
    // Others take all of it until real requests show whether it is well: few at first, but some.
    let few = share(&cluster, 1);
    assert!((20..150).contains(&few), "{few}");
    for (long, least, most) in [(WINDOW / 2, 150, 260), (WINDOW, 310, 350)] {
        first.returned.now(AGE - long);
        live.warms.store(0, Ordering::Release);
        let grown = share(&cluster, 1);
        assert!((least..most).contains(&grown), "{grown} after {long:?}");
    }
}
