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
use anyhow::ensure;
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{Mesh, PATIENCE, call, call_until_it_works, id_of, network_address},
    over,
};

pub fn tests(families: Families) -> Vec<Trial> {
    vec![
        over(families, "a_service_with_a_waypoint_is_reached_through_it", through),
        over(families, "a_waypoint_with_another_identity_is_refused", impostor),
        over(families, "on_a_warm_tunnel_the_first_bytes_of_a_client_do_not_wait_for_the_answer", speaks_first),
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
            let _gone = incoming.refuse(http::StatusCode::SERVICE_UNAVAILABLE, http::HeaderMap::new());
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Whoever gives up meanwhile is seen by the test.
    let Ok(mut tunnel) = incoming.accept(http::HeaderMap::new()) else { return };
    let mut all = b"10.9.9.9\n".to_vec();
    if tunnel.read_to_end(&mut all).await.is_ok() && tunnel.write_all(&all).await.is_ok() {
        let _ended = tunnel.shutdown().await;
    }
}

async fn answer(incoming: Incoming, noted: Asked) {
    let authority = incoming.authority().map(ToString::to_string).unwrap_or_default();
    let forwarded = incoming.headers().get("forwarded").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    noted.lock().unwrap().push((authority, forwarded));
    let mut tunnel = incoming.accept(http::HeaderMap::new()).unwrap();
    tunnel.write_all(b"10.9.9.9\nwaypoint").await.unwrap();
    tunnel.shutdown().await.unwrap();
    // The bed may end first.
    let _ended = tokio::io::copy(&mut tunnel, &mut tokio::io::sink()).await;
}

async fn prepare(mesh: &Mesh) -> anyhow::Result<(Pod, Pod, Vec<IpAddr>)> {
    let client = mesh.pod(0, "web").await?;
    let (_server, gateway) = (mesh.pod(1, "api").await?, mesh.outsider(1, "gw", true).await?);
    mesh.service("gw", &mesh.vips(9), &["gw"], |service| {
        service.ports[0] = ambit_api::workload::Port { service_port: 15008, target_port: 15008, app_protocol: 0 }
    });
    let vips = mesh.vips(10);
    let destination = Some(Destination::Address(network_address(mesh.vip(9))));
    mesh.service("api", &vips, &["api"], |service| {
        service.waypoint = Some(GatewayAddress { destination, hbone_mtls_port: 15008 })
    });
    Ok((client, gateway, vips))
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
