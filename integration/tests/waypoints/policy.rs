//! AuthorizationPolicies, and peers that are not who they should be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::ConnectError;
use ambit_tls::authority::{Authority, LocalSource};
use anyhow::ensure;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncReadExt as _;

use crate::Suite;
use crate::client::{get, request};
use crate::mesh::{Mesh, identity, wait_for};
use crate::objects::{BILLING, LIAR, LOCKED};

pub fn tests(suite: &mut Suite) {
    suite.test("refuses with 403 what a DENY policy matches, and names it in the log", deny);
    suite.test("refuses with 403 what no ALLOW policy matches", allow);
    suite.test("knows a client's address from its tunnel, not from what it writes", addresses);
    suite.test("refuses a connection before the server is heard", connections);
    suite.test("does not talk to an endpoint that shows another identity", liar);
    suite.test("refuses clients without a certificate, of another authority or of another trust domain", strangers);
    suite.test("opens no tunnel to a destination that it does not serve", unknown);
}

async fn deny(mesh: &Mesh) -> anyhow::Result<()> {
    let answer = mesh.request("intruder", BILLING, 80, get("/secret/1")).await?;
    ensure!(answer.status == 403, "answered {}", answer.status);
    // Paths are normalised before they are compared.
    let answer = mesh.request("intruder", BILLING, 80, get("/v1/../secret")).await?;
    ensure!(answer.status == 403, "a path with dots is answered {}", answer.status);
    ensure!(mesh.request("intruder", BILLING, 80, get("/v1")).await?.status == 200, "another path is refused");
    ensure!(mesh.request("web", BILLING, 80, get("/secret/1")).await?.status == 200, "another caller is refused");
    wait_for("the policy in the access log", || async {
        let log = std::fs::read_to_string(&mesh.access_log)?;
        let line = log.lines().find(|line| line.contains("/secret/1") && line.contains("403"));
        ensure!(line.is_some_and(|line| line.contains("deny-intruder") && line.contains("sa/intruder")), "{line:?}");
        Ok(())
    })
    .await
}

async fn allow(mesh: &Mesh) -> anyhow::Result<()> {
    let cases = [
        ("web", "GET", "/open/1", 200),
        ("web", "POST", "/open/1", 403),
        ("web", "GET", "/", 403),
        ("other", "GET", "/open/1", 403),
    ];
    for (account, method, path, status) in cases {
        let answer = mesh.request(account, LOCKED, 80, request(method, path, &[])).await?;
        ensure!(answer.status == status, "{account} {method} {path}: {}", answer.status);
    }
    Ok(())
}

async fn addresses(mesh: &Mesh) -> anyhow::Result<()> {
    let known = ["/by-address", "/by-remote", "/when-remote"].map(|path| (path, 200));
    let claimed = ["/claimed", "/claimed-remote", "/when-claimed"].map(|path| (path, 403));
    for (path, status) in known.into_iter().chain(claimed) {
        let request = request("GET", path, &[("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.1")]);
        let answer = mesh.request("other", LOCKED, 80, request).await?;
        ensure!(answer.status == status, "{path}: {}", answer.status);
    }
    Ok(())
}

async fn connections(mesh: &Mesh) -> anyhow::Result<()> {
    let banner = crate::streams::banner(mesh, "web", LOCKED).await?;
    ensure!(banner.starts_with("220"), "{banner:?}");
    match mesh.tunnel("other", &format!("{LOCKED}:5432")).await? {
        Err(ConnectError::Refused { status, .. }) => ensure!(matches!(status.as_u16(), 401 | 403), "refused with {status}"),
        Err(error) => return Err(error.into()),
        Ok(_) => anyhow::bail!("the tunnel is opened"),
    }
    Ok(())
}

async fn liar(mesh: &Mesh) -> anyhow::Result<()> {
    let answer = mesh.request("web", LIAR, 80, get("/")).await?;
    ensure!(answer.status == 503, "answered {}", answer.status);
    Ok(())
}

async fn unknown(mesh: &Mesh) -> anyhow::Result<()> {
    for authority in ["10.96.0.99:80", &format!("{BILLING}:81"), "127.0.0.1:15000"] {
        let tunnel = tokio::time::timeout(Duration::from_secs(5), mesh.tunnel("web", authority)).await??;
        let Err(ConnectError::Refused { status, .. }) = tunnel else {
            anyhow::bail!("{authority}: a tunnel, or another failure")
        };
        ensure!(status.is_client_error() || status.is_server_error(), "{authority}: {status}");
    }
    Ok(())
}

async fn strangers(mesh: &Mesh) -> anyhow::Result<()> {
    let of = |authority: &Arc<Authority>, id: &str| {
        let svid = LocalSource::new(Arc::clone(authority), Duration::from_secs(600)).svid(&id.parse()?)?;
        anyhow::Ok(Shown(Some(svid.certified_key())))
    };
    let made_up = Arc::new(Authority::create(&"cluster.local".parse()?)?);
    let strangers = [
        ("nobody", Shown(None)),
        ("somebody of another trust domain", of(&mesh.authority, "spiffe://elsewhere.org/ns/shop/sa/web")?),
        ("somebody of another authority", of(&made_up, "spiffe://cluster.local/ns/shop/sa/web")?),
    ];
    for (who, shown) in strangers {
        let mut tls = ambit_tls::client_config(&mesh.svid("web")?, &[identity("waypoint")])?;
        Arc::make_mut(&mut tls).client_auth_cert_resolver = Arc::new(shown);
        let tcp = mesh.client.connect(SocketAddr::new(mesh.waypoint.ip(), 15008)).await?;
        let mut stream = ambit_tls::handshake::connect(tcp, tls, Duration::from_secs(5)).await?;
        // In TLS 1.3 a client hears that it is refused with its first read.
        let mut bytes = [0; 64];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut bytes)).await?;
        ensure!(matches!(read, Ok(0) | Err(_)), "{who} is answered {read:?}");
    }
    ensure!(mesh.request("web", BILLING, 80, get("/v1")).await?.status == 200, "a client of the mesh is refused afterwards");
    Ok(())
}

/// What a client shows when it is asked for a certificate.
#[derive(Debug)]
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}
