//! Certificates in files, which somebody else renews.

#![allow(missing_docs)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ambit_identity::SpiffeId;
use ambit_tls::{
    CertificateRequest, PemSvid, StoreConfig, SvidSource, SvidStore, TlsError,
    authority::Authority,
    source::{Files, SourceName},
};

const LIMIT: Duration = Duration::from_secs(30);

fn id(name: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

fn authority() -> Authority {
    Authority::create(&"cluster.local".parse().unwrap()).unwrap()
}

fn signed(authority: &Authority, id: &SpiffeId, lifetime: Duration) -> PemSvid {
    let request = CertificateRequest::new(id).unwrap();
    let chain = authority.sign(request.pem(), id, Some(lifetime)).unwrap();
    request.complete_pem(&chain).unwrap()
}

/// What writes the files.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn of(&self, name: &str) -> PathBuf {
        self.0.path().join("shop").join(name)
    }

    fn put(&self, name: &str, file: &str, content: &str) {
        std::fs::create_dir_all(self.of(name)).unwrap();
        replace(&self.of(name).join(file), content);
    }

    fn put_roots(&self, content: &str) {
        replace(&self.0.path().join("ca.crt"), content);
    }

    fn put_all(&self, name: &str, svid: &PemSvid) {
        self.put_roots(&svid.roots);
        self.put(name, "tls.key", &svid.key);
        self.put(name, "tls.crt", &svid.chain);
    }

    fn store(&self) -> SvidStore {
        SvidStore::new(Arc::new(Files::new(self.0.path())), StoreConfig::default())
    }
}

fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + LIMIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < until, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn files_that_are_replaced_one_after_the_other_are_in_force_when_they_fit_together() {
    let (home, authority) = (Home::new(), authority());
    let hour = Duration::from_hours(1);
    home.put_all("web", &signed(&authority, &id("web"), hour));
    let store = home.store();
    let first = store.get(&id("web")).await.unwrap();
    let mut renewals = store.renewals();
    let next = signed(&authority, &id("web"), hour);
    home.put("web", "tls.crt", &next.chain);
    eventually("the mismatch", || store.status()[0].error.is_some()).await;
    let error = store.status()[0].error.clone().unwrap().to_string();
    assert!(error.contains("another key"), "{error}");
    assert_eq!(store.get(&id("web")).await.unwrap().serial(), first.serial(), "the one before stays in use");
    home.put("web", "tls.key", &next.key);
    eventually("the next one", || store.current(&id("web")).unwrap().serial() != first.serial()).await;
    assert_eq!(renewals.recv().await.unwrap(), id("web"));
    assert!(renewals.try_recv().is_err(), "it was told of once");
}

#[tokio::test]
async fn a_certificate_whose_time_is_over_is_not_used_and_its_successor_is_at_once() {
    let (home, authority) = (Home::new(), authority());
    home.put_all("web", &signed(&authority, &id("web"), Duration::from_secs(4)));
    let store = home.store();
    let first = store.get(&id("web")).await.unwrap();
    eventually("its end", || store.current(&id("web")).is_none() && store.status()[0].error.is_some()).await;
    assert!(matches!(store.get(&id("web")).await, Err(TlsError::NotValidNow { .. })));
    home.put_all("web", &signed(&authority, &id("web"), Duration::from_hours(1)));
    eventually("the next one", || store.current(&id("web")).is_some_and(|next| next.serial() != first.serial())).await;
}

#[tokio::test]
async fn files_of_somebody_else_under_other_roots_or_not_there_are_refused_and_no_key_is_told() {
    let (home, authority) = (Home::new(), authority());
    let source = Files::new(home.0.path());
    let refused = async |what: &str| match source.issue(&id("web")).await {
        Ok(svid) => panic!("{what}: {svid:?}"),
        Err(error) => error.to_string(),
    };
    assert!(refused("nothing").await.contains("tls.crt"));
    let mine = signed(&authority, &id("web"), LIMIT);
    home.put_all("web", &signed(&authority, &id("api"), LIMIT));
    assert!(refused("another identity").await.contains("sa/api"));
    home.put_all("web", &PemSvid { roots: signed(&self::authority(), &id("web"), LIMIT).roots, ..mine });
    assert!(refused("other roots").await.contains("certificate chain"));
    let mine = signed(&authority, &id("web"), LIMIT);
    home.put_all("web", &mine);
    source.issue(&id("web")).await.unwrap();
    let damaged = mine.key.replacen("M", "%", 1);
    home.put("web", "tls.key", &damaged);
    let error = refused("a damaged key").await;
    assert!(error.contains("private key") && !mine.key.lines().any(|line| error.contains(line)), "{error}");
}

#[test]
fn a_source_is_named_in_one_word() {
    let parsed = |text: &str| text.parse::<SourceName>();
    assert_eq!(parsed("ca"), Ok(SourceName::Authority));
    assert_eq!(parsed("files:/certs"), Ok(SourceName::Files(Path::new("/certs").into())));
    assert_eq!(parsed("spiffe:/run/agent.sock"), Ok(SourceName::WorkloadApi("unix:///run/agent.sock".to_owned())));
    assert_eq!(parsed("spiffe:tcp://127.0.0.1:1"), Ok(SourceName::WorkloadApi("tcp://127.0.0.1:1".to_owned())));
    for wrong in ["", "files", "files:", "spiffe:", "/certs", "vault:x"] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
    for text in ["ca", "files:/certs", "spiffe:unix:///run/agent.sock"] {
        assert_eq!(parsed(text).unwrap().to_string(), text);
    }
}
