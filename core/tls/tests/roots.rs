//! Roots that change, clocks that differ or jump: real handshakes, and a store with a clock of the test.

#![allow(missing_docs)]

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use ambit_identity::SpiffeId;
use ambit_tls::{
    PeerError, StoreConfig, Svid, SvidSource, SvidStore, TlsError, WallClock,
    authority::{Authority, FURTHER_ROOTS_FILE, LocalSource},
    client_config, handshake,
};
use async_trait::async_trait;
use rustls::{ClientConfig, ServerConfig, pki_types::UnixTime, time_provider::TimeProvider};

const LIMIT: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_hours(24);

fn id(name: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

fn authority() -> Authority {
    Authority::create(&"cluster.local".parse().unwrap()).unwrap()
}

/// An authority that is replaced while it is in use.
struct Changing {
    authority: Mutex<Arc<Authority>>,
    lifetime: Duration,
    calls: AtomicUsize,
}

impl Changing {
    fn new(authority: Arc<Authority>, lifetime: Duration) -> Arc<Self> {
        Arc::new(Self { authority: Mutex::new(authority), lifetime, calls: AtomicUsize::new(0) })
    }

    fn turn_into(&self, authority: &Arc<Authority>) {
        *self.authority.lock().unwrap() = Arc::clone(authority);
    }
}

#[async_trait]
impl SvidSource for Changing {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let authority = Arc::clone(&self.authority.lock().unwrap());
        LocalSource::new(authority, self.lifetime).svid(id)
    }
}

/// This machine's clock, and what the test adds to it.
#[derive(Debug, Default)]
struct Clock(Mutex<Duration>);

impl WallClock for Clock {
    fn now(&self) -> SystemTime {
        SystemTime::now() + *self.0.lock().unwrap()
    }
}

/// A clock that is ahead or behind, for the verification of a peer.
#[derive(Debug)]
struct Skewed {
    seconds: i64,
}

impl TimeProvider for Skewed {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = UnixTime::now().as_secs().checked_add_signed(self.seconds)?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

async fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (io::Result<()>, io::Result<SpiffeId>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let dial = async { handshake::connect(near, client, LIMIT).await.map(drop) };
    let accept = async { handshake::accept(far, server, LIMIT).await.map(|(_, peer)| peer) };
    tokio::join!(dial, accept)
}

/// A handshake from `web` of one store to `api` of another, with what they hold now.
async fn call(client: &SvidStore, server: &SvidStore) -> Result<(), PeerError> {
    let svid = client.get(&id("web")).await.unwrap();
    let config = server.server_config(&id("api")).await.unwrap();
    let (dialled, accepted) = meet(client_config(&svid, &[id("api")]).unwrap(), config).await;
    dialled.and(accepted.map(drop)).map_err(|error| PeerError::from_io(&error).unwrap())
}

#[tokio::test]
async fn roots_change_from_one_over_both_to_the_other_and_no_handshake_fails() {
    let (home_a, home_b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |home: &tempfile::TempDir| Authority::load_or_create(home.path(), &"cluster.local".parse().unwrap()).unwrap();
    let (a, only_b) = (Arc::new(open(&home_a)), Arc::new(open(&home_b)));
    std::fs::write(home_a.path().join(FURTHER_ROOTS_FILE), only_b.root_pem()).unwrap();
    let (both, b_and_a) = (Arc::new(open(&home_a)), Arc::new(open(&home_b).with_further_roots(a.root_pem()).unwrap()));
    let sources = [Changing::new(Arc::clone(&a), DAY), Changing::new(Arc::clone(&a), DAY)];
    let stores =
        sources.each_ref().map(|source| SvidStore::new(Arc::clone(source) as Arc<dyn SvidSource>, StoreConfig::default()));
    call(&stores[0], &stores[1]).await.unwrap();
    for (authority, roots) in [(both, 2), (b_and_a, 2), (only_b, 1)] {
        // One node learns of it long before the other.
        for (source, store) in sources.iter().zip(&stores) {
            let before = source.calls.load(Ordering::SeqCst);
            source.turn_into(&authority);
            store.renew_soon();
            call(&stores[0], &stores[1]).await.unwrap();
            while source.calls.load(Ordering::SeqCst) == before || store.trust().roots().len() != roots {
                call(&stores[0], &stores[1]).await.unwrap();
                call_back(&stores).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            call(&stores[0], &stores[1]).await.unwrap();
        }
    }
    // The first root is believed no more.
    let old = LocalSource::new(a, DAY).svid(&id("web")).unwrap();
    let trusting = client_config(&stores[0].get(&id("web")).await.unwrap(), &[id("api")]).unwrap();
    let mut config = ClientConfig::clone(&trusting);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(old.certified_key()));
    let (_, accepted) = meet(Arc::new(config), stores[1].server_config(&id("api")).await.unwrap()).await;
    assert_eq!(PeerError::from_io(&accepted.unwrap_err()), Some(PeerError::UnknownAuthority));
}

async fn call_back(stores: &[SvidStore; 2]) {
    // The other way round, by the one certificate that each of them has for it.
    let (near, far) = (stores[1].current(&id("api")), stores[0].current(&id("web")));
    let (Some(near), Some(far)) = (near, far) else { return };
    let client = client_config(&near, &[id("web")]).unwrap();
    let (dialled, accepted) = meet(client, ambit_tls::server_config(&far, &[]).unwrap()).await;
    dialled.unwrap();
    accepted.unwrap();
}

#[tokio::test]
async fn an_identity_whose_root_is_gone_gets_another_certificate_at_once() {
    let (a, b) = (Arc::new(authority()), Arc::new(authority()));
    let source = Changing::new(a, DAY);
    let store = SvidStore::new(Arc::clone(&source) as Arc<dyn SvidSource>, StoreConfig::default());
    let first = store.get(&id("api")).await.unwrap();
    source.turn_into(&b);
    // Another identity of the node brings the news.
    store.get(&id("web")).await.unwrap();
    eventually("another certificate", || store.current(&id("api")).unwrap().serial() != first.serial()).await;
    let (client, server) = (store.get(&id("web")).await.unwrap(), store.server_config(&id("api")).await.unwrap());
    let (dialled, accepted) = meet(client_config(&client, &[id("api")]).unwrap(), server).await;
    dialled.unwrap();
    accepted.unwrap();
}

#[tokio::test]
async fn a_renewal_is_told_to_those_who_keep_connections() {
    let store = SvidStore::new(Changing::new(Arc::new(authority()), DAY), StoreConfig::default());
    let mut renewals = store.renewals();
    store.get(&id("web")).await.unwrap();
    assert!(renewals.try_recv().is_err(), "a first certificate replaces none");
    store.renew_soon();
    assert_eq!(tokio::time::timeout(LIMIT, renewals.recv()).await.unwrap().unwrap(), id("web"));
}

#[tokio::test]
async fn a_machine_that_slept_over_the_half_life_renews_when_it_wakes_up() {
    let (clock, source) = (Arc::new(Clock::default()), Changing::new(Arc::new(authority()), DAY));
    let config = StoreConfig { clock: Arc::clone(&clock) as Arc<dyn WallClock>, ..StoreConfig::default() };
    let store = SvidStore::new(Arc::clone(&source) as Arc<dyn SvidSource>, config);
    store.get(&id("web")).await.unwrap();
    *clock.0.lock().unwrap() = DAY * 3 / 4;
    eventually("a renewal", || source.calls.load(Ordering::SeqCst) >= 2).await;
    assert!(store.current(&id("web")).is_some());
    // By a clock that is a day ahead of the authority's nothing is valid: it is refused, with the reason.
    *clock.0.lock().unwrap() = DAY + Duration::from_mins(3);
    eventually("a refusal", || store.status()[0].error.is_some()).await;
    let refusal = store.get(&id("web")).await.unwrap_err().to_string();
    assert!(refusal.contains("it expired") && refusal.contains("a clock that is wrong"), "{refusal}");
}

#[tokio::test]
async fn clocks_that_differ_by_five_minutes_refuse_nobody_and_an_hour_is_explained() {
    let source = LocalSource::new(Arc::new(authority()), DAY);
    let (web, api) = (source.svid(&id("web")).unwrap(), source.svid(&id("api")).unwrap());
    let with = |client: i64, server: i64| {
        let mut at_client = ClientConfig::clone(&client_config(&web, &[id("api")]).unwrap());
        at_client.time_provider = Arc::new(Skewed { seconds: client });
        let mut at_server = ServerConfig::clone(&ambit_tls::server_config(&api, &[]).unwrap());
        at_server.time_provider = Arc::new(Skewed { seconds: server });
        meet(Arc::new(at_client), Arc::new(at_server))
    };
    for (client, server) in [(0, 0), (-300, 0), (0, -300), (300, -300), (-300, 300), (-300, -300)] {
        let (dialled, accepted) = with(client, server).await;
        dialled.unwrap();
        accepted.unwrap();
    }
    let reason = |error: io::Error| PeerError::from_io(&error).unwrap().to_string();
    let early = reason(with(0, -900).await.1.unwrap_err());
    assert!(early.contains("not valid yet") && early.contains("a clock that is wrong"), "{early}");
    let late = reason(with(0, 24 * 3600 + 60).await.1.unwrap_err());
    assert!(late.contains("expired") && late.contains("a clock that is wrong"), "{late}");
    let old = reason(with(0, 48 * 3600).await.1.unwrap_err());
    assert!(old.contains("expired") && !old.contains("clock that is wrong"), "{old}");
}
