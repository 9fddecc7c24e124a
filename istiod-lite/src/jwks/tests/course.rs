//! What is fetched when, by a clock that stands still.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::jwks::course::{AT_ONCE, Course, EACH, MOST, Outcome};
use crate::jwks::{Fetched, KeySource, News, NoKeys, Wanted};

const REFRESH: Duration = Duration::from_mins(20);
const PATIENCE: Duration = Duration::from_secs(5);

fn source(name: &str) -> KeySource {
    KeySource::Set(format!("https://{name}/keys"))
}

/// Asked for by these namespaces.
fn by(namespaces: &[&str]) -> Wanted {
    Wanted { patience: PATIENCE, namespaces: namespaces.iter().map(|name| (*name).into()).collect() }
}

/// Each by a namespace of its own.
fn wanted(names: &[&str]) -> BTreeMap<KeySource, Wanted> {
    names.iter().map(|name| (source(name), by(&[*name]))).collect()
}

/// A course with a clock.
struct Clock {
    course: Course,
    began: Instant,
    now: Instant,
}

impl Clock {
    fn new(names: &[&str]) -> Self {
        let now = Instant::now();
        let mut course = Course::new(REFRESH);
        assert_eq!(course.want(now, &wanted(names)), []);
        Self { course, began: now, now }
    }

    /// Seconds since the beginning at which something is due next.
    fn due(&self) -> Option<u64> {
        self.course.due().map(|due| due.saturating_duration_since(self.began).as_secs())
    }

    /// Lets time go on until something is due, begins it and ends it in this way.
    fn fetch(&mut self, result: Result<&str, &str>) -> (Option<Outcome>, Option<News>) {
        self.end(result.map(Into::into).map_err(|why| NoKeys::Failed(why.into())))
    }

    fn end(&mut self, result: Result<Arc<str>, NoKeys>) -> (Option<Outcome>, Option<News>) {
        self.now = self.now.max(self.course.due().unwrap());
        let (source, patience) = self.course.next(self.now).unwrap();
        assert_eq!(patience, PATIENCE);
        self.course.ended(self.now, &source, result, 0.0)
    }
}

fn keys(name: &str, text: &str) -> Option<News> {
    Some((source(name), Some(Fetched::Keys(text.into()))))
}

fn failed(name: &str, why: &str) -> Option<News> {
    Some((source(name), Some(Fetched::Failed(why.into()))))
}

#[test]
fn what_is_new_is_fetched_at_once_and_then_again_and_again() {
    let mut clock = Clock::new(&["a"]);
    assert_eq!(clock.due(), Some(0));
    assert_eq!(clock.fetch(Ok("1")), (Some(Outcome::Changed), keys("a", "1")));
    assert_eq!(clock.due(), Some(1200));
    assert_eq!(clock.course.next(clock.now), None, "not yet");
    assert_eq!(clock.fetch(Ok("1")), (Some(Outcome::Unchanged), None));
    assert_eq!(clock.due(), Some(2400));
    assert_eq!(clock.fetch(Ok("2")), (Some(Outcome::Changed), keys("a", "2")));
    // Asking for the same again changes nothing.
    assert_eq!(clock.course.want(clock.now, &wanted(&["a"])), []);
    assert_eq!(clock.due(), Some(3600));
}

#[test]
fn keys_outlast_their_issuer_which_is_asked_again_after_ever_longer_waits() {
    let mut clock = Clock::new(&["a"]);
    clock.fetch(Ok("1"));
    let mut due = Vec::new();
    for failures in 1..=9 {
        let outcome = if failures == 1 { Outcome::Failed } else { Outcome::FailedAgain };
        // Of one that does not last nobody hears.
        let told = (failures == 3).then(|| (source("a"), Some(Fetched::Kept("1".into(), "away".into()))));
        assert_eq!(clock.fetch(Err("away")), (Some(outcome), told));
        due.push(clock.due().unwrap() - 1200);
    }
    assert_eq!(due, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
    let lines = serde_json::to_value(clock.course.lines(clock.now)).unwrap();
    assert_eq!((&lines[0]["keys"], &lines[0]["error"], &lines[0]["failures"]), (&true.into(), &"away".into(), &9.into()));
    assert_eq!((&lines[0]["ageSeconds"], &lines[0]["nextInSeconds"]), (&(1200 + 183).into(), &60.into()));
    assert_eq!(clock.fetch(Ok("1")), (Some(Outcome::Unchanged), keys("a", "1")), "they hold without a doubt again");
    assert_eq!(clock.fetch(Err("away")).0, Some(Outcome::Failed));
    assert_eq!(clock.fetch(Ok("2")), (Some(Outcome::Changed), keys("a", "2")));
}

#[test]
fn without_keys_it_is_told_why_once_for_each_cause() {
    let mut clock = Clock::new(&["a"]);
    assert_eq!(clock.fetch(Err("away")).1, failed("a", "away"));
    assert_eq!(clock.fetch(Err("away")).1, None);
    assert_eq!(clock.fetch(Err("it answers 404")).1, failed("a", "it answers 404"));
    assert_eq!(clock.fetch(Ok("1")).1, keys("a", "1"));
}

#[test]
fn keys_that_are_withdrawn_hold_no_longer_and_their_issuer_is_asked_again_soon() {
    let mut clock = Clock::new(&["a"]);
    let withdrawn = || Err(NoKeys::Withdrawn("it has no keys".into()));
    assert_eq!(clock.end(withdrawn()), (Some(Outcome::Failed), failed("a", "it has no keys")), "it never had any");
    clock.fetch(Ok("1"));
    for _ in 0..4 {
        clock.fetch(Err("away"));
    }
    assert_eq!(clock.end(withdrawn()), (Some(Outcome::Withdrawn), failed("a", "it has no keys")));
    let lines = serde_json::to_value(clock.course.lines(clock.now)).unwrap();
    assert_eq!((&lines[0]["keys"], &lines[0]["error"]), (&false.into(), &"it has no keys".into()));
    assert!(lines[0]["nextInSeconds"].as_u64() < Some(60) && lines[0].get("ageSeconds").is_none(), "{lines}");
    assert_eq!(clock.end(withdrawn()), (Some(Outcome::FailedAgain), None));
    // An error does not bring them back.
    assert_eq!(clock.fetch(Err("away")), (Some(Outcome::FailedAgain), failed("a", "away")));
    assert_eq!(clock.fetch(Ok("1")), (Some(Outcome::Changed), keys("a", "1")));
}

#[test]
fn what_nobody_asks_for_any_more_is_forgotten_even_while_it_is_fetched() {
    let mut clock = Clock::new(&["a", "b"]);
    clock.fetch(Ok("1"));
    clock.fetch(Ok("1"));
    let (first, _) = {
        clock.now += REFRESH;
        clock.course.next(clock.now).unwrap()
    };
    assert_eq!(first, source("a"));
    assert_eq!(clock.course.want(clock.now, &wanted(&["b"])), [(source("a"), None)]);
    // Asked for again, it is not fetched twice at the same time, and what comes is taken.
    assert_eq!(clock.course.want(clock.now, &wanted(&["a", "b"])), []);
    assert_eq!(clock.course.next(clock.now).unwrap().0, source("b"));
    assert_eq!(clock.course.next(clock.now), None);
    assert_eq!(clock.course.ended(clock.now, &first, Ok("2".into()), 0.0).1, keys("a", "2"));
    clock.course.want(clock.now, &wanted(&[]));
    assert_eq!(clock.course.ended(clock.now, &source("b"), Ok("2".into()), 0.0), (None, None));
    assert_eq!(clock.course.due(), None);
}

#[test]
fn only_so_many_are_fetched_at_once_and_at_all() {
    let names: Vec<String> = (0..=MOST).map(|number| format!("{number:04}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let (now, mut course) = (Instant::now(), Course::new(REFRESH));
    let news = course.want(now, &wanted(&all));
    let [(beyond, Some(Fetched::Failed(why)))] = &news[..] else { panic!("{news:?}") };
    assert!(*beyond == source(all[MOST]) && why.contains("256 addresses already"), "{news:?}");
    assert_eq!(course.want(now, &wanted(&all)), [], "which is said once");
    let begun: Vec<KeySource> = std::iter::from_fn(|| course.next(now)).map(|(source, _)| source).collect();
    assert_eq!((begun.len(), course.due()), (AT_ONCE, None));
    course.ended(now, &begun[0], Ok("1".into()), 0.0);
    assert_eq!(course.next(now).unwrap().0, source(all[AT_ONCE]));
    // When one goes, the one that waits has its place.
    assert_eq!(course.want(now, &wanted(&all[1..])), [(source(all[0]), None)]);
    assert_eq!(course.lines(now).len(), MOST);
    assert_eq!(course.want(now, &wanted(&all[1..MOST])), [(source(all[MOST]), None)]);
}

#[test]
fn no_namespace_has_all_places_and_what_another_asks_for_too_is_fetched_for_that_one() {
    let (now, mut course) = (Instant::now(), Course::new(REFRESH));
    let names: Vec<String> = (0..=EACH).map(|number| format!("{number:04}")).collect();
    let mut all: BTreeMap<KeySource, Wanted> = names.iter().map(|name| (source(name), by(&["greedy"]))).collect();
    all.insert(source("other"), by(&["other"]));
    let news = course.want(now, &all);
    let [(beyond, Some(Fetched::Failed(why)))] = &news[..] else { panic!("{news:?}") };
    assert!(*beyond == source(&names[EACH]) && why.contains("32 addresses for its namespace already"), "{news:?}");
    assert_eq!((course.want(now, &all), course.lines(now).len()), (vec![], EACH + 1));
    all.insert(source(&names[EACH]), by(&["greedy", "other"]));
    assert_eq!((course.want(now, &all), course.lines(now).len()), (vec![], EACH + 2));
}

#[test]
fn waits_are_spread_and_never_longer_than_between_two_fetches() {
    let now = Instant::now();
    let mut course = Course::new(Duration::from_secs(1));
    course.want(now, &wanted(&["a"]));
    for (failures, spread, milliseconds) in [(1, 0.0, 1000), (2, 1.0, 900), (3, 0.5, 950), (4, 7.0, 900)] {
        course.next(now + Duration::from_secs(failures)).unwrap();
        course.ended(now, &source("a"), Err(NoKeys::Failed("away".into())), spread);
        assert_eq!(course.due(), Some(now + Duration::from_millis(milliseconds)), "after {failures} failures");
    }
}
