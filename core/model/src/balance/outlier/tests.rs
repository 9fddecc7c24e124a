use Outcome::{Failed, Status, TimedOut};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> OutlierDetection {
    let enforced = |failures| Enforced { failures, percent: 100 };
    OutlierDetection {
        server_errors: enforced(3),
        gateway_failures: enforced(2),
        local_failures: enforced(2),
        base_time: 10 * SECOND,
        max_time: 25 * SECOND,
        interval: SECOND,
        ..OutlierDetection::default()
    }
}

/// What is found after each of the outcomes.
fn found(split: bool, outcomes: &[Outcome]) -> Vec<Vec<Why>> {
    let (mut history, rules) = (History::default(), OutlierDetection { split, ..rules() });
    outcomes.iter().map(|outcome| history.note(*outcome, &rules).collect()).collect()
}

#[test]
fn failures_in_a_row_are_counted_by_their_kind() {
    use Why::{Consecutive5xx as Any, ConsecutiveGatewayFailure as Gateway};
    let none = Vec::new;
    assert_eq!(found(false, &[Status(500); 4]), [none(), none(), vec![Any], none()]);
    assert_eq!(found(false, &[Status(500), Status(200), Status(500), Status(500)]), [none(), none(), none(), none()]);
    assert_eq!(found(false, &[Status(499), Status(501), Status(599), Status(500)]), [none(), none(), none(), vec![Any]]);
    assert_eq!(found(false, &[Status(502), Status(504), Status(503)]), [none(), vec![Gateway], vec![Any]]);
    assert_eq!(found(false, &[Status(503), Status(500), Status(503)]), [none(), none(), vec![Any]], "500 is no gateway's");
}

#[test]
fn what_fails_on_the_way_counts_as_an_answer_unless_it_is_split_off() {
    use Why::{Consecutive5xx as Any, ConsecutiveGatewayFailure as Gateway, ConsecutiveLocalOriginFailure as Local};
    let none = Vec::new;
    assert_eq!(found(false, &[Failed, TimedOut, Failed]), [none(), vec![Gateway], vec![Any]]);
    assert_eq!(found(true, &[Failed, TimedOut, Failed]), [none(), vec![Local], none()]);
    assert_eq!(found(true, &[Failed, Status(500), Failed]), [none(), none(), none()], "it was reached");
    assert_eq!(found(true, &[Status(500), Failed, Status(500), Status(500)]), [none(), none(), none(), vec![Any]]);
}

#[test]
fn of_nothing_in_a_row_nobody_is_accused() {
    let never = Enforced { failures: 0, percent: 100 };
    let rules = OutlierDetection { server_errors: never, gateway_failures: never, ..rules() };
    let mut history = History::default();
    assert_eq!((0..100).flat_map(|_| history.note(Status(503), &rules)).count(), 0);
}

#[test]
fn each_further_ejection_is_longer_up_to_the_longest_and_shorter_after_a_while_without_one() {
    let (mut history, rules) = (History::default(), rules());
    let mut now = Duration::ZERO;
    for lasts in [10, 20, 25, 25, 25] {
        history.eject(Why::Consecutive5xx, now, 7, &rules);
        assert_eq!(history.ejected(), Some((Why::Consecutive5xx, now + lasts * SECOND)));
        assert!(!history.look(now + (lasts - 1) * SECOND, 1, &rules));
        now += lasts * SECOND;
        assert!(history.look(now, 1, &rules) && history.ejected().is_none());
    }
    // Four times 10 s is the first beyond the longest: it goes no further.
    assert!(!history.look(now + SECOND, 3, &rules));
    history.eject(Why::Consecutive5xx, now, 7, &rules);
    assert_eq!(history.ejected().unwrap().1, now + 20 * SECOND);
    // Nobody looked for long.
    assert!(history.look(now + 60 * SECOND, 60, &rules));
    history.eject(Why::Consecutive5xx, now, 7, &rules);
    assert_eq!(history.ejected().unwrap().1, now + 10 * SECOND);
}

#[test]
fn an_endpoint_that_returns_is_tried_by_as_many_requests_as_at_first() {
    let (mut history, rules) = (History::default(), rules());
    assert_eq!([Status(500); 2].iter().flat_map(|outcome| history.note(*outcome, &rules)).count(), 0);
    history.eject(Why::SuccessRate, Duration::ZERO, 0, &rules);
    assert!(history.look(10 * SECOND, 10, &rules));
    assert_eq!(history.note(Status(500), &rules).count(), 0, "what failed before is forgotten");
}

/// One that was ejected for whatever reason and has just returned.
fn returned(rules: &OutlierDetection) -> History {
    let mut history = History::default();
    history.eject(Why::SuccessRate, Duration::ZERO, 0, rules);
    assert!(history.look(10 * SECOND, 10, rules));
    history
}

#[test]
fn on_probation_the_first_failure_ejects_and_after_the_first_success_all_is_as_at_first() {
    use Why::{Consecutive5xx as Any, ConsecutiveGatewayFailure as Gateway, ConsecutiveLocalOriginFailure as Local};
    let outcomes = [Status(200), Status(404), Status(500), Status(503), Failed, TimedOut];
    let found = |history: &mut History, outcome, rules: &OutlierDetection| history.note(outcome, rules).collect::<Vec<_>>();
    for split in [false, true] {
        let rules = OutlierDetection { split, probation: true, ..rules() };
        // Every row of up to five outcomes.
        for number in 0..outcomes.len().pow(5) {
            let row: Vec<_> = (0..5).map(|place| outcomes[number / outcomes.len().pow(place) % outcomes.len()]).collect();
            let (mut fresh, mut returned) = (History::default(), returned(&rules));
            let first = found(&mut returned, row[0], &rules);
            found(&mut fresh, row[0], &rules);
            let expected = match row[0] {
                Status(..500) => vec![],
                Status(500) => vec![Any],
                Failed | TimedOut if split => vec![Local],
                _ => vec![Gateway, Any],
            };
            assert_eq!(first, expected, "{row:?}, split {split}");
            if !expected.is_empty() {
                continue;
            }
            for outcome in &row[1..] {
                let (one, other) = (found(&mut returned, *outcome, &rules), found(&mut fresh, *outcome, &rules));
                assert_eq!(one, other, "{row:?}, split {split}");
            }
        }
    }
}

#[test]
fn who_fails_on_probation_is_ejected_for_longer() {
    let rules = OutlierDetection { probation: true, ..rules() };
    let (mut history, mut now) = (History::default(), Duration::ZERO);
    history.eject(Why::Consecutive5xx, now, 0, &rules);
    for lasts in [10, 20, 25, 25] {
        assert_eq!(history.ejected().unwrap().1, now + lasts * SECOND);
        now += lasts * SECOND;
        assert!(history.look(now, 1, &rules), "it returns though nobody has asked it since");
        let why = history.note(Status(500), &rules).next();
        assert_eq!(why, Some(Why::Consecutive5xx), "after {lasts} s");
        history.eject(Why::Consecutive5xx, now, 0, &rules);
    }
}

#[test]
fn on_probation_nobody_is_accused_of_what_nobody_is_ejected_for() {
    let never = Enforced { failures: 0, percent: 100 };
    let not_enforced = Enforced { failures: 2, percent: 0 };
    for rule in [never, not_enforced] {
        let rules =
            OutlierDetection { probation: true, server_errors: rule, gateway_failures: rule, local_failures: rule, ..rules() };
        for outcome in [Status(500), Status(503), Failed, TimedOut] {
            for split in [false, true] {
                let rules = OutlierDetection { split, ..rules.clone() };
                assert_eq!(returned(&rules).note(outcome, &rules).count(), 0, "{outcome:?}");
            }
        }
    }
    let rules = OutlierDetection { probation: true, ..rules() };
    let mut history = History::default();
    history.eject(Why::SuccessRate, Duration::ZERO, 0, &rules);
    history.acquit();
    assert_eq!(history.note(Status(500), &rules).count(), 0, "a health check has found it well");
}

#[test]
fn ejections_are_spread_by_their_jitter() {
    let rules = OutlierDetection { max_jitter: 2 * SECOND, ..rules() };
    for random in [0, 1_999_999_999, 2_000_000_000, 2_000_000_001, u64::MAX] {
        let mut history = History::default();
        history.eject(Why::SuccessRate, Duration::ZERO, random, &rules);
        let until = history.ejected().unwrap().1;
        assert!(until >= 10 * SECOND && until <= 12 * SECOND, "{until:?}");
    }
}

#[test]
fn no_more_are_ejected_than_may_be_at_once() {
    let rules = |max_percent, always_one| OutlierDetection { max_percent, always_one, ..rules() };
    for (max_percent, always_one, ejected, hosts, expected) in [
        (10, false, 0, 10, true),
        (10, false, 0, 9, false),
        (10, true, 0, 9, true),
        (10, true, 1, 19, false),
        (10, true, 1, 20, true),
        (50, false, 0, 2, true),
        (50, false, 1, 3, false),
        (100, false, 1, 2, true),
        (0, false, 0, 1000, false),
        (0, true, 0, 1, true),
        (900, false, 9, 10, true),
    ] {
        assert_eq!(rules(max_percent, always_one).has_room(ejected, hosts), expected, "{max_percent} {always_one} {ejected}");
    }
}

#[test]
fn an_outlier_is_ejected_in_as_many_cases_as_are_enforced() {
    let rules = OutlierDetection::default();
    let enforced = |why| (0..100).filter(|random| rules.enforces(why, *random)).count();
    assert_eq!((enforced(Why::Consecutive5xx), enforced(Why::ConsecutiveGatewayFailure)), (100, 0), "Envoy's defaults");
    let rules = OutlierDetection { success_rate: SuccessRate { enforcing: 30, ..SuccessRate::default() }, ..rules };
    assert_eq!((0..100).filter(|random| rules.enforces(Why::SuccessRate, *random)).count(), 30);
    let failure_percentage = FailurePercentage { enforcing: 20, enforcing_local: 40, ..FailurePercentage::default() };
    let rules = OutlierDetection { failure_percentage, ..rules };
    let enforced = |why| (0..100).filter(|random| rules.enforces(why, *random)).count();
    assert_eq!((enforced(Why::FailurePercentage), enforced(Why::LocalOriginFailurePercentage)), (20, 40));
}

#[test]
fn rates_are_those_since_they_were_last_asked_for() {
    let (mut history, rules) = (History::default(), OutlierDetection { split: true, ..rules() });
    for outcome in [Status(200), Status(404), Status(500), Failed, TimedOut] {
        let _why = history.note(outcome, &rules).count();
    }
    assert_eq!(history.rates(), [Rate { all: 3, good: 2 }, Rate { all: 5, good: 3 }]);
    assert_eq!(history.rates(), [Rate::default(); 2]);
}
