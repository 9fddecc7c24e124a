//! Peers that speak rustls, and transports that trickle.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ClientConfig, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs::cipher_suite},
    pki_types::ServerName,
    server::WebPkiClientVerifier,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use crate::{
    Stream,
    authority::{Authority, LocalSource},
    client_config, handshake, provider, server_config,
};

pub(super) const LIMIT: Duration = Duration::from_secs(20);
pub(super) const SUITES: [SupportedCipherSuite; 2] =
    [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];

pub(super) type Rustls<T> = tokio_rustls::TlsStream<T>;

/// The mesh's configurations of both sides, and those of peers that speak only `suite`.
pub(super) struct Configs {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    pub(super) peer_client: Arc<ClientConfig>,
    pub(super) peer_server: Arc<ServerConfig>,
}

pub(super) fn configs(suite: SupportedCipherSuite) -> Configs {
    let authority = Arc::new(Authority::create(&"cluster.local".parse().unwrap()).unwrap());
    let web = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let api = "spiffe://cluster.local/ns/shop/sa/api".parse().unwrap();
    let source = LocalSource::new(authority, Duration::from_hours(1));
    let (web, api) = (source.svid(&web).unwrap(), source.svid(&api).unwrap());
    let only = Arc::new(CryptoProvider { cipher_suites: vec![suite], ..CryptoProvider::clone(&provider()) });
    let tls13 = &[&rustls::version::TLS13];
    let client = client_config(&web, &[api.id().clone()]).unwrap();
    let server = server_config(&api, &[]).unwrap();

    let verifier = crate::verify::ServerIdentityVerifier::new(api.trust().clone(), vec![api.id().clone()]);
    let mut peer_client = ClientConfig::builder_with_provider(Arc::clone(&only))
        .with_protocol_versions(tls13)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(web.certified_key())));
    peer_client.alpn_protocols = vec![b"h2".to_vec()];

    let verifier = WebPkiClientVerifier::builder_with_provider(web.trust().roots(), Arc::clone(&only)).build().unwrap();
    // Unlike the mesh's own servers this one sends tickets.
    let mut peer_server = ServerConfig::builder_with_provider(only)
        .with_protocol_versions(tls13)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(api.certified_key())));
    peer_server.alpn_protocols = vec![b"h2".to_vec()];
    Configs { client, server, peer_client: Arc::new(peer_client), peer_server: Arc::new(peer_server) }
}

/// Every pairing of ours with rustls.
pub(super) async fn pairs(configs: &Configs, wire: impl Fn() -> (Trickle, Trickle)) -> [(Stream<Trickle>, Rustls<Trickle>); 2] {
    let name = ServerName::try_from("a").unwrap();
    let (near, far) = wire();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&configs.peer_client));
    let accept = handshake::accept(near, Arc::clone(&configs.server), LIMIT);
    let (ours, theirs) = tokio::join!(accept, connector.connect(name, far));
    let as_server = (ours.unwrap().0, theirs.unwrap().into());

    let (near, far) = wire();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&configs.peer_server));
    let (ours, theirs) = tokio::join!(handshake::connect(near, Arc::clone(&configs.client), LIMIT), acceptor.accept(far));
    [as_server, (ours.unwrap(), theirs.unwrap().into())]
}

/// A transport that gives and takes at most so much at once, at random, and sometimes nothing.
#[derive(Debug)]
pub(super) struct Trickle {
    pub(super) io: DuplexStream,
    most: usize,
    random: fastrand::Rng,
}

pub(super) fn trickling(most: usize) -> impl Fn() -> (Trickle, Trickle) {
    move || {
        let (a, b) = duplex(1 << 16);
        let trickle = |io, seed| Trickle { io, most, random: fastrand::Rng::with_seed(seed) };
        (trickle(a, 1), trickle(b, 2))
    }
}

impl Trickle {
    /// How much this time.
    fn turn(&mut self, cx: &Context<'_>) -> Option<usize> {
        if self.most < usize::MAX && self.random.u8(..4) == 0 {
            cx.waker().wake_by_ref();
            return None;
        }
        Some(if self.most == usize::MAX { usize::MAX } else { self.random.usize(1..=self.most) })
    }
}

impl AsyncRead for Trickle {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(most) = self.turn(cx) else { return Poll::Pending };
        let mut part = vec![0; most.min(buffer.remaining())];
        let mut part = ReadBuf::new(&mut part);
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut part);
        buffer.put_slice(part.filled());
        polled
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(most) = self.turn(cx) else { return Poll::Pending };
        Pin::new(&mut self.io).poll_write(cx, &bytes[..most.min(bytes.len())])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
