//! All kinds in one stream.

use std::sync::Arc;

use super::{made, service, text};
use crate::source::Problem;
use crate::source::kubernetes::merge::{Merge, Trouble, Update};
use crate::source::object::{Event, Kind, NamespacedName, ObjectKey};

fn update(kind: Kind, listed: bool, events: Vec<Event>) -> Update {
    Update { kind, only: None, listed, events, problems: Arc::default(), trouble: None }
}

fn upsert(name: &str, port: u32) -> Event {
    Event::Upsert(made(Kind::Service, &service(name, 1, port), None).object.unwrap())
}

fn delete(name: &str) -> Event {
    Event::Delete(ObjectKey { kind: Kind::Service, name: NamespacedName::new("shop", name) })
}

#[test]
fn the_first_batch_waits_for_every_kind_and_says_what_is_left_of_each_object() {
    let mut merge = Merge::new(&[Kind::Pod, Kind::Service]);
    merge.take(update(Kind::Service, true, vec![upsert("b", 80), upsert("a", 80)]));
    merge.take(update(Kind::Service, true, vec![delete("b"), upsert("a", 81)]));
    assert!(merge.batch().is_none());
    merge.take(update(Kind::Pod, false, Vec::new()));
    assert!(merge.batch().is_none());
    merge.take(update(Kind::Pod, true, Vec::new()));
    assert_eq!(text(merge.batch().unwrap()), ["+shop/a"]);
    assert!(merge.batch().is_none());
    merge.take(update(Kind::Service, true, vec![delete("a"), upsert("b", 80)]));
    merge.take(update(Kind::Service, true, vec![upsert("a", 80)]));
    assert_eq!(text(merge.batch().unwrap()), ["-shop/a", "+shop/b", "+shop/a"], "in order");
}

#[test]
fn a_server_that_cannot_be_reached_is_one_problem_and_a_batch_without_events() {
    let mut merge = Merge::new(&[Kind::Pod, Kind::Service]);
    merge.take(update(Kind::Pod, true, Vec::new()));
    merge.take(update(Kind::Service, true, Vec::new()));
    assert_eq!(text(merge.batch().unwrap()), [""; 0]);
    for kind in [Kind::Pod, Kind::Service] {
        let trouble = Some(Trouble { reason: "the API server cannot be reached: refused".into(), unreachable: true });
        merge.take(Update { trouble, ..update(kind, true, Vec::new()) });
    }
    assert_eq!(text(merge.batch().unwrap()), [""; 0]);
    let told: Vec<String> = merge.problems().iter().map(Problem::to_string).collect();
    assert_eq!(told, ["cluster: the API server cannot be reached: refused; what was in force before stays"]);
    merge.take(update(Kind::Pod, true, Vec::new()));
    merge.take(update(Kind::Service, true, Vec::new()));
    assert!(merge.batch().is_some() && merge.problems().is_empty());
}
