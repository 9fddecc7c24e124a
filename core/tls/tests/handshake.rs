//! Who may talk to whom: every reason to refuse a peer, over real handshakes.

#![allow(missing_docs)]

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ambit_identity::{SpiffeId, TrustDomain};
use ambit_tls::{
    PeerError, Svid,
    authority::{Authority, LocalSource},
    client_config, handshake, provider, server_config,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_hours(1);

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn id(text: &str) -> SpiffeId {
    format!("spiffe://{text}").parse().unwrap()
}

fn web() -> SpiffeId {
    id("cluster.local/ns/shop/sa/web")
}

fn api() -> SpiffeId {
    id("cluster.local/ns/shop/sa/api")
}

fn authority() -> Authority {
    Authority::create(&domain("cluster.local")).unwrap()
}

fn svid(authority: Authority, id: &SpiffeId) -> Svid {
    shared_svid(&Arc::new(authority), id)
}

fn shared_svid(authority: &Arc<Authority>, id: &SpiffeId) -> Svid {
    LocalSource::new(Arc::clone(authority), HOUR).svid(id).unwrap()
}

/// What each end makes of a handshake followed by one byte from the server.
struct Seen {
    server: Result<SpiffeId, PeerError>,
    client: Result<(), PeerError>,
}

fn reason(error: &io::Error) -> PeerError {
    PeerError::from_io(error).unwrap_or_else(|| panic!("{error:?} has no reason"))
}

async fn meet(client: Arc<ClientConfig>, server: Arc<rustls::ServerConfig>) -> Seen {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut stream, peer) = handshake::accept(tcp, server, LIMIT).await.map_err(|e| reason(&e))?;
        stream.write_all(b"!").await.unwrap();
        stream.shutdown().await.unwrap();
        Ok(peer)
    };
    let call = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = handshake::connect(tcp, client, LIMIT).await.map_err(|e| reason(&e))?;
        // As an HBONE client does, so that the refusal has to get past unread bytes.
        stream.write_all(&[0; 4096]).await.map_err(|e| reason(&e))?;
        stream.read_exact(&mut [0]).await.map_err(|e| reason(&e))?;
        Ok(())
    };
    let (server, client) = tokio::join!(serve, call);
    Seen { server, client }
}

#[tokio::test]
async fn two_workloads_of_the_mesh_know_each_other() {
    let authority = Arc::new(authority());
    let client = client_config(&shared_svid(&authority, &web()), &[id("cluster.local/ns/shop/sa/other"), api()]).unwrap();
    let server = server_config(&shared_svid(&authority, &api()), &[]).unwrap();
    let seen = meet(client, server).await;
    assert_eq!(seen.server.unwrap(), web());
    seen.client.unwrap();
}

#[tokio::test]
async fn the_connection_is_tls_13_with_aes_gcm_and_nothing_to_resume() {
    let authority = Arc::new(authority());
    let client_config = client_config(&shared_svid(&authority, &web()), &[api()]).unwrap();
    let server_config = server_config(&shared_svid(&authority, &api()), &[]).unwrap();

    let (near, far) = tokio::io::duplex(1 << 16);
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&client_config));
    let connecting = connector.connect(ServerName::try_from("a").unwrap(), near);
    let (client, server) = tokio::join!(connecting, handshake::accept(far, Arc::clone(&server_config), LIMIT));
    let (client, (server, peer)) = (client.unwrap(), server.unwrap());
    let connection = client.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(connection.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(server.alpn(), Some(b"h2".as_slice()));
    assert_eq!(connection.negotiated_cipher_suite().unwrap().suite(), server.cipher_suite());
    assert_eq!(connection.tls13_tickets_received(), 0);
    assert_eq!(server.peer().unwrap(), &peer);
    assert_eq!(peer, web());

    let (near, far) = tokio::io::duplex(1 << 16);
    let accepting = tokio_rustls::TlsAcceptor::from(server_config).accept(far);
    let (client, server) = tokio::join!(handshake::connect(near, client_config, LIMIT), accepting);
    let (client, server) = (client.unwrap(), server.unwrap());
    let connection = server.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(connection.server_name(), None, "a name was sent");
    assert_eq!(client.alpn(), Some(b"h2".as_slice()));
    assert_eq!(client.peer().unwrap(), &api());
    let suite = format!("{:?}", client.cipher_suite());
    assert!(suite.contains("AES") && suite.contains("GCM"), "{suite}");
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let authority = Arc::new(authority());
    let server_svid = shared_svid(&authority, &api());
    let mut anonymous = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![b"h2".to_vec()];
    let seen = meet(Arc::new(anonymous), server_config(&server_svid, &[]).unwrap()).await;
    assert_eq!(seen.server.unwrap_err(), PeerError::NoCertificate);
    assert_refused(seen.client, "it requires one");
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let ours = Arc::new(authority());
    let theirs = svid(authority(), &web());
    let client = trusting_any_server(&theirs);
    let seen = meet(client, server_config(&shared_svid(&ours, &api()), &[]).unwrap()).await;
    assert_eq!(seen.server.unwrap_err(), PeerError::UnknownAuthority);
    assert_refused(seen.client, "unknown to the peer");
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let ours = Arc::new(authority());
    let client = client_config(&shared_svid(&ours, &web()), &[api()]).unwrap();
    let seen = meet(client, server_config(&svid(authority(), &api()), &[]).unwrap()).await;
    assert_eq!(seen.client.unwrap_err(), PeerError::UnknownAuthority);
    assert!(matches!(seen.server.unwrap_err(), PeerError::Refused(_)));
}

#[tokio::test]
async fn an_expired_client_is_refused() {
    let authority = Arc::new(authority());
    let client = trusting_any_server(&expired(&authority, &web()).await);
    let seen = meet(client, server_config(&shared_svid(&authority, &api()), &[]).unwrap()).await;
    assert!(matches!(seen.server.unwrap_err(), PeerError::Expired { .. }));
    assert_refused(seen.client, "expired");
}

#[tokio::test]
async fn an_expired_server_is_refused() {
    let authority = Arc::new(authority());
    let server = server_config(&expired(&authority, &api()).await, &[]).unwrap();
    let client = client_config(&shared_svid(&authority, &web()), &[api()]).unwrap();
    let seen = meet(client, server).await;
    assert!(matches!(seen.client.unwrap_err(), PeerError::Expired { .. }));
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused_unless_that_is_an_alias() {
    let authority = Arc::new(authority());
    let stranger = id("other.example/ns/shop/sa/web");
    let client = || client_config(&shared_svid(&authority, &stranger), &[api()]).unwrap();
    let server = shared_svid(&authority, &api());
    let seen = meet(client(), server_config(&server, &[]).unwrap()).await;
    let refusal = seen.server.unwrap_err();
    assert_eq!(refusal.to_string(), "trust domain \"other.example\" is not \"cluster.local\"");
    assert_eq!(refusal.label(), "wrong_trust_domain");
    assert_refused(seen.client, "not accepted");

    let seen = meet(client(), server_config(&server, &[domain("other.example")]).unwrap()).await;
    assert_eq!(seen.server.unwrap(), stranger);
}

#[tokio::test]
async fn a_server_that_is_in_the_mesh_but_somebody_else_is_refused() {
    let authority = Arc::new(authority());
    let client = client_config(&shared_svid(&authority, &web()), &[api()]).unwrap();
    let impostor = id("cluster.local/ns/shop/sa/impostor");
    let seen = meet(client, server_config(&shared_svid(&authority, &impostor), &[]).unwrap()).await;
    let refusal = seen.client.unwrap_err();
    assert_eq!(refusal, PeerError::UnexpectedIdentity { got: impostor, expected: vec![api()] });
    assert_eq!(
        refusal.to_string(),
        "identity spiffe://cluster.local/ns/shop/sa/impostor is not one of spiffe://cluster.local/ns/shop/sa/api"
    );
    assert!(matches!(seen.server.unwrap_err(), PeerError::Refused(_)));
}

#[tokio::test]
async fn a_server_is_refused_when_nobody_is_expected() {
    let authority = Arc::new(authority());
    let client = client_config(&shared_svid(&authority, &web()), &[]).unwrap();
    let seen = meet(client, server_config(&shared_svid(&authority, &api()), &[]).unwrap()).await;
    assert!(matches!(seen.client.unwrap_err(), PeerError::UnexpectedIdentity { .. }));
}

#[tokio::test]
async fn a_certificate_under_our_root_that_names_no_workload_is_refused() {
    let authority = Arc::new(authority());
    let serving = authority.serving_certificate(&["istiod.istio-system.svc".to_owned()], HOUR).unwrap();
    let chain = vec![rustls_pki_types::pem::PemObject::from_pem_slice(serving.certificate_pem.as_bytes()).unwrap()];
    let key = rustls_pki_types::pem::PemObject::from_pem_slice(serving.key_pem.as_bytes()).unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let client = client_config(&shared_svid(&authority, &web()), &[api()]).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, _server) =
        tokio::join!(handshake::connect(near, client, LIMIT), tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(far));
    assert!(matches!(reason(&client.unwrap_err()), PeerError::NoIdentity(_)));
}

#[tokio::test]
async fn a_client_that_does_not_offer_h2_is_refused() {
    let authority = Arc::new(authority());
    let mut client = ClientConfig::clone(&client_config(&shared_svid(&authority, &web()), &[api()]).unwrap());
    client.alpn_protocols.clear();
    let server = server_config(&shared_svid(&authority, &api()), &[]).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let (_client, server) =
        tokio::join!(connector.connect(ServerName::try_from("a").unwrap(), near), handshake::accept(far, server, LIMIT));
    assert!(matches!(reason(&server.unwrap_err()), PeerError::Incompatible(_)));
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_refused_and_silence_is_given_up() {
    let authority = Arc::new(authority());
    let config = server_config(&shared_svid(&authority, &api()), &[]).unwrap();
    let (mut near, far) = tokio::io::duplex(1 << 16);
    near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let error = handshake::accept(far, Arc::clone(&config), LIMIT).await.unwrap_err();
    assert!(matches!(reason(&error), PeerError::NotTls(_)), "{error}");

    let (_silent, far) = tokio::io::duplex(1 << 16);
    let error = handshake::accept(far, Arc::clone(&config), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(reason(&error), PeerError::TimedOut);

    let (near, far) = tokio::io::duplex(1 << 16);
    drop(near);
    assert_eq!(reason(&handshake::accept(far, config, LIMIT).await.unwrap_err()), PeerError::Closed);
}

fn assert_refused(client: Result<(), PeerError>, why: &str) {
    match client.unwrap_err() {
        PeerError::Refused(text) => assert!(text.contains(why), "{text:?} does not say {why:?}"),
        other => panic!("{other}"),
    }
}

/// A certificate whose life is over. It is checked when it is made, so it has to be valid for a moment.
async fn expired(authority: &Arc<Authority>, id: &SpiffeId) -> Svid {
    let svid = LocalSource::new(Arc::clone(authority), Duration::from_secs(2)).svid(id).unwrap();
    while svid.valid_at(SystemTime::now()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The verifier counts whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    svid
}

/// A client with `svid` that accepts any server, to see what the server thinks of it.
fn trusting_any_server(svid: &Svid) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&client_config(svid, &[]).unwrap());
    config.dangerous().set_certificate_verifier(Arc::new(AnyServer));
    Arc::new(config)
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
