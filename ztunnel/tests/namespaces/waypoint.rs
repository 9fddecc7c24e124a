//! The way through a waypoint, which here is a few lines that accept every tunnel and note what was asked.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_api::workload::{GatewayAddress, gateway_address::Destination};
use ambit_hbone::{Incoming, ServerConfig, server};
use ambit_testbed::{Families, Pod};
use ambit_tls::{authority::LocalSource, handshake, server_config};
use anyhow::{Context, ensure};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    lies::tunnel_saying,
    mesh::{Mesh, PATIENCE, call, call_until_it_works, echo as echo_server, id_of, network_address},
    over,
};

pub fn tests(families: Families) -> Vec<Trial> {
    vec![
        over(families, "a_service_with_a_waypoint_is_reached_through_it", through),
        over(families, "a_waypoint_with_another_identity_is_refused", impostor),
        over(families, "on_a_warm_tunnel_the_first_bytes_of_a_client_do_not_wait_for_the_answer", speaks_first),
        over(families, "a_waypoint_says_whom_it_carries_for_and_nobody_else_does", carried_for),
    ]
}

pub type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// Serves tunnels in `pod` as `id`.
pub fn serve<H, F>(mesh: &Mesh, pod: &Pod, id: &str, handler: H) -> anyhow::Result<()>
where
    H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = pod.listen(SocketAddr::from(([0_u16; 8], 15008)))?;
    let svid = LocalSource::new(Arc::clone(&mesh.authority), Duration::from_secs(600)).svid(&id.parse()?)?;
    let config = server_config(&svid, &[])?;
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let (config, handler) = (Arc::clone(&config), handler.clone());
            tokio::spawn(async move {
                let Ok((io, _peer)) = handshake::accept(io, config, Duration::from_secs(5)).await else { return };
                let _ended = server::serve(io, &ServerConfig::default(), std::future::pending(), handler).await;
            });
        }
    });
    Ok(())
}

/// Answers each tunnel with one line; notes its authority and the `forwarded` header.
pub fn waypoint(mesh: &Mesh, pod: &Pod, id: &str) -> anyhow::Result<Asked> {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    serve(mesh, pod, id, move |incoming| answer(incoming, Arc::clone(&noted)))?;
    Ok(asked)
}

/// Echoes each tunnel; accepts it, if `strict`, only once the client's first bytes are there.
async fn echo(incoming: Incoming, strict: Arc<AtomicBool>) {
    let until = Instant::now() + PATIENCE;
    while strict.load(Ordering::SeqCst) && incoming.unread() == 0 {
        if Instant::now() > until {
            let _gone = incoming.refuse(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Whoever gives up meanwhile is seen by the test.
    let Ok(mut tunnel) = incoming.accept(HeaderMap::new()) else { return };
    let mut all = b"10.9.9.9\n".to_vec();
    if tunnel.read_to_end(&mut all).await.is_ok() && tunnel.write_all(&all).await.is_ok() {
        let _ended = tunnel.shutdown().await;
    }
}

async fn answer(incoming: Incoming, noted: Asked) {
    let authority = incoming.authority().map(ToString::to_string).unwrap_or_default();
    let forwarded = incoming.headers().get("forwarded").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    noted.lock().unwrap().push((authority, forwarded));
    let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
    tunnel.write_all(b"10.9.9.9\nwaypoint").await.unwrap();
    tunnel.shutdown().await.unwrap();
    // The bed may end first.
    let _ended = tokio::io::copy(&mut tunnel, &mut tokio::io::sink()).await;
}

async fn prepare(mesh: &Mesh) -> anyhow::Result<(Pod, Pod, Vec<IpAddr>)> {
    let (client, _server, gateway, vips) = with_server(mesh).await?;
    Ok((client, gateway, vips))
}

/// As [`prepare`], with the server behind the waypoint.
async fn with_server(mesh: &Mesh) -> anyhow::Result<(Pod, Pod, Pod, Vec<IpAddr>)> {
    let client = mesh.pod(0, "web").await?;
    let (server, gateway) = (mesh.pod(1, "api").await?, mesh.outsider(1, "gw", true).await?);
    mesh.service("gw", &mesh.vips(9), &["gw"], |service| {
        service.ports[0] = ambit_api::workload::Port { service_port: 15008, target_port: 15008, app_protocol: 0 }
    });
    let vips = mesh.vips(10);
    let destination = Some(Destination::Address(network_address(mesh.vip(9))));
    mesh.service("api", &vips, &["api"], |service| {
        service.waypoint = Some(GatewayAddress { destination, hbone_mtls_port: 15008 })
    });
    Ok((client, server, gateway, vips))
}

async fn through(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, gateway, vips) = prepare(&mesh).await?;
    let asked = waypoint(&mesh, &gateway, &id_of("gw"))?;
    let log = ["direction=outbound", "reason=ok ", "dst.workload=gw ", "dst.service=api.shop.svc.cluster.local "];
    mesh.logged_by_calling(&client, SocketAddr::new(vips[0], 80), 0, &log).await?;
    for (vip, from) in vips.into_iter().zip(client.ips()) {
        let to = SocketAddr::new(vip, 80);
        let (_, said) = call(&client, to, b"x").await?;
        ensure!(said == b"waypoint", "{said:?}");
        let (authority, forwarded) = asked.lock().unwrap().last().cloned().unwrap();
        ensure!(authority == to.to_string(), "the waypoint was asked for {authority}");
        let from = if from.is_ipv6() { format!("for=\"[{from}]:") } else { format!("for=\"{from}:") };
        ensure!(forwarded.starts_with(&from) && forwarded.ends_with(";host=api.shop.svc.cluster.local"), "{forwarded}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn impostor(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, gateway, vips) = prepare(&mesh).await?;
    let asked = waypoint(&mesh, &gateway, &id_of("api"))?;
    mesh.logged_by_calling(&client, SocketAddr::new(vips[0], 80), 0, &["direction=outbound", "reason=peer_identity_mismatch "])
        .await?;
    ensure!(asked.lock().unwrap().is_empty(), "a tunnel was opened to a server that is not the waypoint");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn speaks_first(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, gateway, vips) = prepare(&mesh).await?;
    let strict = Arc::<AtomicBool>::default();
    let asked = Arc::clone(&strict);
    serve(&mesh, &gateway, &id_of("gw"), move |incoming| echo(incoming, Arc::clone(&asked)))?;
    let to = SocketAddr::new(vips[0], 80);
    call_until_it_works(&client, to, 2 * PATIENCE).await?;
    strict.store(true, Ordering::SeqCst);
    for length in [1, 700, 8 << 10, 100_000] {
        let text = vec![b'f'; length];
        let (_, said) = call(&client, to, &text).await?;
        ensure!(said == text, "{} bytes came back of {length}", said.len());
        mesh.logged(0, &["direction=outbound", "reason=ok ", &format!("bytes_sent={length} ")]).await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

/// By which a waypoint says on whose behalf it comes.
const HEADER: &str = "x-forwarded-client-cert";

/// What the waypoint of the service says is in the log; not what others say, nor what it would not say.
async fn carried_for(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (_client, server, gateway, _) = with_server(&mesh).await?;
    let liar = mesh.outsider(0, "liar", true).await?;
    let [web, gw, admin] = ["web", "gw", "admin"].map(id_of);
    let by_waypoint = format!("By={gw};URI={web}");
    let cases = [
        (&gateway, "gw", vec![by_waypoint.clone()], Some(&web)),
        (&gateway, "gw", vec![], None),
        (&gateway, "gw", vec![by_waypoint.clone(), by_waypoint.clone()], None),
        (&gateway, "gw", vec![format!("By={gw};URI={web} reason=forged")], None),
        (&gateway, "gw", vec!["a".repeat(5000)], None),
        (&liar, "liar", vec![format!("By={};URI={admin}", id_of("liar"))], None),
        (&liar, "liar", vec![by_waypoint.clone()], None),
    ];
    let certificates = LocalSource::new(Arc::clone(&mesh.authority), Duration::from_mins(10));
    // A moment passes until the proxy knows whose waypoint it is.
    let until = Instant::now() + PATIENCE;
    let _echo = echo_server(&server, 8080)?;
    while mesh.logged_now(1, &["direction=inbound", "src.forwarded_client="]).is_none() {
        ensure!(Instant::now() < until, "what the waypoint says is never told");
        let headers = HeaderMap::from_iter([(HeaderName::from_static(HEADER), HeaderValue::from_str(&by_waypoint)?)]);
        let svid = certificates.svid(&gw.parse()?)?;
        tunnel_saying(&gateway, &server, &svid, &SocketAddr::new(server.ip(), 8080).to_string(), headers).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for ((pod, account, said, expected), port) in cases.into_iter().zip(8100..) {
        let _echo = echo_server(&server, port)?;
        let to = SocketAddr::new(server.ip(), port);
        let mut headers = HeaderMap::new();
        for said in &said {
            headers.append(HEADER, HeaderValue::from_str(said)?);
        }
        let svid = certificates.svid(&id_of(account).parse()?)?;
        tunnel_saying(pod, &server, &svid, &to.to_string(), headers).await.with_context(|| format!("{account} {said:?}"))?;
        let (identity, to) = (format!("src.identity={} ", id_of(account)), format!("dst.addr={to} "));
        let line = mesh.logged(1, &["direction=inbound", &identity, &to]).await?;
        let told = line.split(' ').find_map(|field| field.strip_prefix("src.forwarded_client="));
        ensure!(told == expected.map(String::as_str), "{account} {said:?}: {line}");
        ensure!(!line.contains("forged"), "{line}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}
