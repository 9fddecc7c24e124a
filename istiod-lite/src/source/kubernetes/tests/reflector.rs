//! One kind of object: what is asked next, and what comes of answers.

use kube::core::{Status, WatchEvent};
use serde_json::{Value, json};

use super::{service, text};
use crate::source::kubernetes::failure::{Failure, Verb};
use crate::source::kubernetes::reflector::{Pause, Reflector, Request};
use crate::source::object::Kind;

/// The services reflected so far, with their list taken in.
fn listed(services: &[Value]) -> Reflector {
    let mut reflector = Reflector::new(Kind::Service);
    let _ = reflector.page(services.to_vec(), Some("10".into()), None).unwrap();
    reflector
}

fn from(reflector: &Reflector) -> String {
    match reflector.request() {
        Request::Watch { path, from } => format!("{path} from {from}"),
        Request::List { path, limit, token } => format!("list {path} {limit:?} {token:?}"),
    }
}

#[test]
fn a_list_counts_once_its_last_page_has_come() {
    let mut reflector = Reflector::new(Kind::Service);
    assert_eq!(from(&reflector), "list /api/v1/services Some(500) None");
    assert_eq!(text(reflector.page(vec![service("a", 1, 80)], Some("9".into()), Some("next".into())).unwrap()), [""; 0]);
    assert!(!reflector.is_listed());
    assert_eq!(from(&reflector), "list /api/v1/services Some(500) Some(\"next\")");
    assert_eq!(
        text(reflector.page(vec![service("b", 2, 80)], Some("9".into()), Some(String::new())).unwrap()),
        ["+shop/a", "+shop/b"]
    );
    assert!(reflector.is_listed());
    assert_eq!(from(&reflector), "/api/v1/services from 9");
}

#[test]
fn a_watch_goes_on_from_the_last_event_or_bookmark() {
    let mut reflector = listed(&[service("a", 1, 80)]);
    assert_eq!(text(reflector.watched(WatchEvent::Added(service("b", 11, 80))).unwrap()), ["+shop/b"]);
    assert_eq!(from(&reflector), "/api/v1/services from 11");
    assert_eq!(text(reflector.watched(WatchEvent::Modified(service("b", 12, 80))).unwrap()), [""; 0], "nothing that matters");
    assert_eq!(text(reflector.watched(WatchEvent::Deleted(service("a", 13, 80))).unwrap()), ["-shop/a"]);
    let bookmark =
        json!({"type": "BOOKMARK", "object": {"kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": "40"}}});
    assert_eq!(text(reflector.watched(serde_json::from_value(bookmark).unwrap()).unwrap()), [""; 0]);
    let (events, pause) = reflector.failed(&Failure::Unreachable("connection reset".into()));
    assert_eq!((text(events), pause), (vec![], Pause::Failures(0)));
    assert_eq!(from(&reflector), "/api/v1/services from 40");
}

#[test]
fn after_a_410_the_difference_becomes_events_deletions_first() {
    let mut reflector = listed(&[service("a", 1, 80), service("b", 2, 80), service("c", 3, 80)]);
    let gone: Status = serde_json::from_value(json!({"code": 410, "reason": "Expired", "message": "too old"})).unwrap();
    let failure = reflector.watched(WatchEvent::Error(gone.boxed())).unwrap_err();
    assert_eq!(failure, Failure::Expired);
    assert_eq!(reflector.failed(&failure).1, Pause::Failures(0));
    assert_eq!(from(&reflector), "list /api/v1/services Some(500) None");
    let now = vec![service("b", 2, 80), service("c", 30, 81), service("d", 31, 80)];
    assert_eq!(text(reflector.page(now, Some("31".into()), None).unwrap()), ["-shop/a", "+shop/c", "+shop/d"]);
}

#[test]
fn a_list_whose_pages_expire_is_begun_anew_and_asked_for_whole_only_if_that_is_of_no_use() {
    let mut reflector = Reflector::new(Kind::Service);
    let torn = |reflector: &mut Reflector| {
        reflector.page(vec![service("a", 1, 80)], Some("9".into()), Some("next".into())).unwrap();
        reflector.failed(&Failure::Unreachable("reset".into()));
        assert_eq!(from(reflector), "list /api/v1/services Some(500) Some(\"next\")", "the page is asked for again");
        reflector.failed(&Failure::Expired);
        from(reflector)
    };
    for expected in ["Some(500)", "Some(500)", "None"] {
        assert_eq!(torn(&mut reflector), format!("list /api/v1/services {expected} None"));
    }
    // It may be too much at once.
    reflector.failed(&Failure::Unreachable("a list takes too long".into()));
    assert_eq!(from(&reflector), "list /api/v1/services Some(500) None");
    for expected in ["Some(500)", "Some(500)", "None"] {
        assert_eq!(torn(&mut reflector), format!("list /api/v1/services {expected} None"));
    }
    assert_eq!(text(reflector.page(vec![service("b", 1, 80)], Some("9".into()), None).unwrap()), ["+shop/b"]);
    reflector.failed(&Failure::Expired);
    assert_eq!(torn(&mut reflector), "list /api/v1/services Some(500) None", "counted anew");
}

#[test]
fn a_kind_is_absent_when_the_server_has_none_of_its_versions() {
    let mut reflector = Reflector::new(Kind::ReferenceGrant);
    assert_eq!(reflector.failed(&Failure::Missing).1, Pause::None);
    assert_eq!(from(&reflector), "list /apis/gateway.networking.k8s.io/v1beta1/referencegrants Some(500) None");
    assert!(!reflector.is_listed());
    assert_eq!(reflector.failed(&Failure::Missing).1, Pause::Absent);
    assert!(reflector.is_listed() && reflector.is_absent());
    // It comes.
    assert_eq!(from(&reflector), "list /apis/gateway.networking.k8s.io/v1/referencegrants Some(500) None");
    reflector.page(Vec::new(), Some("3".into()), None).unwrap();
    assert!(!reflector.is_absent());
}

#[test]
fn objects_are_not_given_up_for_one_404_nor_across_another_failure() {
    let mut reflector = Reflector::new(Kind::AuthorizationPolicy);
    let policy = json!({"metadata": {"namespace": "shop", "name": "p", "resourceVersion": "1"}, "spec": {}});
    assert_eq!(text(reflector.page(vec![policy], Some("1".into()), None).unwrap()), ["+shop/p"]);
    // In neither of its versions.
    let missing = |reflector: &mut Reflector| {
        assert!(reflector.doubts());
        assert_eq!(reflector.failed(&Failure::Missing).1, Pause::None);
        assert!(reflector.doubts(), "each 404 is confirmed");
        text(reflector.failed(&Failure::Missing).0)
    };
    for _ in 0..2 {
        assert_eq!(missing(&mut reflector), [""; 0]);
    }
    reflector.failed(&Failure::Unreachable("reset".into()));
    for _ in 0..2 {
        assert_eq!(missing(&mut reflector), [""; 0], "counted anew");
    }
    assert_eq!(missing(&mut reflector), ["-shop/p"]);
    assert!(reflector.is_absent() && !reflector.doubts());
}

#[test]
fn lists_that_succeed_and_watches_that_fail_are_asked_for_less_and_less_often() {
    let mut reflector = listed(&[service("a", 1, 80)]);
    for failures in 0..4 {
        assert_eq!(reflector.failed(&Failure::Broken("status 500".into())).1, Pause::Failures(failures));
        reflector.page(vec![service("a", 1, 80)], Some("10".into()), Some("next".into())).unwrap();
        reflector.page(vec![service("b", 1, 80)], Some("10".into()), None).unwrap();
    }
    reflector.watched(WatchEvent::Modified(service("b", 11, 80))).unwrap();
    assert_eq!(reflector.failed(&Failure::Broken("status 500".into())).1, Pause::Failures(0));
}

#[test]
fn a_core_kind_is_never_absent() {
    let mut reflector = listed(&[service("a", 1, 80)]);
    for failures in 0..10 {
        let (events, pause) = reflector.failed(&Failure::Missing);
        assert_eq!((text(events), pause), (vec![], Pause::Failures(failures)));
    }
    assert_eq!(from(&reflector), "/api/v1/services from 10");
    let mut unlisted = Reflector::new(Kind::Pod);
    unlisted.failed(&Failure::Missing);
    assert!(!unlisted.is_listed());
}

#[test]
fn what_rbac_lacks_is_named() {
    let status =
        json!({"code": 403, "reason": "Forbidden", "message": "pods is forbidden: User \"x\" cannot list resource \"pods\""});
    let failure = Failure::of_status(&serde_json::from_value(status).unwrap());
    let text = failure.text(Verb::Watch, Kind::HttpRoute);
    assert!(text.starts_with("cannot watch httproutes (403): pods is forbidden"), "{text}");
    assert!(text.ends_with("the resource httproutes of the API group \"gateway.networking.k8s.io\""), "{text}");
}

#[test]
fn the_problems_of_an_object_go_with_it() {
    let mut reflector = Reflector::new(Kind::HttpRoute);
    let route = |version: u32, spec: Value| json!({"metadata": {"namespace": "shop", "name": "r", "resourceVersion": version.to_string()}, "spec": spec});
    reflector.page(vec![route(1, json!({"sorcery": 1}))], Some("1".into()), None).unwrap();
    assert_eq!(reflector.problems().len(), 1);
    reflector.watched(WatchEvent::Modified(route(2, json!({})))).unwrap();
    assert_eq!(reflector.problems().len(), 0);
    reflector.watched(WatchEvent::Modified(route(3, json!({"hostnames": 3})))).unwrap();
    assert_eq!(reflector.problems().len(), 1);
    assert_eq!(
        text(reflector.watched(WatchEvent::Deleted(route(4, json!({})))).unwrap()),
        ["-shop/r"],
        "the last good one was in force"
    );
    assert_eq!(reflector.problems().len(), 0);
}
