//! Peers that lie are refused with the reason in the log.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ambit_hbone::{Authority as Target, ConnectError, ConnectRequest, Pool, PoolConfig, PoolKey};
use ambit_identity::SpiffeId;
use ambit_testbed::{Families, Pod};
use ambit_tls::{
    Svid,
    authority::{Authority, LocalSource},
    client_config, handshake,
};
use anyhow::{Context, bail, ensure};
use http::{HeaderMap, StatusCode};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    mesh::{Mesh, PATIENCE, call_until_refused, echo, id_of},
    over, test,
};

pub fn tests(families: Families) -> Vec<Trial> {
    let of_dual_stack = test("a_pod_that_dials_the_capture_port_by_an_address_nobody_knows_of_is_refused_once", loops);
    let of_all = [
        over(families, "a_peer_with_a_wrong_certificate_is_refused_with_its_reason", certificates),
        over(families, "a_tunnel_to_another_address_or_to_the_proxy_itself_is_refused", addresses),
        over(families, "bytes_that_are_no_tunnel_are_refused", garbage),
        over(families, "a_server_with_another_identity_than_expected_is_refused", impostor),
    ];
    of_all.into_iter().chain((families == Families::Dual).then_some(of_dual_stack)).collect()
}

const LIMIT: Duration = Duration::from_secs(5);

async fn bed(families: Families) -> anyhow::Result<(Mesh, Pod, Pod)> {
    let mesh = Mesh::over(families).await?;
    let (liar, server) = (mesh.outsider(0, "liar", false).await?, mesh.pod(1, "api").await?);
    drop(echo(&server, 8080)?);
    Ok((mesh, liar, server))
}

fn svid(authority: &Arc<Authority>, id: &str, lifetime: Duration) -> anyhow::Result<Svid> {
    Ok(LocalSource::new(Arc::clone(authority), lifetime).svid(&id.parse()?)?)
}

/// Opens a tunnel as `svid` to `authority` through the HBONE port of `server`.
async fn tunnel(liar: &Pod, server: &Pod, svid: &Svid, authority: &str) -> Result<(), ConnectError> {
    tunnel_saying(liar, server, svid, authority, HeaderMap::new()).await
}

/// As [`tunnel`], with these headers.
pub async fn tunnel_saying(
    liar: &Pod,
    server: &Pod,
    svid: &Svid,
    authority: &str,
    headers: HeaderMap,
) -> Result<(), ConnectError> {
    let expected: Vec<SpiffeId> = vec![id_of("api").parse().expect("an identity")];
    let address = SocketAddr::new(server.ip(), 15008);
    let key = PoolKey { source: svid.id().clone(), destinations: expected.clone(), address, source_ip: None, netns: None };
    let authority: Target = authority.parse().expect("an authority");
    let request = ConnectRequest { authority, headers };
    let dial = || async {
        let config = client_config(svid, &expected).map_err(std::io::Error::other)?;
        handshake::connect(liar.connect(address).await?, config, LIMIT).await
    };
    Pool::new(PoolConfig::default()).connect(&key, dial, request).await.map(drop)
}

async fn certificates(families: Families) -> anyhow::Result<()> {
    let (mesh, liar, server) = bed(families).await?;
    let other = Arc::new(Authority::create(&"cluster.local".parse()?)?);
    let stranger = "spiffe://elsewhere.org/ns/shop/sa/web";
    let cases = [
        ("peer_untrusted", with_roots_of(&mesh, &svid(&other, &id_of("web"), LIMIT)?, &server, &liar).await),
        (
            "peer_trust_domain",
            tunnel(&liar, &server, &svid(&mesh.authority, stranger, LIMIT)?, &target(&server)).await.err().map(drop),
        ),
        ("peer_expired", expired(&mesh, &liar, &server).await?),
    ];
    for (reason, refused) in cases {
        ensure!(refused.is_some(), "{reason}: it was let in");
        mesh.logged(1, &["direction=inbound", &format!("reason={reason} ")]).await?;
    }
    without_certificate(&mesh, &liar, &server).await?;
    mesh.logged(1, &["direction=inbound", "reason=peer_no_certificate "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

fn target(server: &Pod) -> String {
    SocketAddr::new(server.ip(), 8080).to_string()
}

/// A certificate of another authority, from a client that trusts the mesh's server all the same.
async fn with_roots_of(mesh: &Mesh, foreign: &Svid, server: &Pod, liar: &Pod) -> Option<()> {
    let own = svid(&mesh.authority, &id_of("web"), LIMIT).ok()?;
    let config = raw_client(&own, Some(foreign));
    raw_tunnel(liar, server, config).await.err().map(drop)
}

async fn expired(mesh: &Mesh, liar: &Pod, server: &Pod) -> anyhow::Result<Option<()>> {
    let short = svid(&mesh.authority, &id_of("web"), Duration::from_secs(1))?;
    let own = svid(&mesh.authority, &id_of("web"), Duration::from_secs(600))?;
    let wait = short.not_after().duration_since(std::time::SystemTime::now()).unwrap_or_default();
    ensure!(wait < Duration::from_secs(30), "a certificate of one second lives {wait:?} more");
    tokio::time::sleep(wait + Duration::from_secs(1)).await;
    Ok(raw_tunnel(liar, server, raw_client(&own, Some(&short))).await.err().map(drop))
}

async fn without_certificate(mesh: &Mesh, liar: &Pod, server: &Pod) -> anyhow::Result<()> {
    let own = svid(&mesh.authority, &id_of("web"), Duration::from_secs(600))?;
    ensure!(raw_tunnel(liar, server, raw_client(&own, None)).await.is_err(), "no certificate was let in");
    Ok(())
}

/// A TLS client that trusts as `own` does and presents what it likes.
fn raw_client(own: &Svid, present: Option<&Svid>) -> Arc<rustls::ClientConfig> {
    let honest = client_config(own, &[id_of("api").parse().expect("an identity")]).expect("a configuration");
    let mut config = (*honest).clone();
    config.client_auth_cert_resolver = match present {
        Some(svid) => Arc::new(rustls::sign::SingleCertAndKey::from(svid.certified_key())),
        None => Arc::new(Nothing),
    };
    Arc::new(config)
}

#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

/// The refusal shows only when something is read (TLS 1.3).
async fn raw_tunnel(liar: &Pod, server: &Pod, config: Arc<rustls::ClientConfig>) -> anyhow::Result<()> {
    let tcp = liar.connect(SocketAddr::new(server.ip(), 15008)).await?;
    let mut stream = handshake::connect(tcp, config, LIMIT).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    let mut byte = [0; 1];
    match tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await?? {
        0 => bail!("closed"),
        _ => Ok(()),
    }
}

async fn addresses(families: Families) -> anyhow::Result<()> {
    let (mesh, liar, server) = bed(families).await?;
    let web = svid(&mesh.authority, &id_of("web"), Duration::from_secs(600))?;
    tunnel(&liar, &server, &web, &target(&server)).await.context("an honest tunnel")?;
    let ip = server.ip();
    let at = |ip, port| SocketAddr::new(ip, port).to_string();
    for (authority, reason, status) in [
        (at(liar.ip(), 8080), "authority_not_this_pod", StatusCode::BAD_REQUEST),
        ("127.0.0.1:8080".to_owned(), "authority_not_this_pod", StatusCode::BAD_REQUEST),
        ("[::1]:8080".to_owned(), "authority_not_this_pod", StatusCode::BAD_REQUEST),
        ("[::ffff:127.0.0.1]:8080".to_owned(), "authority_not_this_pod", StatusCode::BAD_REQUEST),
        ("api.shop.svc.cluster.local:8080".to_owned(), "authority_invalid", StatusCode::BAD_REQUEST),
        (at(ip, 15001), "loop_guard", StatusCode::BAD_REQUEST),
        (at(ip, 15006), "loop_guard", StatusCode::BAD_REQUEST),
        (at(ip, 15008), "loop_guard", StatusCode::BAD_REQUEST),
        (at(ip, 9), "upstream_refused", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        match tunnel(&liar, &server, &web, &authority).await {
            Err(ConnectError::Refused { status: got, headers }) => {
                ensure!(got == status, "{authority}: {got}");
                ensure!(headers.get("x-ambit-reason").is_some_and(|said| said == reason), "{authority}: {headers:?}");
            }
            other => bail!("{authority}: {other:?}"),
        }
        mesh.logged(1, &["direction=inbound", &format!("reason={reason} ")]).await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

/// Taken for the world outside, it would be passed through to the same port again and again.
async fn loops() -> anyhow::Result<()> {
    let (mesh, _, server) = bed(Families::Dual).await?;
    mesh.change("api", |api| api.addresses.retain(|ip| ip.len() == 4));
    let port = SocketAddr::new(server.ips()[1], 15001);
    let known = format!("dst.addr={port} ");
    let line = mesh.logged_by_calling(&server, port, 1, &["direction=outbound", &known, "reason=loop_guard "]).await?;
    ensure!(!line.contains("dst.workload=api"), "the address was known");
    let lines = |mesh: &Mesh| std::fs::read_to_string(&mesh.nodes[1].log).unwrap_or_default().lines().count();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = lines(&mesh);
    call_until_refused(&server, port).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(lines(&mesh) - before == 1, "one call made {} connections", lines(&mesh) - before);
    mesh.bed.shutdown().await;
    Ok(())
}

async fn garbage(families: Families) -> anyhow::Result<()> {
    let (mesh, liar, server) = bed(families).await?;
    let to = SocketAddr::new(server.ip(), 15008);
    let ended = |mut stream: TcpStream| async move {
        let mut all = Vec::new();
        // However it ends, it must end.
        let _ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await?;
        anyhow::Ok(())
    };
    let mut stream = liar.connect(to).await?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    ended(stream).await.context("garbage instead of TLS")?;
    mesh.logged(1, &["direction=inbound", "reason=tls_handshake_failed "]).await?;
    // Garbage inside TLS.
    let web = svid(&mesh.authority, &id_of("web"), Duration::from_secs(600))?;
    let tcp = liar.connect(to).await?;
    let mut stream = handshake::connect(tcp, raw_client(&web, Some(&web)), LIMIT).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut all = Vec::new();
    let _ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await?;
    mesh.logged(1, &["direction=inbound", "reason=tunnel_protocol_error ", &format!("src.identity={}", id_of("web"))]).await?;
    // The proxy's other ports.
    for port in [15001, 15006] {
        let refused = crate::mesh::call(&liar, SocketAddr::new(server.ip(), port), b"x").await;
        ensure!(refused.is_err(), "port {port} of the proxy answered");
    }
    mesh.logged(1, &["direction=inbound", "reason=loop_guard "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn impostor(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    // The control plane says that this address is somebody else's.
    mesh.change("api", |workload| workload.service_account = "payments".to_owned());
    let to = SocketAddr::new(server.ip(), 8080);
    let line = mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=peer_identity_mismatch "]).await?;
    call_until_refused(&client, to).await?;
    ensure!(line.contains(&id_of("payments")) && line.contains(&id_of("api")), "{line}");
    mesh.bed.shutdown().await;
    Ok(())
}
