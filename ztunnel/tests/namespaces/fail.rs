//! What happens when a part of the mesh is away.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ambit_api::workload::{GatewayAddress, gateway_address::Destination};
use ambit_node_agent::PodInfo;
use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    load::Load,
    mesh::{Mesh, PATIENCE, call, call_until_it_works, call_until_refused, echo, info_of, network_address},
    over,
};

const SECOND: Duration = Duration::from_secs(1);

const MARKER: &[u8] = b"plain-text-marker-4712";

pub fn tests(families: Families) -> Vec<Trial> {
    vec![
        over(families, "a_killed_proxy_refuses_and_never_goes_in_clear_and_recovers_within_a_second", killed_proxy),
        over(families, "without_the_control_plane_known_pods_go_on", no_control_plane),
        over(families, "a_missing_waypoint_is_refused_and_not_gone_around", missing_waypoint),
        over(families, "a_proxy_that_is_told_to_stop_lets_open_connections_finish", drain),
        over(families, "an_endpoint_that_is_away_costs_no_connection", endpoint_away),
        over(families, "capture_rules_that_something_removed_are_written_again", repaired),
        over(families, "a_pod_that_is_released_is_no_longer_captured", released),
        over(families, "a_pod_that_goes_lets_open_connections_finish_and_takes_no_more", pod_goes),
        over(families, "a_pod_in_the_namespace_of_one_that_has_gone_gets_none_of_its_connections", replaced),
        over(
            families,
            "a_pod_in_the_namespace_of_one_that_has_gone_gets_none_that_a_proxy_which_leaves_has_still",
            replaced_meanwhile,
        ),
        over(families, "a_refused_port_is_a_reset_with_its_reason", refused_port),
    ]
}

/// Where its echo server is reached, over each family.
fn addresses(server: &Pod) -> Vec<SocketAddr> {
    server.ips().into_iter().map(|ip| SocketAddr::new(ip, 8080)).collect()
}

async fn killed_proxy(families: Families) -> anyhow::Result<()> {
    let mut mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let capture = mesh.bed.capture([MARKER])?;
    let load = Load::start(&client, &addresses(&server), 8);
    let before = load.during(SECOND).await;
    ensure!(before.well > 100 && before.failed == 0, "{before:?}");
    // The clients' side, then the servers' side.
    for number in [0, 1] {
        if let Some(proxy) = mesh.nodes[number].proxy.take() {
            proxy.kill();
            proxy.wait().await;
        }
        let away = Instant::now();
        for ip in server.ips() {
            let answer = call(&client, SocketAddr::new(ip, 8080), MARKER).await;
            ensure!(answer.is_err(), "a connection succeeded without the proxy of node {number}");
        }
        tokio::time::sleep(SECOND / 2).await;
        let counts = load.between(away, Instant::now());
        ensure!(counts.well == 0 && counts.failed > 10, "without the proxy of node {number}: {counts:?}");
        let begun = Instant::now();
        mesh.start_proxy(number).await?;
        let took = load.first_success(begun, PATIENCE).await;
        ensure!(took.is_some_and(|took| took < SECOND), "after the return of the proxy of node {number}: {took:?}");
        // A caller whose dial was under way when the proxy came back may have been refused by the old state.
        tokio::time::sleep(SECOND / 2).await;
        let after = load.during(SECOND).await;
        ensure!(after.well > 100 && after.failed == 0, "after the return of the proxy of node {number}: {after:?}");
    }
    let report = capture.report();
    ensure!(!report.marker_seen() && report.dropped == 0, "{report:?}");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn no_control_plane(families: Families) -> anyhow::Result<()> {
    let mut mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let mut open = client.connect(to).await?;
    let load = Load::start(&client, &addresses(&server), 8);
    let begun = Instant::now();
    tokio::time::sleep(SECOND / 2).await;
    mesh.stop_control_plane().await;
    tokio::time::sleep(2 * SECOND).await;
    let counts = load.between(begun, Instant::now());
    ensure!(counts.well > 300 && counts.failed == 0, "{counts:?}");
    open.write_all(b"still here").await?;
    open.shutdown().await?;
    let mut answer = String::new();
    open.read_to_string(&mut answer).await?;
    ensure!(answer.ends_with("still herebye"), "{answer}");
    // And what changed meanwhile arrives once it is back.
    mesh.start_control_plane().await?;
    let late = mesh.pod(0, "late").await?;
    call_until_it_works(&late, to, Duration::from_secs(20)).await?;
    let counts = load.between(begun, Instant::now());
    ensure!(counts.failed == 0, "{counts:?}");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn missing_waypoint(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let vip = mesh.vip(10);
    let to = SocketAddr::new(vip, 80);
    mesh.service("api", &[vip], &["api"], |_| {});
    call_until_it_works(&client, to, PATIENCE).await?;
    let waypoint =
        |ip: IpAddr| GatewayAddress { destination: Some(Destination::Address(network_address(ip))), hbone_mtls_port: 15008 };
    mesh.service("api", &[vip], &["api"], |service| service.waypoint = Some(waypoint(mesh.vip(99))));
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=waypoint_missing "]).await?;
    call_until_refused(&client, to).await?;
    // One that is known, and dead.
    let dead = mesh.outsider(1, "waypoint", true).await?;
    mesh.service("api", &[vip], &["api"], |service| service.waypoint = Some(waypoint(dead.ip())));
    let until = Instant::now() + PATIENCE;
    while mesh.logged_now(0, &["reason=waypoint_unreachable "]).is_none() {
        ensure!(call(&client, to, b"x").await.is_err(), "the waypoint was gone around");
        ensure!(Instant::now() < until, "no reason in the log");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn drain(families: Families) -> anyhow::Result<()> {
    let mut mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let mut open = client.connect(to).await?;
    let mut seen = [0; 1];
    open.read_exact(&mut seen).await?;
    let proxies: Vec<_> = (0..2).filter_map(|number| mesh.nodes[number].proxy.take()).collect();
    let stopping: Vec<_> = proxies.iter().cloned().map(|proxy| tokio::spawn(async move { proxy.stop(PATIENCE).await })).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(call(&client, to, b"x").await.is_err(), "a draining proxy took a new connection");
    open.write_all(b"last words").await?;
    open.shutdown().await?;
    let mut answer = String::new();
    open.read_to_string(&mut answer).await?;
    ensure!(answer.ends_with("last wordsbye"), "{answer}");
    for stopped in stopping {
        ensure!(stopped.await?.success(), "a proxy did not end well");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn endpoint_away(families: Families) -> anyhow::Result<()> {
    let mut mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (near, far, silent) = (mesh.pod(0, "near").await?, mesh.pod(1, "far").await?, mesh.pod(0, "silent").await?);
    let _echo = (echo(&near, 8080)?, echo(&far, 8080)?, &silent);
    let vip = mesh.vip(10);
    let to = SocketAddr::new(vip, 80);
    mesh.service("api", &[vip], &["near", "far", "silent"], |_| {});
    call_until_it_works(&client, to, PATIENCE).await?;
    // One endpoint whose node has lost its proxy, one whose application does not listen.
    if let Some(proxy) = mesh.nodes[1].proxy.take() {
        proxy.kill();
        proxy.wait().await;
    }
    for _ in 0..30 {
        call(&client, to, b"x").await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn repaired(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let rules = mesh.nodes[0].agent.rules();
    rules.remove(client.netns()).await?;
    let until = Instant::now() + PATIENCE;
    while !rules.faults(client.netns()).await?.is_empty() {
        ensure!(Instant::now() < until, "they are still missing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    call(&client, SocketAddr::new(server.ip(), 8080), b"x").await?;
    mesh.logged(0, &["direction=outbound", "security=mutual_tls", "reason=ok "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn released(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.outsider(1, "legacy", false).await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call(&client, to, b"x").await?;
    mesh.logged(0, &["direction=outbound", "src.workload=web"]).await?;
    let rules = mesh.nodes[0].agent.rules();
    ensure!(rules.faults(client.netns()).await?.is_empty());
    rules.install(client.netns()).await?;
    ensure!(rules.faults(client.netns()).await?.is_empty(), "a second install changed the rules");
    mesh.nodes[0].agent.remove("uid-web").await?;
    ensure!(rules.faults(client.netns()).await?.len() > 1, "rules are left");
    let before = std::fs::read_to_string(&mesh.nodes[0].log)?.lines().count();
    call(&client, to, b"x").await?;
    ensure!(std::fs::read_to_string(&mesh.nodes[0].log)?.lines().count() == before, "it is still captured");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn pod_goes(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let mut open = client.connect(to).await?;
    open.read_exact(&mut [0; 1]).await?;
    // Its sandbox ends; without the label its rules would go, and its connections with them.
    mesh.nodes[1].agent.gone("uid-api").await;
    open.write_all(b"last words").await?;
    open.shutdown().await?;
    let mut answer = String::new();
    open.read_to_string(&mut answer).await?;
    ensure!(answer.ends_with("last wordsbye"), "{answer}");
    call_until_refused(&client, to).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

/// A connection on which nothing more comes before something is sent.
async fn greeted(pod: &Pod, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = pod.connect(to).await?;
    while stream.read_u8().await? != b'\n' {}
    Ok(stream)
}

async fn replaced(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let (neighbour, _echo) = (mesh.pod(1, "near").await?, echo(&server, 8080)?);
    let to = SocketAddr::new(server.ip(), 8080);
    let mut open = Vec::new();
    for pod in [&client, &neighbour] {
        call_until_it_works(pod, to, PATIENCE).await?;
        open.push(greeted(pod, to).await?);
    }
    mesh.nodes[1].agent.gone("uid-api").await;
    let gone = Instant::now();
    let newcomer = PodInfo { uid: "uid-newcomer".to_owned(), name: "newcomer".to_owned(), ..info_of(&server) };
    mesh.nodes[1].agent.add(newcomer, server.netns().clone()).await?;
    for mut stream in open {
        let ended = timeout(PATIENCE, stream.read(&mut [0; 1])).await;
        ensure!(!matches!(ended, Ok(Ok(1)) | Err(_)), "{ended:?}");
    }
    // Left to themselves they would go on for 5 s.
    ensure!(gone.elapsed() < Duration::from_secs(5), "they were cut after {:?} only", gone.elapsed());
    mesh.bed.shutdown().await;
    Ok(())
}

/// The proxy that serves the newcomer is not the one that has the connection.
async fn replaced_meanwhile(families: Families) -> anyhow::Result<()> {
    let mut mesh = Mesh::start_as(families, "relay", |_, _| vec!["--drain-seconds".into(), "60".into()]).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let mut open = greeted(&client, to).await?;

    let old = mesh.nodes[1].proxy.take().context("no proxy")?;
    mesh.start_proxy(1).await?;
    let mut proxies = mesh.nodes[1].agent.proxies();
    timeout(PATIENCE, proxies.wait_for(|count| *count > 1)).await??;
    let stopping = tokio::spawn(async move { old.stop(6 * PATIENCE).await });
    timeout(PATIENCE, proxies.wait_for(|count| *count == 1)).await??;
    mesh.nodes[1].agent.gone("uid-api").await;
    ensure!(timeout(Duration::from_millis(300), open.read(&mut [0; 1])).await.is_err(), "it may go on until then");
    let newcomer = PodInfo { uid: "uid-newcomer".to_owned(), name: "newcomer".to_owned(), ..info_of(&server) };
    mesh.nodes[1].agent.add(newcomer, server.netns().clone()).await?;
    let ended = timeout(PATIENCE, open.read(&mut [0; 1])).await;
    ensure!(!matches!(ended, Ok(Ok(1)) | Err(_)), "{ended:?}");
    // With its last connection it has ended itself.
    ensure!(timeout(PATIENCE, stopping).await??.success(), "the old proxy did not end well");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn refused_port(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    for ip in server.ips() {
        call_until_refused(&client, SocketAddr::new(ip, 9)).await?;
        for (node, direction) in [(0, "direction=outbound"), (1, "direction=inbound")] {
            mesh.logged(node, &[direction, &format!("dst.addr={} ", SocketAddr::new(ip, 9)), "reason=upstream_refused "]).await?;
        }
    }
    mesh.bed.shutdown().await;
    Ok(())
}
