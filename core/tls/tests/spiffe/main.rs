//! Certificates from the SPIFFE Workload API.

#![allow(missing_docs)]

mod agent;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agent::Agent;
use ambit_identity::SpiffeId;
use ambit_tls::{StoreConfig, SvidStore, TlsError, authority::Authority, client_config, handshake, source::WorkloadApi};

const LIMIT: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_hours(1);

fn id(name: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

fn authority() -> Authority {
    Authority::create(&"cluster.local".parse().unwrap()).unwrap()
}

fn store(agent: &Agent) -> SvidStore {
    let source = WorkloadApi::new(&format!("unix://{}", agent.socket.display())).unwrap();
    let config = StoreConfig { backoff_most: Duration::from_secs(2), ..StoreConfig::default() };
    SvidStore::new(Arc::new(source), config)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + LIMIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < until, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn call(store: &SvidStore) {
    let svid = store.get(&id("web")).await.unwrap();
    let server = store.server_config(&id("api")).await.unwrap();
    let (near, far) = tokio::io::duplex(64 << 10);
    let dial = handshake::connect(near, client_config(&svid, &[id("api")]).unwrap(), LIMIT);
    let (dialled, accepted) = tokio::join!(dial, handshake::accept(far, server, LIMIT));
    dialled.unwrap();
    assert_eq!(accepted.unwrap().1, id("web"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_come_on_one_stream_and_are_replaced_when_the_agent_says_so() {
    let home = tempfile::tempdir().unwrap();
    let (mut agent, authority) = (Agent::start(&home.path().join("agent.sock")), authority());
    agent.issue(&authority, &id("web"), HOUR);
    agent.issue(&authority, &id("api"), HOUR);
    let store = store(&agent);
    call(&store).await;
    let api = store.current(&id("api")).unwrap();
    for _ in 0..2 {
        let web = store.current(&id("web")).unwrap();
        agent.issue(&authority, &id("web"), HOUR);
        eventually("the next one", || store.current(&id("web")).unwrap().serial() != web.serial()).await;
        assert_eq!(store.current(&id("api")).unwrap().serial(), api.serial(), "nothing new was issued for it");
        call(&store).await;
    }
    // The library asks once before it listens.
    assert_eq!(agent.streams.load(Ordering::SeqCst), 2, "one stream is for all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_comes_with_the_certificate_under_it() {
    let home = tempfile::tempdir().unwrap();
    let (mut agent, first) = (Agent::start(&home.path().join("agent.sock")), authority());
    agent.issue(&first, &id("web"), HOUR);
    let store = store(&agent);
    store.get(&id("web")).await.unwrap();
    let before = store.trust().roots();
    agent.issue(&authority(), &id("web"), HOUR);
    eventually("the other root", || store.trust().roots().roots != before.roots).await;
    assert_eq!(store.trust().roots().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_is_not_issued_is_refused_until_it_is_and_stays_good_when_the_agent_is_away() {
    let home = tempfile::tempdir().unwrap();
    let (mut agent, authority) = (Agent::start(&home.path().join("agent.sock")), authority());
    agent.issue(&authority, &id("api"), HOUR);
    let store = store(&agent);
    let refused = store.get(&id("web")).await.unwrap_err();
    assert!(matches!(&refused, TlsError::Authority { code, .. } if code == "not issued"), "{refused}");
    agent.issue(&authority, &id("web"), HOUR);
    eventually("the certificate", || store.current(&id("web")).is_some()).await;
    let web = store.current(&id("web")).unwrap();
    let streams = agent.streams.load(Ordering::SeqCst);
    agent.restart().await;
    eventually("another stream", || agent.streams.load(Ordering::SeqCst) > streams).await;
    call_with(&store, web.serial()).await;
    agent.withdraw(&id("web"));
    eventually("the refusal", || store.status().iter().any(|held| held.error.is_some())).await;
    // What was given out is good until its time is over, as every SVID is.
    call_with(&store, web.serial()).await;
}

async fn call_with(store: &SvidStore, serial: &str) {
    call(store).await;
    assert_eq!(store.current(&id("web")).unwrap().serial(), serial);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_named() {
    let home = tempfile::tempdir().unwrap();
    let agent = home.path().join("nobody.sock");
    let source = WorkloadApi::new(&format!("unix://{}", agent.display())).unwrap();
    let store = SvidStore::new(Arc::new(source), StoreConfig::default());
    let refused = store.get(&id("web")).await.unwrap_err();
    assert!(matches!(&refused, TlsError::Unreachable { address, .. } if address.contains("nobody.sock")), "{refused}");
    assert!(WorkloadApi::new("nowhere").is_err());
}
