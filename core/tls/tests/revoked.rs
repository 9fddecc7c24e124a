//! Revocation lists, on both sides of real handshakes.

#![allow(missing_docs)]

use std::{io, sync::Arc, time::Duration};

use ambit_identity::SpiffeId;
use ambit_tls::{
    PeerError, Svid, TlsError,
    authority::{Authority, LocalSource},
    client_config, handshake,
    revocation::{Follower, Revocations, Unlisted},
    server_config,
};

const LIMIT: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_hours(24);

fn id(name: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

fn authority() -> Arc<Authority> {
    Arc::new(Authority::create(&"cluster.local".parse().unwrap()).unwrap())
}

struct Pair {
    authority: Arc<Authority>,
    web: Svid,
    api: Svid,
}

impl Pair {
    fn new() -> Self {
        let authority = authority();
        let source = LocalSource::new(Arc::clone(&authority), DAY);
        Self { authority, web: source.svid(&id("web")).unwrap(), api: source.svid(&id("api")).unwrap() }
    }

    /// What the client and the server say of a handshake.
    async fn meet(&self) -> (Result<(), PeerError>, Result<(), PeerError>) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let dial = handshake::connect(near, client_config(&self.web, &[id("api")]).unwrap(), LIMIT);
        let accept = handshake::accept(far, server_config(&self.api, &[]).unwrap(), LIMIT);
        let (dialled, accepted) = tokio::join!(dial, accept);
        let reason = |error: io::Error| PeerError::from_io(&error).unwrap();
        (dialled.map(drop).map_err(reason), accepted.map(drop).map_err(reason))
    }

    fn lists(&self, serials: &[&str], lifetime: Duration, unlisted: Unlisted) -> Revocations {
        Revocations::from_pem(&self.authority.revocation_list(serials, lifetime).unwrap(), unlisted).unwrap()
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_by_client_and_server() {
    let pair = Pair::new();
    pair.api.trust().revoke(pair.lists(&[pair.api.serial()], DAY, Unlisted::Refused));
    pair.web.trust().revoke(pair.lists(&[], DAY, Unlisted::Refused));
    let (dialled, accepted) = pair.meet().await;
    dialled.unwrap();
    accepted.unwrap();
    pair.api.trust().revoke(pair.lists(&[pair.web.serial()], DAY, Unlisted::Refused));
    assert_eq!(pair.meet().await.1.unwrap_err(), PeerError::Revoked);
    pair.api.trust().revoke(pair.lists(&[], DAY, Unlisted::Refused));
    pair.web.trust().revoke(pair.lists(&[pair.api.serial()], DAY, Unlisted::Refused));
    let (dialled, accepted) = pair.meet().await;
    assert_eq!(dialled.unwrap_err(), PeerError::Revoked);
    assert!(matches!(accepted.unwrap_err(), PeerError::Refused(why) if why.contains("revoked")));
}

#[tokio::test]
async fn no_list_an_old_one_and_one_of_somebody_else_refuse_unless_only_what_is_listed_is_to_be_refused() {
    let pair = Pair::new();
    let foreign = authority().revocation_list(&[], DAY).unwrap();
    let cases = |unlisted| {
        [
            ("no list", Revocations::none(unlisted)),
            ("an old list", pair.lists(&[], Duration::ZERO, unlisted)),
            ("a list of another authority", Revocations::from_pem(&foreign, unlisted).unwrap()),
        ]
    };
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for (what, lists) in cases(Unlisted::Refused) {
        pair.api.trust().revoke(lists);
        let refused = pair.meet().await.1.unwrap_err();
        assert!(matches!(&refused, PeerError::RevocationUnknown(_)), "{what}: {refused}");
    }
    for (what, lists) in cases(Unlisted::Accepted) {
        pair.api.trust().revoke(lists);
        pair.meet().await.1.unwrap_or_else(|refused| panic!("{what}: {refused}"));
    }
    pair.api.trust().revoke(pair.lists(&[pair.web.serial()], Duration::ZERO, Unlisted::Accepted));
    assert_eq!(pair.meet().await.1.unwrap_err(), PeerError::Revoked, "an old list is heeded");
}

#[tokio::test]
async fn a_connection_that_stands_ends_when_its_peer_is_revoked_and_for_nothing_less() {
    let pair = Pair::new();
    let (near, far) = tokio::io::duplex(64 << 10);
    let trust = pair.api.trust().clone();
    let changes = trust.changes();
    let dial = handshake::connect(near, client_config(&pair.web, &[id("api")]).unwrap(), LIMIT);
    let accept = handshake::accept(far, server_config(&pair.api, &[]).unwrap(), LIMIT);
    let (_client, server) = tokio::join!(dial, accept);
    let (server, _) = server.unwrap();
    let presented = server.presented().clone();
    let waiting = tokio::spawn(async move { trust.until_revoked(&presented, changes).await });
    for lists in [Revocations::none(Unlisted::Refused), pair.lists(&[pair.api.serial()], DAY, Unlisted::Refused)] {
        pair.api.trust().revoke(lists);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished());
    }
    pair.api.trust().revoke(pair.lists(&[pair.web.serial()], DAY, Unlisted::Refused));
    tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_file_is_followed_and_one_that_has_no_list_leaves_the_lists_before_it_in_force() {
    let pair = Pair::new();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("crl.pem");
    let trust = pair.api.trust().clone();
    let _unread = Follower::load(file.clone(), Unlisted::Refused, trust.clone()).await;
    assert!(matches!(pair.meet().await.1, Err(PeerError::RevocationUnknown(_))), "there was no file");
    let put = |content: &str| {
        let new = home.path().join("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    put(&pair.authority.revocation_list(&[], DAY).unwrap());
    let follower = Follower::load(file.clone(), Unlisted::Refused, trust).await;
    pair.meet().await.1.unwrap();
    let following = tokio::spawn(follower.run());
    // Cut off before the first list: as little to go by as one that is damaged, of which the next test tells.
    put("");
    tokio::time::sleep(Duration::from_secs(6)).await;
    pair.meet().await.1.unwrap();
    put(&pair.authority.revocation_list(&[pair.web.serial()], DAY).unwrap());
    let until = tokio::time::Instant::now() + LIMIT;
    while !matches!(pair.meet().await.1, Err(PeerError::Revoked)) {
        assert!(tokio::time::Instant::now() < until, "the file is not followed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    following.abort();
}

#[test]
fn a_damaged_list_is_none() {
    for pem in ["-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "-----BEGIN X509 CRL-----\n"] {
        assert!(matches!(Revocations::from_pem(pem, Unlisted::Refused), Err(TlsError::Malformed { .. })), "{pem}");
    }
    assert!(Revocations::from_pem("", Unlisted::Refused).unwrap().is_empty());
}
