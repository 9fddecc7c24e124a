//! Names are asked of a resolver that counts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// Answers every name but `nowhere`, as long as it is not away, and counts.
#[derive(Clone, Default)]
struct Fake {
    asked: Arc<AtomicUsize>,
    away: Arc<AtomicBool>,
}

impl Fake {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Lookup for Fake {
    fn lookup(&self, hostname: &str) -> io::Result<Vec<IpAddr>> {
        let count = self.asked.fetch_add(1, Ordering::Relaxed);
        if hostname == "nowhere" || self.away.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotFound.into());
        }
        std::thread::sleep(Duration::from_millis(20));
        Ok(vec![IpAddr::from([10, 0, 0, u8::try_from(count).unwrap_or(255)])])
    }
}

fn one(last: u8) -> Name {
    Name::Addresses(Arc::from([IpAddr::from([10, 0, 0, last])]))
}

#[tokio::test]
async fn a_name_is_asked_for_once_by_all_who_need_it_and_kept_while_the_answer_holds() {
    let fake = Fake::default();
    let (names, host): (_, Arc<str>) = (Names::new(fake.clone()), Arc::from("db.example"));
    let now = Instant::now();
    assert_eq!(names.get(&host, now), Name::Unknown);
    futures::future::join_all((0..100).map(|_| names.resolve(&host))).await;
    names.resolve(&host).await;
    assert_eq!((names.get(&host, Instant::now()), fake.asked()), (one(0), 1));
}

#[tokio::test]
async fn a_name_in_use_is_asked_for_again_before_its_answer_holds_no_longer_and_one_that_is_not_when_it_is_needed() {
    let fake = Fake::default();
    let (names, host): (_, Arc<str>) = (Names::new(fake.clone()), Arc::from("db.example"));
    names.resolve(&host).await;
    let soon = Instant::now() + TTL * 3 / 4;
    let mut asking = names.ask(&host, soon).expect("it is time");
    assert_eq!(names.get(&host, soon), one(0), "nobody waits for it");
    let _ended = asking.changed().await;
    assert_eq!((names.get(&host, soon), fake.asked()), (one(1), 2));
    assert_eq!(names.get(&host, Instant::now() + TTL), Name::Unknown);
}

#[tokio::test]
async fn while_nobody_answers_the_last_answer_is_used_for_some_time() {
    let fake = Fake::default();
    let (names, host): (_, Arc<str>) = (Names::new(fake.clone()), Arc::from("db.example"));
    names.resolve(&host).await;
    fake.away.store(true, Ordering::Relaxed);
    let mut asking = names.ask(&host, Instant::now() + TTL).expect("it is time");
    let _ended = asking.changed().await;
    let later = |of: Duration| {
        // As if it had been answered so long ago.
        let mut all = names.known();
        let known = all.get_mut(&host).expect("it is known");
        let now = Instant::now() + of;
        known.failed = Some(now);
        known.name(now)
    };
    assert_eq!((later(TTL), later(STALE)), (one(0), one(0)));
    assert_eq!(later(TTL + STALE), Name::Failed);
}

#[tokio::test]
async fn what_cannot_be_answered_is_not_asked_again_at_once() {
    let fake = Fake::default();
    let (names, host): (_, Arc<str>) = (Names::new(fake.clone()), Arc::from("nowhere"));
    names.resolve(&host).await;
    names.resolve(&host).await;
    let now = Instant::now();
    assert_eq!((names.get(&host, now), fake.asked()), (Name::Failed, 1));
    assert_eq!(names.get(&host, now + FAILED), Name::Unknown);
}

#[tokio::test]
async fn names_that_are_kept_are_bounded() {
    let names = Names::new(Fake::default());
    for number in 0..2 * MOST {
        names.refresh(&Arc::from(format!("host-{number}")));
    }
    assert_eq!(names.known().len(), MOST);
}
