//! Clients outside of the mesh that speak TLS.

use std::{io, sync::Arc};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                core::v3::{DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType},
                listener::v3::{FilterChainMatch, Listener},
            },
            extensions::transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret, TlsCertificate, TlsParameters, secret::Type,
                tls_parameters::TlsProtocol,
            },
        },
        google::protobuf::BoolValue,
    },
    type_url,
};
use ambit_runtime::drain;
use http::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ALL_VERSIONS, ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName},
        version::TLS12,
    },
};
use waypoint::edge;

use super::{
    edge::{connected, free_port, get},
    support::{
        Limits, Mesh, billing,
        client::{Body, read},
        resources,
    },
};

const NAME: &str = "ingress|443";

/// A certificate, which is its own root, and its key.
pub(super) struct Made {
    certificate: String,
    key: String,
    pub(super) der: CertificateDer<'static>,
}

impl Made {
    pub(super) fn of(host: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { certificate: made.pem(), key: key.serialize_pem(), der: made.der().clone() }
    }

    /// As a secret of this name.
    pub(super) fn secret(&self, name: &str) -> (String, Secret) {
        let source = |text: &str| {
            Some(DataSource { specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())), ..Default::default() })
        };
        let pair =
            TlsCertificate { certificate_chain: source(&self.certificate), private_key: source(&self.key), ..Default::default() };
        (name.into(), Secret { name: name.into(), r#type: Some(Type::TlsCertificate(pair)) })
    }
}

fn tls(secret: &str) -> DownstreamTlsContext {
    let secret = SdsSecretConfig { name: secret.into(), sds_config: resources::ads() };
    let common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        alpn_protocols: vec!["h2".into(), "http/1.1".into()],
        tls_certificate_sds_secret_configs: vec![secret],
        ..Default::default()
    };
    DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

/// A listener with a chain for each server name, whose secret has the name of the chain.
pub(super) fn listener(port: u16, chains: &[(&str, &str)]) -> Listener {
    listener_with(port, chains, |_| {})
}

fn listener_with(port: u16, chains: &[(&str, &str)], change: fn(&mut DownstreamTlsContext)) -> Listener {
    let mut listener = resources::edge(port, NAME);
    listener.filter_chains.clear();
    for (name, host) in chains {
        let mut context = tls(name);
        change(&mut context);
        let context = resources::any("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", &context);
        let mut chain = resources::edge(port, name).filter_chains.remove(0);
        chain.filter_chain_match = Some(FilterChainMatch { server_names: vec![(*host).into()], ..Default::default() });
        chain.transport_socket = Some(TransportSocket {
            name: "envoy.transport_sockets.tls".into(),
            config_type: Some(ConfigType::TypedConfig(context)),
        });
        listener.filter_chains.push(chain);
    }
    listener
}

/// What a client believes and speaks.
pub(super) fn client(believed: &[&Made], versions: &[&'static SupportedProtocolVersion], alpn: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for made in believed {
        roots.add(made.der.clone()).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config
}

pub(super) async fn connect(port: u16, name: &str, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, connected(port).await).await
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_server_name_leads_to_its_certificate_and_its_routes_and_any_other_nowhere() {
    let (mesh, service, _) = billing(93).await;
    let port = free_port();
    let (own, wide) = (Made::of("own.example.com"), Made::of("*.example.com"));
    let both = listener(port, &[("wide", "*.Example.com"), ("own", "own.example.com")]);
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), both)]);
    mesh.deliver(type_url::SECRET, vec![own.secret("own"), wide.secret("wide")]);
    mesh.deliver(type_url::ROUTE, vec![resources::routes("own", vec![resources::to(&service.cluster())])]);
    mesh.deliver(type_url::ROUTE, vec![resources::routes("wide", Vec::new())]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));

    let believed = [&own, &wide];
    for versions in [ALL_VERSIONS, &[&TLS12]] {
        let stream = connect(port, "own.example.com", client(&believed, versions, "http/1.1")).await.unwrap();
        assert_eq!(shown(&stream), own.der);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (status, _, text) = read(sender.send_request(get("own.example.com", "/a")).await.unwrap()).await;
        assert!(status == 200 && text.contains("x-forwarded-proto: https\n"), "{status} {text}");
        assert!(!text.contains("x-forwarded-client-cert"), "{text}");
    }
    mesh.logged(&["path=/a ", "status=200", "security=tls"]).await;
    let stream = connect(port, "OWN.example.com", client(&believed, ALL_VERSIONS, "h2")).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://own.example.com/b").body(Body::default()).unwrap();
    let (status, _, text) = read(sender.send_request(request).await.unwrap()).await;
    assert!(status == 200 && text.contains("x-forwarded-proto: https\n"), "{status} {text}");

    let stream = connect(port, "a.example.com", client(&believed, ALL_VERSIONS, "http/1.1")).await.unwrap();
    assert_eq!(shown(&stream), wide.der);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // The other listener's host: what the connection was made for decides.
    let (status, ..) = read(sender.send_request(get("own.example.com", "/a")).await.unwrap()).await;
    assert_eq!(status, 404);

    assert!(connect(port, "other.example.org", client(&believed, ALL_VERSIONS, "h2")).await.is_err());
    mesh.logged(&["reason=listener_not_found", "other.example.org"]).await;
    let mut nameless = client(&believed, ALL_VERSIONS, "h2");
    nameless.enable_sni = false;
    assert!(connect(port, "own.example.com", nameless).await.is_err());
    let mut clear = connected(port).await;
    clear.write_all(b"GET / HTTP/1.1\r\nhost: own.example.com\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good.
    let _end = clear.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "it is served in clear");
}

#[tokio::test]
async fn a_certificate_is_replaced_without_ending_connections() {
    let (mesh, service, _) = billing(94).await;
    let port = free_port();
    let (before, after) = (Made::of("own.example.com"), Made::of("own.example.com"));
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), listener(port, &[("own", "own.example.com")]))]);
    mesh.deliver(type_url::ROUTE, vec![resources::routes("own", vec![resources::to(&service.cluster())])]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    let connect = || connect(port, "own.example.com", client(&[&before, &after], ALL_VERSIONS, "http/1.1"));
    assert!(connect().await.is_err(), "there is no certificate yet");

    mesh.deliver(type_url::SECRET, vec![before.secret("own")]);
    let stream = connect().await.unwrap();
    assert_eq!(shown(&stream), before.der);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(read(sender.send_request(get("own.example.com", "/")).await.unwrap()).await.0, 200);

    mesh.deliver(type_url::SECRET, vec![after.secret("own")]);
    assert_eq!(shown(&connect().await.unwrap()), after.der);
    // What cannot be used leaves what is there in force, and its key is in no text.
    let (name, mut broken) = after.secret("own");
    if let Some(Type::TlsCertificate(pair)) = &mut broken.r#type {
        pair.private_key = before.secret("own").1.r#type.and_then(|kind| match kind {
            Type::TlsCertificate(pair) => pair.private_key,
            _ => None,
        });
    }
    let rejected = mesh.offer(type_url::SECRET, vec![(name, broken)]);
    assert_eq!(rejected[0].reason, "tls_certificate: private key: it is not that of the certificate");
    assert_eq!(shown(&connect().await.unwrap()), after.der);
    sender.ready().await.unwrap();
    assert_eq!(read(sender.send_request(get("own.example.com", "/")).await.unwrap()).await.0, 200, "the connection goes on");

    // Another secret is shown once it is there, and what was until then.
    let next = listener_with(port, &[("own", "own.example.com")], |context| {
        let common = context.common_tls_context.as_mut().unwrap();
        common.tls_certificate_sds_secret_configs[0].name = "next".into();
    });
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), next)]);
    assert_eq!(shown(&connect().await.unwrap()), after.der);
    mesh.deliver(type_url::SECRET, vec![before.secret("next")]);
    assert_eq!(shown(&connect().await.unwrap()), before.der);

    mesh.store.apply(type_url::SECRET, Vec::new(), vec!["next".into()]);
    assert!(connect().await.is_err(), "there is no certificate any more");
    let dump = serde_json::to_string(&*mesh.store.snapshot()).unwrap();
    assert!(dump.contains("own.example.com") && !dump.contains("PRIVATE"), "{dump}");
}

#[tokio::test]
async fn a_client_that_does_not_end_its_handshake_is_cut_off_and_contexts_of_other_kinds_are_rejected() {
    let limits = Limits { handshake: std::time::Duration::from_millis(300), ..Limits::default() };
    let mesh = Mesh::start_with(95, limits).await;
    let port = free_port();
    let own = [("own", "own.example.com")];
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), listener(port, &own))]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    let mut silent = connected(port).await;
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    mesh.logged(&["reason=tls_handshake_timeout"]).await;

    let refused = |change: fn(&mut DownstreamTlsContext)| {
        let listener = listener_with(port, &own, change);
        mesh.offer(type_url::LISTENER, vec![(NAME.into(), listener)]).pop().unwrap().reason
    };
    fn common(context: &mut DownstreamTlsContext) -> &mut CommonTlsContext {
        context.common_tls_context.as_mut().unwrap()
    }
    let wanting = refused(|context| context.require_client_certificate = Some(BoolValue { value: true }));
    assert!(wanting.contains("require_client_certificate is not implemented"), "{wanting}");
    let old = refused(|context| common(context).tls_params = Some(TlsParameters::default()));
    assert!(old.contains("only TLS 1.2 to TLS 1.3 is implemented"), "{old}");
    let none = refused(|context| common(context).tls_certificate_sds_secret_configs.clear());
    assert!(none.contains("tls_certificate_sds_secret_configs"), "{none}");
    let other = refused(|context| common(context).alpn_protocols.push("h3".into()));
    assert!(other.contains("h3 is not implemented"), "{other}");
}
