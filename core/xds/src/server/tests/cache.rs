use super::{aliased, change};
use crate::server::{Cache, Change};

const VIEW: &str = "view";
const TYPE: &str = "type/any";

fn versions(cache: &Cache) -> Vec<(String, String)> {
    cache.read(VIEW, TYPE, |content| content.entries().map(|entry| (entry.name.to_string(), entry.version.to_string())).collect())
}

fn changed_since(cache: &Cache, seen: u64) -> Option<Vec<String>> {
    cache.read(VIEW, TYPE, |content| content.changed_since(seen).map(|names| names.iter().map(ToString::to_string).collect()))
}

#[test]
fn a_resource_that_did_not_change_wakes_nobody() {
    let cache = Cache::new();
    let mut watch = cache.watch(VIEW);
    assert_eq!(cache.update(VIEW, TYPE, [change("a", "1")]), 1);
    assert!(watch.has_changed().unwrap());
    watch.mark_unchanged();
    assert_eq!(cache.update(VIEW, TYPE, [change("a", "1"), Change::remove("none")]), 0);
    assert!(!watch.has_changed().unwrap());
}

#[test]
fn equal_content_has_equal_versions_in_every_instance() {
    let (one, two) = (Cache::new(), Cache::new());
    one.update(VIEW, TYPE, [change("x", "0"), change("x", "1"), change("a", "1")]);
    two.update(VIEW, TYPE, [change("a", "1"), change("x", "1")]);
    assert_eq!(versions(&one), versions(&two));
    two.update(VIEW, TYPE, [aliased("a", &["b"], "1")]);
    assert_ne!(versions(&one), versions(&two), "aliases are content");
}

#[test]
fn the_log_names_what_changed_since_a_generation_once() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1"), change("b", "1"), change("c", "1")]);
    cache.update(VIEW, TYPE, [change("a", "2"), change("a", "3"), Change::remove("b")]);
    assert_eq!(changed_since(&cache, 3).unwrap(), ["a", "b"]);
    assert!(changed_since(&cache, 6).unwrap().is_empty());
}

#[test]
fn a_session_that_missed_too_many_removals_is_told_so() {
    let cache = Cache::new();
    let _session = cache.watch(VIEW);
    cache.update(VIEW, TYPE, (0..20_000).map(|n| change(&n.to_string(), "1")));
    assert!(changed_since(&cache, 10).is_some());
    cache.update(VIEW, TYPE, (0..20_000).map(|n| Change::remove(n.to_string())));
    assert!(changed_since(&cache, 20_000).is_none(), "the oldest removals are forgotten");
    assert_eq!(changed_since(&cache, 39_000).unwrap().len(), 1000);
}

#[test]
fn replacing_removes_what_is_not_there_any_more() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1"), change("b", "1")]);
    assert_eq!(cache.replace(VIEW, TYPE, vec![change("b", "1"), change("c", "1")]), 2);
    assert_eq!(versions(&cache).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    cache.clear(VIEW);
    assert!(versions(&cache).is_empty());
}

#[test]
fn an_alias_finds_its_resource_for_as_long_as_it_has_it() {
    let cache = Cache::new();
    let find = |asked: &str| -> Vec<String> {
        cache.read(VIEW, TYPE, |content| content.find(asked).iter().map(|entry| entry.name.to_string()).collect())
    };
    cache.update(VIEW, TYPE, [aliased("a", &["/10.0.0.1", "/fd00::1"], "1"), aliased("b", &["/10.0.0.2"], "1")]);
    assert_eq!(find("/10.0.0.1"), ["a"]);
    assert_eq!(find("a"), ["a"]);
    cache.update(VIEW, TYPE, [aliased("b", &["/10.0.0.1"], "1")]);
    assert_eq!(find("/10.0.0.1"), ["a", "b"], "two pods may share an address for a moment");
    cache.update(VIEW, TYPE, [Change::remove("a")]);
    assert_eq!(find("/10.0.0.1"), ["b"]);
    assert!(find("/fd00::1").is_empty() && find("/10.0.0.2").is_empty());
}

#[test]
fn a_view_of_which_nothing_is_left_is_forgotten_once_nobody_sees_it() {
    let cache = Cache::new();
    let watch = cache.watch(VIEW);
    cache.update(VIEW, TYPE, [change("a", "1")]);
    cache.clear(VIEW);
    assert_eq!(cache.views(), [VIEW], "a session must see the removal");
    drop(watch);
    cache.clear(VIEW);
    assert!(cache.views().is_empty());
}
