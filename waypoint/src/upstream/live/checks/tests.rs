use std::time::Duration;

use ambit_model::balance::{Limits, Outcome, OutlierDetection, Thresholds};

use super::super::tests::{LONG, cluster, endpoints, host, of_age, outliers, share, slowly, used};
use super::*;
use crate::compiled::Probe;

fn check() -> HealthCheck {
    let second = Duration::from_secs(1);
    HealthCheck {
        probe: Probe::Tcp,
        timeout: second,
        interval: second,
        unhealthy_interval: second,
        no_traffic_interval: second,
        initial_jitter: Duration::ZERO,
        jitter: Duration::ZERO,
        jitter_percent: 0,
        thresholds: Thresholds { unhealthy: 2, healthy: 2 },
        acquits: true,
    }
}

/// A cluster whose endpoints are checked like this, if they are.
fn checked(live: &Arc<Live>, check: Option<HealthCheck>, outliers: Option<OutlierDetection>) -> Arc<Cluster> {
    let mut cluster = Arc::into_inner(cluster(live, outliers, Limits::default())).unwrap();
    cluster.checks = check.map(Arc::new);
    Arc::new(cluster)
}

#[test]
fn a_result_counts_only_for_an_endpoint_that_is_there_and_checked() {
    let live = Arc::new(Live::default());
    let cluster = checked(&live, Some(check()), None);
    let silent = |host: &Arc<Host>| live.found(&cluster, &check(), host, Found::Silent, Some("no answer".to_owned()));
    live.follow(&cluster, endpoints(&[1, 2, 3]));
    assert_eq!(live.checked().len(), 3);
    let third = host(&cluster, 3);
    live.follow(&cluster, endpoints(&[1, 2]));
    // It has left while it was asked, and comes back as another.
    silent(&third);
    assert!(!third.is_failing());
    live.follow(&cluster, endpoints(&[1, 2, 3]));
    assert_eq!(used(&cluster), [1, 2].into(), "one that is new waits for its first check");
    let third = live.checked().into_iter().find(|host| host.is_failing()).expect("it waits");
    assert_eq!(third.why_failing().as_deref(), Some("it waits for its first health check"));
    live.found(&cluster, &check(), &third, Found::Well, None);
    assert_eq!(used(&cluster), [1, 2, 3].into());
    silent(&third);
    assert_eq!(used(&cluster), [1, 2, 3].into(), "once is not enough");
    silent(&third);
    assert_eq!((used(&cluster), third.why_failing().as_deref()), ([1, 2].into(), Some("no answer")));
    // Without checks nothing of it is left, and what comes late changes nothing.
    let unchecked = checked(&live, None, None);
    live.follow(&unchecked, endpoints(&[1, 2, 3]));
    assert_eq!((used(&unchecked), live.checked().len()), ([1, 2, 3].into(), 0));
    silent(&third);
    silent(&third);
    assert_eq!(used(&unchecked), [1, 2, 3].into());
}

#[test]
fn one_that_is_well_again_is_given_little_at_first_where_its_cluster_starts_slowly() {
    let live = of_age();
    let mut cluster = Arc::into_inner(slowly(&live, false, None)).unwrap();
    cluster.checks = Some(Arc::new(check()));
    let cluster = Arc::new(cluster);
    live.follow(&cluster, endpoints(&[1, 2]));
    let [first, second] = [1, 2].map(|port| host(&cluster, port));
    for host in [&first, &second] {
        host.since.now(Duration::ZERO);
    }
    live.found(&cluster, &check(), &first, Found::Silent, None);
    assert_eq!(used(&cluster), [2].into());
    for _ in 0..2 {
        live.found(&cluster, &check(), &first, Found::Well, None);
    }
    let share = share(&cluster, 1);
    assert!((30..250).contains(&share), "{share}");
}

#[test]
fn who_answers_well_is_no_longer_ejected_if_the_check_is_to_acquit() {
    for acquits in [true, false] {
        let live = Arc::new(Live::default());
        let check = HealthCheck { acquits, ..check() };
        let cluster = checked(&live, Some(check.clone()), Some(outliers(LONG)));
        live.follow(&cluster, endpoints(&[1, 2]));
        let first = host(&cluster, 1);
        cluster.note(&first, Outcome::Failed);
        cluster.note(&first, Outcome::Failed);
        assert!(first.is_ejected());
        live.found(&cluster, &check, &first, Found::Well, None);
        assert_eq!(first.is_ejected(), !acquits);
        assert_eq!(used(&cluster).contains(&1), acquits);
    }
}
