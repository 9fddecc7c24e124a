//! The store: one request at a time, renewal, going on without the authority.

#![allow(missing_docs)]

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use ambit_identity::SpiffeId;
use ambit_tls::{
    Retired, Retirements, StoreConfig, Svid, SvidSource, SvidStore, TlsError,
    authority::{Authority, LocalSource},
    revocation::{Revocations, Unlisted},
};
use async_trait::async_trait;

const HOUR: Duration = Duration::from_hours(1);

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn api() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/api".parse().unwrap()
}

fn new_authority() -> Authority {
    Authority::create(&"cluster.local".parse().unwrap()).unwrap()
}

/// A source that counts, and can be made to fail or to hang.
struct Counting {
    inner: LocalSource,
    calls: AtomicUsize,
    down: AtomicBool,
    delay: Duration,
}

impl Counting {
    fn new(lifetime: Duration) -> Arc<Self> {
        let inner = LocalSource::new(Arc::new(new_authority().with_backdate(Duration::ZERO)), lifetime);
        Arc::new(Self { inner, calls: AtomicUsize::new(0), down: AtomicBool::new(false), delay: Duration::from_millis(20) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl SvidSource for Counting {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        if self.down.load(Ordering::SeqCst) {
            return Err(TlsError::Authority { code: "Unavailable".to_owned(), message: "down".to_owned() });
        }
        self.inner.issue(id).await
    }
}

fn store(source: &Arc<Counting>) -> SvidStore {
    let config = StoreConfig { backoff_least: Duration::from_millis(100), ..StoreConfig::default() };
    SvidStore::new(Arc::clone(source) as Arc<dyn SvidSource>, config)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

#[tokio::test]
async fn callers_that_come_at_once_share_one_request() {
    let source = Counting::new(HOUR);
    let store = store(&source);
    let all = futures::future::join_all((0..50).map(|_| async { store.get(&web()).await.unwrap().serial().to_owned() })).await;
    assert_eq!(source.calls(), 1);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 1);
    store.get(&api()).await.unwrap();
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_its_life_without_being_asked_for() {
    let source = Counting::new(Duration::from_secs(6));
    let store = store(&source);
    let first = store.get(&web()).await.unwrap();
    let config = store.server_config(&web()).await.unwrap();
    assert!(
        Arc::ptr_eq(&config, &store.server_config(&web()).await.unwrap()),
        "the configuration is built once for each certificate"
    );
    eventually("a renewal", || store.current(&web()).unwrap().serial() != first.serial()).await;
    assert!(first.valid_at(SystemTime::now()), "the old certificate was over before the new one came");
    let half = first.not_before() + Duration::from_secs(3);
    assert!(SystemTime::now() > half - Duration::from_secs(1), "renewed too early");
    assert!(!Arc::ptr_eq(&config, &store.server_config(&web()).await.unwrap()));
}

#[tokio::test]
async fn a_valid_certificate_stays_in_use_while_the_authority_is_away_and_an_expired_one_does_not() {
    let source = Counting::new(Duration::from_secs(4));
    let store = store(&source);
    let first = store.get(&web()).await.unwrap();
    source.down.store(true, Ordering::SeqCst);
    eventually("a failed renewal", || store.status()[0].error.is_some()).await;
    assert_eq!(store.get(&web()).await.unwrap().serial(), first.serial());
    eventually("expiry", || store.current(&web()).is_none()).await;
    assert!(matches!(store.get(&web()).await.unwrap_err(), TlsError::Authority { .. }));
    source.down.store(false, Ordering::SeqCst);
    eventually("recovery", || store.current(&web()).is_some()).await;
    assert!(store.status()[0].error.is_none());
}

#[tokio::test]
async fn a_failure_is_told_at_once_and_tried_again_with_growing_pauses() {
    let source = Counting::new(HOUR);
    source.down.store(true, Ordering::SeqCst);
    let store = store(&source);
    for _ in 0..5 {
        assert!(matches!(store.get(&web()).await.unwrap_err(), TlsError::Authority { .. }));
    }
    assert_eq!(source.calls(), 1, "callers do not shorten the pause");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = source.calls();
    assert!((3..=5).contains(&calls), "{calls} attempts in a second with pauses of 0.1, 0.2, 0.4 s");
}

#[tokio::test]
async fn an_identity_that_is_refused_holds_up_no_other() {
    let source = Counting::new(HOUR);
    source.down.store(true, Ordering::SeqCst);
    let config = StoreConfig { backoff_least: HOUR, backoff_most: HOUR, ..StoreConfig::default() };
    let store = SvidStore::new(Arc::clone(&source) as Arc<dyn SvidSource>, config);
    assert!(store.get(&web()).await.is_err());
    source.down.store(false, Ordering::SeqCst);
    store.get(&api()).await.unwrap();
    assert!(store.get(&web()).await.is_err(), "its own pause is not over");
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn identities_that_left_the_node_are_forgotten_with_their_keys() {
    let source = Counting::new(HOUR);
    let store = store(&source);
    let held = Arc::downgrade(&store.get(&web()).await.unwrap());
    store.get(&api()).await.unwrap();
    store.retain(&HashSet::from([api()]));
    assert_eq!(store.status().len(), 1);
    assert!(store.current(&web()).is_none());
    eventually("the key's end", || held.upgrade().is_none()).await;
    store.forget(&api());
    assert!(store.status().is_empty());
}

#[tokio::test]
async fn a_store_that_is_shut_down_answers_so() {
    let source = Counting::new(HOUR);
    let store = store(&source);
    let (waiting, closer) = (store.clone(), store.clone());
    let waiting = tokio::spawn(async move { waiting.get(&web()).await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    closer.shutdown();
    assert!(matches!(waiting.await.unwrap().unwrap_err(), TlsError::Shutdown));
    assert!(matches!(store.get(&api()).await.unwrap_err(), TlsError::Shutdown));
}

#[tokio::test]
async fn a_renewal_is_told_once_and_a_change_of_trust_again_when_the_dials_of_then_have_ended() {
    let store = SvidStore::new(Counting::new(HOUR), StoreConfig::default());
    store.get(&web()).await.unwrap();
    let mut retirements = Retirements::new(store.clone(), Duration::from_millis(100));
    store.trust().revoke(Revocations::none(Unlisted::Accepted));
    let told = Some(Retired { identities: vec![web()], trust: true });
    assert_eq!(retirements.next().await, told);
    assert_eq!(retirements.next().await, Some(Retired { identities: Vec::new(), trust: true }));
    store.renew_soon();
    assert_eq!(retirements.next().await, Some(Retired { identities: vec![web()], trust: false }));
    let nothing_more = tokio::time::timeout(Duration::from_millis(300), retirements.next()).await;
    assert!(nothing_more.is_err(), "{nothing_more:?}");
}
