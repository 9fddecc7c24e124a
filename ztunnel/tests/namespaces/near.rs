//! Connections between two pods of one node, however they are carried: what the pods see, what is logged, and what ends them.

use std::{net::SocketAddr, os::fd::AsFd, time::Duration};

use ambit_api::{
    security::{Action, Match, StringMatch, string_match::MatchType},
    workload::{GatewayAddress, gateway_address::Destination},
};
use ambit_runtime::socket::{ConnectOptions, connect};
use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use nlink::netlink::nftables::{BaseChain, Chain, Family, NatHook, Priority, Rule};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    mesh::{Mesh, PATIENCE, call, call_until_it_works, echo, id_of, network_address, talk},
    observe::{get, series::number},
    over,
};

/// Every way to carry what stays on a node, and the one between nodes to compare with.
pub const MODES: &[&str] = &["relay", "direct"];

const MARKER: &[u8] = b"plain-text-marker-4713";

pub fn tests(families: Families) -> Vec<Trial> {
    type Body = fn(Families, &'static str) -> std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;
    let bodies: [(&str, Body); 11] = [
        ("both_ends_log_who_and_how_much_and_nothing_reaches_a_wire", |families, mode| Box::pin(logged(families, mode))),
        ("the_end_of_one_direction_leaves_the_other_open_on_one_node", |families, mode| Box::pin(half_close(families, mode))),
        ("a_reset_of_one_side_is_a_reset_at_the_other_on_one_node", |families, mode| Box::pin(reset(families, mode))),
        ("a_policy_that_arrives_later_cuts_what_it_denies_on_one_node", |families, mode| Box::pin(cut(families, mode))),
        ("a_pod_that_is_released_ends_its_connections_on_one_node", |families, mode| Box::pin(released(families, mode))),
        ("a_proxy_that_stops_lets_connections_on_one_node_finish", |families, mode| Box::pin(drain(families, mode))),
        ("an_identity_that_is_not_the_pods_is_refused_on_one_node", |families, mode| Box::pin(impostor(families, mode))),
        ("a_waypoint_is_not_gone_around_on_one_node", |families, mode| Box::pin(waypoint(families, mode))),
        ("much_data_both_ways_at_once_arrives_unchanged_on_one_node", |families, mode| Box::pin(bulk(families, mode))),
        ("a_pod_that_marks_its_own_packets_has_no_identity_on_one_node", |families, mode| Box::pin(marked(families, mode))),
        ("a_killed_proxy_leaves_nothing_open_on_one_node", |families, mode| Box::pin(killed(families, mode))),
    ];
    let trials = MODES.iter().flat_map(|mode| {
        bodies.iter().map(move |(name, body)| {
            let body = *body;
            over(families, &format!("{mode}: {name}"), move |families| body(families, mode))
        })
    });
    let only_direct = [
        over(families, "direct: where_packets_are_changed_on_their_way_connections_are_joined_instead", changed),
        over(families, "direct: a_port_that_is_used_again_is_decided_about_again", again),
        over(families, "direct: a_connection_that_carries_nothing_is_ended", quiet),
        over(families, "direct: a_proxy_that_stops_does_not_wait_for_sockets_whose_connection_has_ended", kept),
        over(families, "direct: endpoints_on_the_node_are_not_picked_more_often", picked),
    ];
    trials.chain(only_direct).collect()
}

async fn changed(families: Families) -> anyhow::Result<()> {
    let Ends { mesh, client, server, pods } = ends(families, "direct").await?;
    drop((client, server));
    let _echo = echo(&pods.1, 8081)?;
    // As a node does that hides its pods behind its own address.
    let nft = nlink::Connection::<nlink::Nftables>::new_in(mesh.nodes[0].node.netns().as_fd())?;
    let chain = Chain::new("hide", "postrouting")?.family(Family::Inet);
    let chain = chain.base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat));
    let rule = Rule::new("hide", "postrouting").family(Family::Inet).match_tcp_dport(8081).masquerade();
    nft.transaction().add_table("hide", Family::Inet).add_chain(chain).add_rule(rule).commit(&nft).await?;
    let to = SocketAddr::new(pods.1.ip(), 8081);
    ensure!(call(&pods.0, to, b"x").await.is_err(), "a connection that was changed on its way was let in");
    both_log(&mesh, &["reason=upstream_unreachable "], &["reason=upstream_unreachable "]).await?;
    let again = call(&pods.0, to, b"x")
        .await
        .with_context(|| std::fs::read_to_string(&mesh.nodes[0].log).unwrap_or_default() + &mesh.program_log(0));
    let (seen, _) = again?;
    ensure!(seen == pods.0.ip(), "the server saw {seen}");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn again(families: Families) -> anyhow::Result<()> {
    // After a reset the kernel knows the connection for a while, and would let another one between the same ports go as it did.
    for server_resets in [true, false] {
        let Ends { mesh, client, server, pods } = ends(families, "direct").await?;
        let (from, to) = (client.local_addr()?, client.peer_addr()?);
        let (first, second) = if server_resets { (server, client) } else { (client, server) };
        ambit_runtime::socket::reset(first);
        ends_by_reset(second).await?;
        let _echo = echo_at(&pods.1, to)?;
        // A port that is used again at once works at once, or when the packet is sent again.
        let back = reuse(&pods.0, from, to).await?;
        ensure!(talk(back, b"x").await.is_ok(), "it was not let in before the policy");
        mesh.policy("closed", Action::Deny, vec![Match { destination_ports: vec![8080], ..Default::default() }]);
        let until = std::time::Instant::now() + PATIENCE;
        while !get(&mesh, 0, 15000, "/config_dump").await?.contains("shop/closed\"") {
            ensure!(std::time::Instant::now() < until, "the proxy does not know the policy");
        }
        let said = match reuse(&pods.0, from, to).await {
            Ok(stream) => talk(stream, b"x").await.err().context("it was let in")?,
            Err(error) => error,
        };
        let port = format!("src.addr={from} ");
        let denied =
            mesh.logged(0, &["direction=outbound", &port, "policy=shop/closed ", "reason=policy_denied_explicit "]).await;
        denied.with_context(|| format!("its program was told: {said:#}"))?;
        mesh.bed.shutdown().await;
    }
    Ok(())
}

/// Connects from this very port.
async fn reuse(pod: &Pod, from: SocketAddr, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let new = if from.is_ipv4() { tokio::net::TcpSocket::new_v4 } else { tokio::net::TcpSocket::new_v6 };
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let socket = pod.netns().run(new)??;
        socket.set_reuseaddr(true)?;
        socket.bind(from)?;
        match timeout(PATIENCE, socket.connect(to)).await? {
            // For a second after a connection the kernel does not let another one have its port.
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable && std::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            connected => return Ok(connected?),
        }
    }
}

fn echo_at(pod: &Pod, at: SocketAddr) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    echo(pod, at.port())
}

async fn picked(families: Families) -> anyhow::Result<()> {
    let Ends { mesh, client, server, pods } = ends(families, "direct").await?;
    drop((client, server));
    let far = mesh.pod(1, "far").await?;
    let _echo = (echo(&pods.1, 8080), echo(&far, 8080)?);
    let vip = mesh.vip(10);
    mesh.service("api", &[vip], &["api", "far"], |_| {});
    let to = SocketAddr::new(vip, 80);
    call_until_it_works(&pods.0, to, PATIENCE).await?;
    mesh.logged_by_calling(&pods.0, to, 0, &["direction=outbound", "dst.workload=far "]).await?;
    mesh.logged_by_calling(&pods.0, to, 0, &["direction=outbound", "dst.workload=api "]).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let count = |name: &str| {
        let log = std::fs::read_to_string(&mesh.nodes[0].log).unwrap_or_default();
        log.lines().filter(|line| line.contains("direction=outbound") && line.contains(&format!("dst.workload={name} "))).count()
    };
    let before = [count("api"), count("far")];
    for _ in 0..200 {
        call(&pods.0, to, b"x").await?;
    }
    // The line of a direct connection comes when the proxy has looked at its end.
    let until = std::time::Instant::now() + 3 * PATIENCE;
    while count("api") + count("far") < before[0] + before[1] + 200 {
        ensure!(std::time::Instant::now() < until, "{} and {} lines after {before:?}", count("api"), count("far"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let near = count("api") - before[0];
    // By chance alone it is outside of this once in 10^9; picked twice as often it would be 150.
    ensure!((57..=143).contains(&near), "{near} of 200 went to the endpoint on the node");
    mesh.bed.shutdown().await;
    Ok(())
}

/// Both pods and both ends of one connection between them.
struct Ends {
    mesh: Mesh,
    client: TcpStream,
    server: TcpStream,
    pods: (Pod, Pod),
}

async fn ends(families: Families, mode: &'static str) -> anyhow::Result<Ends> {
    ends_in(Mesh::start_with(families, mode).await?, mode).await
}

async fn ends_in(mesh: Mesh, mode: &'static str) -> anyhow::Result<Ends> {
    let pods = (mesh.pod(0, "web").await?, mesh.pod(0, "api").await?);
    let to = SocketAddr::new(pods.1.ip(), 8080);
    let until = std::time::Instant::now() + PATIENCE;
    // An address of which nothing is known yet would be the world outside.
    while !get(&mesh, 0, 15000, "/config_dump").await?.contains("Kubernetes//Pod/shop/api") {
        ensure!(std::time::Instant::now() < until, "the proxy does not know the pod");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let listener = pods.1.listen(to)?;
    loop {
        let client = pods.0.connect(to).await?;
        let (server, from) = timeout(PATIENCE, listener.accept()).await??;
        ensure!(from.ip().to_canonical() == pods.0.ip(), "the server saw {from}");
        // What goes directly keeps the client's port too. The first connection may come before it can.
        if mode != "direct" || from.port() == client.local_addr()?.port() {
            return Ok(Ends { mesh, client, server, pods });
        }
        ensure!(std::time::Instant::now() < until, "no connection went directly");
    }
}

async fn both_log(mesh: &Mesh, outbound: &[&str], inbound: &[&str]) -> anyhow::Result<()> {
    for (direction, parts) in [("direction=outbound", outbound), ("direction=inbound", inbound)] {
        mesh.logged(0, &[&[direction, "security=node_local"], parts].concat()).await?;
    }
    Ok(())
}

async fn logged(families: Families, mode: &'static str) -> anyhow::Result<()> {
    let mesh = Mesh::start_with(families, mode).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(0, "api").await?);
    let _echo = echo(&server, 8080)?;
    if mode == "direct" {
        // Until then an address may have been a stranger's.
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    let capture = mesh.bed.capture([MARKER])?;
    let vips = mesh.vips(10);
    mesh.service("api", &vips, &["api"], |_| {});
    call_until_it_works(&client, SocketAddr::new(vips[0], 80), PATIENCE).await?;
    let ids = [format!("src.identity={} ", id_of("web")), format!("dst.identity={} ", id_of("api"))];
    for ((ip, vip), own) in server.ips().into_iter().zip(vips).zip(client.ips()) {
        for to in [SocketAddr::new(ip, 8080), SocketAddr::new(vip, 80)] {
            let (seen, answer) = call(&client, to, MARKER).await?;
            ensure!(seen == own, "the server saw {seen}, not {own}");
            ensure!(answer == [MARKER, b"bye"].concat(), "the answer was {answer:?}");
            let received = format!("bytes_recv={} ", own.to_string().len() + 1 + MARKER.len() + 3);
            let common = ["reason=ok ", "bytes_sent=22 ", &received, &ids[0], &ids[1]];
            let (asked, reached) = (format!("dst.addr={to} "), format!("dst.addr={} ", SocketAddr::new(ip, 8080)));
            both_log(&mesh, &[&common[..], &[&asked]].concat(), &[&common[..], &[&reached]].concat()).await?;
        }
    }
    let report = capture.report();
    ensure!(!report.marker_seen() && report.dropped == 0, "{report:?}");
    let metrics = get(&mesh, 0, 15020, "/metrics").await?;
    for reporter in ["source", "destination"] {
        let of = |metric: &str, service: &str| {
            let labels =
                [format!("reporter=\"{reporter}\""), service.to_owned(), "connection_security_policy=\"mutual_tls\"".into()];
            number(&metrics, metric, &labels.each_ref().map(String::as_str))
        };
        let calls = client.ips().len() as u64;
        // The other side knows only the address that was chosen.
        let service = if reporter == "source" { "destination_service_name=\"api\"" } else { "destination_workload=\"api\"" };
        let counted =
            ["istio_tcp_connections_opened_total{", "istio_tcp_connections_closed_total{", "istio_tcp_sent_bytes_total{"];
        let counted = counted.map(|metric| of(metric, service));
        ensure!(counted[0] >= Some(calls) && counted[1] >= Some(calls), "{reporter}: {counted:?}\n{metrics}");
        ensure!(counted[2] >= Some(22 * calls), "{reporter}: {counted:?}\n{metrics}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn half_close(families: Families, mode: &'static str) -> anyhow::Result<()> {
    let Ends { mesh, mut client, mut server, .. } = ends(families, mode).await?;
    server.write_all(b"that is all").await?;
    server.shutdown().await?;
    let mut all = String::new();
    timeout(PATIENCE, client.read_to_string(&mut all)).await??;
    ensure!(all == "that is all", "{all}");
    for part in ["not ", "for ", "me"] {
        client.write_all(part.as_bytes()).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.shutdown().await?;
    all.clear();
    timeout(PATIENCE, server.read_to_string(&mut all)).await??;
    ensure!(all == "not for me", "{all}");
    drop((client, server));
    let counted = ["reason=ok ", "bytes_sent=10 bytes_recv=11 "];
    both_log(&mesh, &counted, &counted).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn quiet(families: Families) -> anyhow::Result<()> {
    let mesh =
        Mesh::start_as(families, "direct", |_, _| ["--idle-seconds", "9", "--half-open-seconds", "4"].map(Into::into).to_vec());
    let Ends { mesh, mut client, mut server, pods } = ends_in(mesh.await?, "direct").await?;
    // Something now and then is enough, also from one side alone.
    for _ in 0..4 {
        talk_once(&mut client, &mut server).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let to = SocketAddr::new(pods.1.ip(), 8081);
    let listener = pods.1.listen(to)?;
    let idle = pods.0.connect(to).await?;
    let (_never_used, from) = timeout(PATIENCE, listener.accept()).await??;
    ensure!(from.port() == idle.local_addr()?.port(), "it does not go directly");
    client.shutdown().await?;
    for _ in 0..3 {
        server.write_all(b"still here").await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    ends_by_reset(client).await.context("one half of a connection")?;
    both_log(&mesh, &["reason=half_open_timeout "], &["reason=half_open_timeout "]).await?;
    ends_by_reset(idle).await.context("one that was never used")?;
    both_log(&mesh, &["reason=idle_timeout "], &["reason=idle_timeout "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn ends_by_reset(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut all)).await.context("it did not end")?;
    let kind = end.as_ref().map_err(std::io::Error::kind);
    // A socket that the kernel is told to end says that it was aborted.
    let cut = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::ConnectionAborted];
    ensure!(kind.is_err_and(|kind| cut.contains(&kind)), "{end:?} {all:?}");
    Ok(())
}

async fn reset(families: Families, mode: &'static str) -> anyhow::Result<()> {
    for client_resets in [true, false] {
        let Ends { mesh, client, server, .. } = ends(families, mode).await?;
        let (first, second) = if client_resets { (client, server) } else { (server, client) };
        ambit_runtime::socket::reset(first);
        ends_by_reset(second).await?;
        let reason = if client_resets { "reason=client_reset " } else { "reason=upstream_reset " };
        both_log(&mesh, &[reason], &[reason]).await?;
        mesh.bed.shutdown().await;
    }
    Ok(())
}

async fn talk_once(client: &mut TcpStream, server: &mut TcpStream) -> anyhow::Result<()> {
    let mut seen = [0; 5];
    client.write_all(b"first").await?;
    timeout(PATIENCE, server.read_exact(&mut seen)).await??;
    server.write_all(b"seen!").await?;
    timeout(PATIENCE, client.read_exact(&mut seen)).await??;
    Ok(())
}

async fn cut(families: Families, mode: &'static str) -> anyhow::Result<()> {
    let Ends { mesh, mut client, mut server, .. } = ends(families, mode).await?;
    talk_once(&mut client, &mut server).await?;
    mesh.policy("others", Action::Deny, vec![Match { destination_ports: vec![9090], ..Default::default() }]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    talk_once(&mut client, &mut server).await.context("a policy about something else")?;
    mesh.policy("closed", Action::Deny, vec![Match { destination_ports: vec![8080], ..Default::default() }]);
    ends_by_reset(client).await?;
    ends_by_reset(server).await?;
    let inbound = ["policy=shop/closed ", "reason=policy_denied_explicit ", "bytes_sent=10 bytes_recv=10 "];
    both_log(&mesh, &["reason=upstream_reset ", "bytes_sent=10 bytes_recv=10 "], &inbound).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn released(families: Families, mode: &'static str) -> anyhow::Result<()> {
    for (pod, outbound, inbound) in
        [("api", "reason=upstream_reset ", "reason=draining "), ("web", "reason=draining ", "reason=client_reset ")]
    {
        let Ends { mesh, mut client, mut server, pods } = ends(families, mode).await?;
        talk_once(&mut client, &mut server).await?;
        mesh.nodes[0].agent.remove(&format!("uid-{pod}")).await?;
        // A pod without its rules no longer hears from the capture ports.
        if pod != "web" {
            ends_by_reset(client).await?;
        }
        ends_by_reset(server).await?;
        both_log(&mesh, &[outbound, "bytes_sent=5 "], &[inbound, "bytes_sent=5 "]).await?;
        let left = if pod == "web" { &pods.0 } else { &pods.1 };
        no_tables(left).await?;
        mesh.bed.shutdown().await;
    }
    Ok(())
}

/// Waits until nothing of the proxy's is left in a pod.
async fn no_tables(pod: &Pod) -> anyhow::Result<()> {
    let nft = nlink::Connection::<nlink::Nftables>::new_in(pod.netns().as_fd())?;
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let tables = nft.list_tables().await?;
        if tables.is_empty() {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < until, "{:?} are left", tables.iter().map(|table| &table.name).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn drain(families: Families, mode: &'static str) -> anyhow::Result<()> {
    let Ends { mut mesh, mut client, mut server, .. } = ends(families, mode).await?;
    let proxy = mesh.nodes[0].proxy.take().context("no proxy")?;
    let stopping = tokio::spawn(async move { proxy.stop(PATIENCE).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    talk_once(&mut client, &mut server).await?;
    client.shutdown().await?;
    server.shutdown().await?;
    let mut all = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut all)).await??;
    timeout(PATIENCE, server.read_to_end(&mut all)).await??;
    drop((client, server));
    ensure!(stopping.await?.success(), "the proxy did not end well");
    both_log(&mesh, &["reason=ok ", "bytes_sent=5 bytes_recv=5 "], &["reason=ok ", "bytes_sent=5 bytes_recv=5 "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn kept(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::start_as(families, "direct", |_, _| ["--drain-seconds", "40"].map(Into::into).to_vec());
    let Ends { mut mesh, mut client, mut server, .. } = ends_in(mesh.await?, "direct").await?;
    talk_once(&mut client, &mut server).await?;
    // By then nobody looks after it for several seconds.
    tokio::time::sleep(Duration::from_millis(6500)).await;
    let proxy = mesh.nodes[0].proxy.take().context("no proxy")?;
    let begun = std::time::Instant::now();
    let stopping = tokio::spawn(async move { proxy.stop(PATIENCE * 4).await });
    for end in [&mut client, &mut server] {
        end.shutdown().await?;
    }
    ensure!(stopping.await?.success(), "the proxy did not end well");
    let late = begun.elapsed();
    ensure!(late < Duration::from_secs(8), "the proxy ended after {late:?}");
    both_log(&mesh, &["reason=ok ", "bytes_sent=5 bytes_recv=5 "], &["reason=ok ", "bytes_sent=5 bytes_recv=5 "]).await?;
    drop((client, server));
    mesh.bed.shutdown().await;
    Ok(())
}

async fn impostor(families: Families, mode: &'static str) -> anyhow::Result<()> {
    let mesh = Mesh::start_with(families, mode).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(0, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    // The control plane says that this address is somebody else's.
    mesh.change("api", |workload| workload.service_account = "payments".to_owned());
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=peer_identity_mismatch "]).await?;
    // Or that the pod has an address that is another's.
    let stranger = mesh.outsider(1, "stranger", false).await?;
    let _stranger = echo(&stranger, 8080)?;
    mesh.change("api", |workload| {
        workload.service_account = "api".to_owned();
        workload.addresses = vec![network_address(stranger.ip()).address];
    });
    let to = SocketAddr::new(stranger.ip(), 8080);
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "dst.workload=api", &format!("dst.addr={to} "), "reason=t"])
        .await?;
    ensure!(call(&client, to, b"x").await.is_err(), "the connection left the pod in clear");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn waypoint(families: Families, mode: &'static str) -> anyhow::Result<()> {
    let mesh = Mesh::start_with(families, mode).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(0, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    // A waypoint that is a pod of this node, and does not answer.
    let dead = mesh.outsider(0, "waypoint", true).await?;
    let destination = Some(Destination::Address(network_address(dead.ip())));
    mesh.change("api", |workload| workload.waypoint = Some(GatewayAddress { destination, hbone_mtls_port: 15008 }));
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=waypoint_unreachable "]).await?;
    ensure!(call(&client, to, b"x").await.is_err(), "the waypoint was gone around");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn marked(families: Families, mode: &'static str) -> anyhow::Result<()> {
    let Ends { mesh, client, server, pods } = ends(families, mode).await?;
    drop((client, server));
    let _echo = echo(&pods.1, 8081)?;
    let to = SocketAddr::new(pods.1.ip(), 8081);
    let presence = StringMatch { match_type: Some(MatchType::Presence(())) };
    mesh.policy("strict", Action::Deny, vec![Match { not_principals: vec![presence], ..Default::default() }]);
    // The marks of packets that a proxy sent, or let go.
    for mark in [0x539, 0x1000_0539] {
        let options = ConnectOptions { mark: Some(mark), netns: Some(pods.0.netns()), ..ConnectOptions::default() };
        let until = std::time::Instant::now() + PATIENCE;
        while let Ok(stream) = connect(to, &options).await {
            if talk(stream, b"x").await.is_err() {
                break;
            }
            ensure!(std::time::Instant::now() < until, "{mark:#x}: it is let in");
        }
        call(&pods.0, to, b"x").await?;
    }
    mesh.logged(0, &["direction=inbound", "security=none", "policy=shop/strict ", "reason=strict_mtls_required "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn bulk(families: Families, mode: &'static str) -> anyhow::Result<()> {
    const LENGTH: usize = 24 << 20;
    let Ends { mesh, client, server, .. } = ends(families, mode).await?;
    let pattern: Vec<u8> = (0..LENGTH).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let pattern = std::sync::Arc::new(pattern);
    let mut tasks = tokio::task::JoinSet::new();
    for stream in [client, server] {
        let (mut read, mut write) = stream.into_split();
        let (sent, expected) = (std::sync::Arc::clone(&pattern), std::sync::Arc::clone(&pattern));
        tasks.spawn(async move {
            write.write_all(&sent).await?;
            write.shutdown().await?;
            anyhow::Ok(())
        });
        tasks.spawn(async move {
            let mut all = Vec::with_capacity(LENGTH);
            read.read_to_end(&mut all).await?;
            ensure!(all == *expected, "{} of {LENGTH} bytes, or others", all.len());
            Ok(())
        });
    }
    while let Some(done) = timeout(3 * PATIENCE, tasks.join_next()).await? {
        done??;
    }
    let counted = ["reason=ok ", &format!("bytes_sent={LENGTH} bytes_recv={LENGTH} ")];
    both_log(&mesh, &counted, &counted).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn killed(families: Families, mode: &'static str) -> anyhow::Result<()> {
    let Ends { mut mesh, mut client, mut server, pods } = ends(families, mode).await?;
    talk_once(&mut client, &mut server).await?;
    let _echo = echo(&pods.1, 8081)?;
    let to = SocketAddr::new(pods.1.ip(), 8081);
    call(&pods.0, to, b"x").await?;
    let proxy = mesh.nodes[0].proxy.take().context("no proxy")?;
    proxy.kill();
    proxy.wait().await;
    for ip in pods.1.ips() {
        let answer = call(&pods.0, SocketAddr::new(ip, 8081), MARKER).await;
        ensure!(answer.is_err(), "a connection succeeded without the proxy");
    }
    // What it had let go is carried no further.
    ensure!(talk_once(&mut client, &mut server).await.is_err(), "a connection goes on without the proxy");
    drop((client, server));
    mesh.start_proxy(0).await?;
    call_until_it_works(&pods.0, to, PATIENCE).await?;
    both_log(&mesh, &["reason=ok "], &["reason=ok "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}
