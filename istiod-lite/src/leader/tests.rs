mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::election::{Election, Record, Step};
use super::{Leadership, Terms};

const SECOND: Duration = Duration::from_secs(1);

fn candidate(name: &str, now: Instant) -> Election {
    Election::new(name.into(), Terms::default(), now)
}

fn lease(holder: &str, version: u32) -> Record {
    Record { holder: holder.into(), seconds: 15, transitions: 3, version: Some(version.to_string()), ..Record::default() }
}

#[test]
fn a_lease_that_is_not_there_is_made_and_renewed_by_who_made_it() {
    let (now, time) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let mut election = candidate("a", now);
    election.observe(None, now);
    let Step::Create(record) = election.step(now, time) else { panic!("{:?}", election.step(now, time)) };
    assert_eq!((record.holder.as_str(), record.seconds, record.transitions), ("a", 15, 0));
    election.written(Record { version: Some("1".into()), ..record }, now, now + SECOND);
    assert_eq!(election.until(), Some(now + 10 * SECOND), "counted from when the write began");
    let later = Timestamp::from_second(2).unwrap();
    let Step::Replace(record) = election.step(now + 2 * SECOND, later) else { panic!() };
    assert_eq!((record.acquired, record.renewed, record.transitions), (Some(time), Some(later), 0));
    assert_eq!(record.version.as_deref(), Some("1"), "only over the version that was seen");
}

#[test]
fn the_lease_of_another_runs_out_by_our_clock_whatever_times_it_tells() {
    let begin = Instant::now();
    for time in [Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        let mut election = candidate("b", begin);
        let held = Record { renewed: Some(time), acquired: Some(time), ..lease("a", 1) };
        election.observe(Some(held.clone()), begin);
        assert_eq!(election.step(begin + 14 * SECOND, Timestamp::UNIX_EPOCH), Step::Wait);
        // Somebody writes an annotation: its holder need not be alive for that.
        let touched = Record { version: Some("2".into()), ..held.clone() };
        election.observe(Some(touched.clone()), begin + 10 * SECOND);
        assert_eq!(election.expires(), Some(begin + 15 * SECOND));
        let Step::Replace(record) = election.step(begin + 15 * SECOND, Timestamp::UNIX_EPOCH) else { panic!() };
        assert_eq!(record.version, touched.version, "over what is there now");
        // It is renewed, and the count begins anew.
        let renewed = Record { version: Some("3".into()), renewed: Some(Timestamp::from_second(7).unwrap()), ..held };
        election.observe(Some(renewed.clone()), begin + 14 * SECOND);
        election.observe(Some(renewed), begin + 20 * SECOND);
        assert_eq!(election.step(begin + 28 * SECOND, Timestamp::UNIX_EPOCH), Step::Wait);
        assert_eq!(election.expires(), Some(begin + 29 * SECOND), "when to look again");
        let Step::Replace(record) = election.step(begin + 29 * SECOND, Timestamp::UNIX_EPOCH) else { panic!() };
        assert_eq!((record.holder.as_str(), record.transitions, record.version.as_deref()), ("b", 4, Some("3")));
    }
}

#[test]
fn a_lease_that_is_deleted_is_made_anew_when_its_holder_cannot_lead_any_more() {
    let (begin, time) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let mut other = candidate("b", begin);
    other.observe(Some(lease("a", 1)), begin);
    for after in [4, 8] {
        other.observe(None, begin + after * SECOND);
        assert_eq!(other.step(begin + after * SECOND, time), Step::Wait, "a may lead until it asks");
    }
    // Counted from when it was found deleted: it may have been renewed just before.
    assert_eq!(other.expires(), Some(begin + 19 * SECOND), "when to look again");
    assert!(matches!(other.step(begin + 19 * SECOND, time), Step::Create(_)));
    // Its holder knows that nobody else leads; and one that was given up had none.
    let mut holder = candidate("a", begin);
    holder.written(lease("a", 1), begin, begin);
    holder.observe(None, begin + SECOND);
    assert_eq!(holder.until(), None);
    assert!(matches!(holder.step(begin + SECOND, time), Step::Create(_)));
    other.observe(Some(lease("", 2)), begin + SECOND);
    other.observe(None, begin + SECOND);
    assert!(matches!(other.step(begin + SECOND, time), Step::Create(_)));
}

#[test]
fn a_lease_that_was_given_up_is_taken_at_once() {
    let (now, time) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let mut election = candidate("a", now);
    election.written(lease("a", 1), now, now);
    let released = election.released(time).unwrap();
    assert_eq!((released.holder.as_str(), released.seconds, released.version.as_deref()), ("", 1, Some("1")));
    let mut other = candidate("b", now);
    other.observe(Some(released), now);
    assert!(matches!(other.step(now, time), Step::Replace(record) if record.holder == "b"));
    assert_eq!(other.released(time), None, "nobody gives up what is not his");
}

#[test]
fn who_sees_another_hold_the_lease_leads_no_more() {
    let now = Instant::now();
    let mut election = candidate("a", now);
    election.written(lease("a", 1), now, now);
    assert!(election.until().is_some());
    election.observe(Some(lease("b", 2)), now + SECOND);
    assert_eq!(election.until(), None);
}

/// Three candidates whose clocks run up to 5 % fast or slow, whose requests are lost on the way there or back, take up to 3 s, and who
/// are away for up to 20 s at times.
fn contest(seed: u64) -> (usize, usize) {
    struct Candidate {
        election: Election,
        rate: f64,
        next: f64,
        /// A request under way: when it arrives, when its answer does, when it began, and what it writes.
        asked: Option<(f64, f64, Instant, Step)>,
        answer: Option<(f64, Instant, Option<Record>)>,
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let zero = Instant::now();
    let clock = |rate: f64, time: f64| zero + Duration::from_secs_f64(100.0 + time * rate);
    let mut candidates: Vec<Candidate> = (0..3)
        .map(|number| {
            let rate = 0.95 + 0.1 * random.f64();
            let election = candidate(&format!("c{number}"), clock(rate, 0.0));
            Candidate { election, rate, next: random.f64() * 2.0, asked: None, answer: None }
        })
        .collect();
    let (mut server, mut version) = (None::<Record>, 0);
    let (mut led, mut handed, mut last) = (0, 0, usize::MAX);
    for tick in 0..6000 {
        let time = f64::from(tick) * 0.1;
        for candidate in &mut candidates {
            let now = clock(candidate.rate, time);
            if candidate.next <= time && candidate.asked.is_none() && candidate.answer.is_none() {
                // What each candidate's own clock says.
                let local = Timestamp::UNIX_EPOCH + now.duration_since(zero);
                let step = candidate.election.step(now, local);
                candidate.asked = Some((time + random.f64() * 1.5, time + 1.5 + random.f64() * 1.5, now, step));
            }
            if candidate.asked.as_ref().is_some_and(|asked| asked.0 <= time) {
                let Some((_, back, began, step)) = candidate.asked.take() else { continue };
                let lost = random.f64() < 0.15;
                let written = match step {
                    Step::Create(record) if server.is_none() && !lost => Some(record),
                    Step::Replace(record) if !lost && server.as_ref().is_some_and(|held| held.version == record.version) => {
                        Some(record)
                    }
                    _ => None,
                };
                let accepted = written.map(|record| {
                    version += 1;
                    server = Some(Record { version: Some(version.to_string()), ..record });
                    server.clone()
                });
                let lost = lost || random.f64() < 0.15;
                candidate.answer = (!lost).then_some((back, began, accepted.flatten()));
                candidate.next = back + 2.0 + if random.f64() < 0.05 { random.f64() * 20.0 } else { 0.0 };
            }
            if candidate.answer.as_ref().is_some_and(|answer| answer.0 <= time) {
                let Some((_, began, accepted)) = candidate.answer.take() else { continue };
                match accepted {
                    Some(record) => candidate.election.written(record, began, now),
                    // It did not come through, so the Lease is read.
                    None => candidate.election.observe(server.clone(), now),
                }
            }
        }
        let leaders: Vec<usize> = (0..3)
            .filter(|number| {
                candidates[*number].election.until().is_some_and(|until| clock(candidates[*number].rate, time) < until)
            })
            .collect();
        assert!(leaders.len() <= 1, "seed {seed}, after {time} s: {leaders:?} lead");
        led += leaders.len();
        if let Some(leader) = leaders.first()
            && std::mem::replace(&mut last, *leader) != *leader
        {
            handed += 1;
        }
    }
    (led, handed)
}

#[test]
fn two_never_lead_at_once_and_somebody_leads_most_of_the_time() {
    let (mut led, mut handed) = (0, 0);
    for seed in 0..200 {
        let (ticks, changes) = contest(seed);
        led += ticks;
        handed += changes;
    }
    assert!(led > 200 * 6000 / 2, "somebody led for {led} ticks of {}", 200 * 6000);
    assert!(handed > 400, "the Lease changed hands {handed} times");
}

/// Counts what is under way.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn work_begins_with_each_lease_and_is_dropped_when_it_is_lost_or_runs_out() {
    let (until, receiver) = watch::channel(None);
    let leadership = Leadership { until: receiver };
    let (running, began) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, begins) = (Arc::clone(&running), Arc::clone(&began));
    let task = tokio::spawn(leadership.clone().while_leading(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        begins.fetch_add(1, Ordering::SeqCst);
        let guard = Guard(Arc::clone(&counted));
        async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        }
    }));
    let reaches = async |what: &str, counter: &AtomicUsize, expected: usize| {
        let begin = Instant::now();
        while counter.load(Ordering::SeqCst) != expected {
            assert!(begin.elapsed() < 10 * SECOND, "{what}: {counter:?}, not {expected}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(!leadership.leads());
    until.send_replace(Some(Instant::now() + 60 * SECOND));
    reaches("begun", &began, 1).await;
    assert!(leadership.leads());
    // A renewal disturbs nothing.
    until.send_replace(Some(Instant::now() + 61 * SECOND));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((running.load(Ordering::SeqCst), began.load(Ordering::SeqCst)), (1, 1));
    until.send_replace(None);
    reaches("dropped with the Lease", &running, 0).await;
    // Nobody says that this one has run out.
    until.send_replace(Some(Instant::now() + SECOND));
    reaches("begun again", &began, 2).await;
    reaches("dropped when the Lease ran out", &running, 0).await;
    assert!(!leadership.leads());
    task.abort();
}
