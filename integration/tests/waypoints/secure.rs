//! TLS at the edge of the mesh, by unmodified clients.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use http::Request;
use http_body_util::Full;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ALL_VERSIONS, ClientConfig, RootCertStore, SupportedProtocolVersion, version::TLS12};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::client::{Answer, over, over_http2};
use crate::mesh::{Mesh, wait_for};

/// The port of the listeners that speak TLS.
const PORT: u16 = 8443;

/// A certificate, which is its own root, and its key.
pub struct Certificate {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub fn made(host: &str) -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let made = rcgen::CertificateParams::new(vec![host.to_owned()])?.self_signed(&key)?;
        Ok(Self { certificate: made.pem(), key: key.serialize_pem(), der: made.der().clone() })
    }

    /// As a Secret of this name.
    pub fn secret(&self, name: &str) -> String {
        let data = json!({"tls.crt": self.certificate, "tls.key": self.key});
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: kubernetes.io/tls\nstringData: {data}\n"
        )
    }
}

async fn connect(
    mesh: &Mesh,
    name: &str,
    believed: &[&Certificate],
    spoken: (&[&'static SupportedProtocolVersion], &str),
) -> anyhow::Result<TlsStream<TcpStream>> {
    let config = config(believed, spoken)?;
    let stream = mesh.client.connect(SocketAddr::new(mesh.edge.ip(), PORT)).await?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned())?, stream).await?)
}

/// What a client believes and speaks.
pub fn config(
    believed: &[&Certificate],
    (versions, alpn): (&[&'static SupportedProtocolVersion], &str),
) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in believed {
        roots.add(certificate.der.clone())?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok(config)
}

fn shown(stream: &TlsStream<TcpStream>) -> anyhow::Result<CertificateDer<'static>> {
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.context("no certificate was shown")?.clone().into_owned())
}

/// The listeners of the Gateway by server name. `objects` makes what the mesh is made of with another certificate for `two.example.com`.
pub async fn outside(
    mesh: &Mesh,
    (wide, two): (&Certificate, &Certificate),
    objects: impl Fn(&Certificate) -> String,
) -> anyhow::Result<()> {
    let old = (&[&TLS12][..], "http/1.1");
    for (name, certificate, spoken, pod) in [
        ("a.example.com", wide, (ALL_VERSIONS, "http/1.1"), "v1"),
        ("a.example.com", wide, old, "v1"),
        ("two.example.com", two, (ALL_VERSIONS, "http/1.1"), "v2"),
    ] {
        let stream = connect(mesh, name, &[wide, two], spoken).await?;
        ensure!(shown(&stream)? == certificate.der, "{name} is shown another certificate");
        let answer = ask(stream, name, "/").await?;
        ensure!((answer.status, answer.pod()) == (200, pod), "{name}: {} from {}", answer.status, answer.pod());
        ensure!(answer.seen()?["headers"]["x-forwarded-proto"][0] == "https", "{}", answer.body);
    }
    let stream = connect(mesh, "two.example.com", &[two], (ALL_VERSIONS, "h2")).await?;
    ensure!(stream.get_ref().1.alpn_protocol() == Some(&b"h2"[..]), "HTTP/2 is not chosen");
    let request = Request::get("https://two.example.com/").body(Full::default())?;
    let (status, body) = over_http2(stream, request).await?;
    ensure!(status == 200 && body.contains("\"pod\":\"v2\""), "over HTTP/2: {status} {body}");

    let moved = ask(connect(mesh, "a.example.com", &[wide], old).await?, "a.example.com", "/moved").await?;
    let location = moved.headers.get("location").context("a redirect without a location")?;
    ensure!(moved.status == 302 && location == "https://a.example.com:8443/there", "{} to {location:?}", moved.status);

    // What the connection was made for decides, and not what is asked for in it.
    let misdirected = ask(connect(mesh, "a.example.com", &[wide], old).await?, "two.example.com", "/").await?;
    ensure!(misdirected.status == 421, "a host of another listener is answered {}", misdirected.status);
    let nobodys = ask(connect(mesh, "a.example.com", &[wide], old).await?, "example.org", "/").await?;
    ensure!(nobodys.status == 404, "a host of no listener is answered {}", nobodys.status);
    ensure!(connect(mesh, "example.org", &[wide, two], old).await.is_err(), "a server name of no listener is served");

    let newer = Certificate::made("two.example.com")?;
    mesh.write_edge(&objects(&newer))?;
    wait_for("another certificate", || async {
        let stream = connect(mesh, "two.example.com", &[two, &newer], old).await?;
        ensure!(shown(&stream)? == newer.der, "the one before is shown");
        Ok(())
    })
    .await
}

async fn ask(stream: TlsStream<TcpStream>, host: &str, path: &str) -> anyhow::Result<Answer> {
    let request = Request::get(path).header("host", host).body(Full::default())?;
    let (status, headers, body) = over(stream, request).await?;
    Ok(Answer { status, headers, body })
}
