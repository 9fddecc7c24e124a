//! What the rules do with packets, for each packet filter.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use ambit_node_agent::rules::table::{PROBE_V4, PROBE_V6};
use ambit_testbed::{Pod, PodSpec};
use anyhow::ensure;
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UdpSocket,
};

use crate::{
    talk::{PORT, Talk, at, first_line, serve},
    test,
    world::{Filter, PATIENCE, World},
};

pub fn tests(filter: Filter) -> Vec<Trial> {
    let name = filter.name().replace('-', "_");
    let named = |what: &str| format!("{name}_{what}");
    vec![
        test(&named("captures_tcp_both_ways_and_keeps_the_clients_address"), move || captures(filter)),
        test(&named("leaves_loopback_udp_and_other_pods_alone"), move || leaves_alone(filter)),
        test(&named("brings_dns_to_the_proxy_and_its_answers_back_as_if_by_the_resolver"), move || dns(filter)),
        test(&named("lets_probes_of_the_node_pass"), move || probes(filter)),
        test(&named("refuses_while_no_proxy_is_there_and_says_so"), move || refuses(filter)),
        test(&named("removes_everything_with_the_label_and_writes_it_again"), move || label(filter)),
    ]
}

async fn captures(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    world.until_state("web", "captured").await?;
    for to in world.far() {
        let mut talk = Talk::open(&pod, to).await?;
        ensure!(talk.first == format!("outbound by p to {to}"), "{}", talk.first);
        talk.echo(&[7; 100_000]).await?;
    }
    for ip in pod.ips() {
        let mut talk = world.called_from_far(at(ip, PORT)).await?;
        ensure!(talk.first == format!("inbound by p to {}", at(ip, PORT)), "{}", talk.first);
        let sees = talk.line().await?;
        let far = world.far().map(|far| format!("application sees {}", far.ip()));
        ensure!(far.contains(&sees), "{sees}");
        // The application's answers leave through the proxy, however long they are.
        talk.echo(&[7; 100_000]).await?;
        ensure!(world.called_from_far(at(ip, 15008)).await?.first == "tunnel by p", "the port of tunnels is redirected");
    }
    // However strictly the kernel looks at where packets come from.
    for strictness in ["0", "1", "2"] {
        pod.netns().run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/rp_filter", strictness))??;
        for ip in pod.ips() {
            let mut talk = world.called_from_far(at(ip, PORT)).await?;
            ensure!(talk.line().await?.starts_with("application sees"), "{ip} with rp_filter {strictness}");
        }
    }
    world.bed.shutdown().await;
    Ok(())
}

async fn leaves_alone(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    let own = pod.ips().into_iter().chain([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
    for ip in own {
        let first = first_line(&pod, at(ip, PORT)).await?;
        ensure!(first == format!("application sees {ip}"), "to itself by {ip}: {first}");
    }
    let plain = world.node.add_pod(PodSpec::new("shop", "plain")).await?;
    serve(&plain)?;
    ensure!(first_line(&plain, world.far()[0]).await?.ends_with(&plain.ip().to_string()), "a pod that is not in the mesh");
    for ip in plain.ips() {
        let (server, client) = (udp(&plain, at(ip, 5300))?, udp(&pod, any(ip))?);
        client.send_to(b"question", at(ip, 5300)).await?;
        let mut buffer = [0; 100];
        let (length, from) = tokio::time::timeout(PATIENCE, server.recv_from(&mut buffer)).await??;
        ensure!(pod.ips().contains(&from.ip()), "UDP comes from {from}");
        server.send_to(&buffer[..length], from).await?;
        tokio::time::timeout(PATIENCE, client.recv_from(&mut buffer)).await??;
        ensure!(buffer.starts_with(b"question"));
    }
    world.bed.shutdown().await;
    Ok(())
}

async fn dns(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    for ip in world.far().map(|far| far.ip()) {
        let (proxy, client) = (udp(&pod, at(loopback(ip), 15053))?, udp(&pod, any(ip))?);
        client.send_to(b"question", at(ip, 53)).await?;
        let mut buffer = [0; 100];
        let (length, from) = tokio::time::timeout(PATIENCE, proxy.recv_from(&mut buffer)).await??;
        ensure!(&buffer[..length] == b"question" && pod.ips().contains(&from.ip()), "{from}");
        proxy.send_to(b"answer", from).await?;
        let (length, from) = tokio::time::timeout(PATIENCE, client.recv_from(&mut buffer)).await??;
        ensure!(&buffer[..length] == b"answer" && from == at(ip, 53), "it comes from {from}");
    }
    world.bed.shutdown().await;
    Ok(())
}

fn loopback(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn any(ip: IpAddr) -> SocketAddr {
    if ip.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0_u16; 8], 0)) }
}

fn udp(place: &Pod, address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = place.netns().run(|| std::net::UdpSocket::bind(address))??;
    socket.set_nonblocking(true)?;
    Ok(UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))?)
}

async fn probes(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    answer_http(&pod)?;
    // The agent learns of a pod's addresses a moment after the pod.
    probed(&world, &pod).await?;
    // And what somebody removes on the node it puts back.
    world.run(&world.node, "nft", &["delete", "table", "inet", "ambit-probes"]).await?;
    probed(&world, &pod).await?;
    world.run(&world.node, "nft", &["flush", "chain", "inet", "ambit-probes", "postrouting"]).await?;
    probed(&world, &pod).await?;
    let other = world.node.add_pod(PodSpec::new("shop", "plain")).await?;
    ensure!(first_line(&other, at(pod.ip(), PORT)).await?.starts_with("inbound by p"), "another pod is no probe");
    // A pod is not found dead because there is no proxy.
    drop(proxy);
    world.until_state("web", "pending").await?;
    probed(&world, &pod).await?;
    world.bed.shutdown().await;
    Ok(())
}

/// Waits until the kubelet would find the pod alive over both families: TCP and HTTP from the node, and a program in the pod that asks its
/// own.
async fn probed(world: &World, pod: &Pod) -> anyhow::Result<()> {
    let probes = world.bed.families().of([IpAddr::from(PROBE_V4), PROBE_V6.into()]);
    for (ip, probe) in pod.ips().into_iter().zip(probes) {
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            let first = first_line(&world.node, at(ip, PORT)).await;
            if first.as_ref().is_ok_and(|first| *first == format!("application sees {probe}")) {
                break;
            }
            ensure!(std::time::Instant::now() < until, "{first:?}");
        }
        let mut http = world.node.connect(at(ip, HTTP)).await?;
        http.write_all(format!("GET /healthz HTTP/1.1\r\nhost: {ip}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, http.read_to_string(&mut answer)).await??;
        ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("asked by {probe}")), "{answer}");
        for own in [ip, loopback(ip)] {
            let inside = first_line(pod, at(own, PORT)).await?;
            ensure!(inside == format!("application sees {own}"), "{inside}");
        }
    }
    Ok(())
}

/// Where [`answer_http`] listens.
const HTTP: u16 = 8081;

/// A program that answers a GET, and says to whom.
fn answer_http(pod: &Pod) -> anyhow::Result<()> {
    let listener = pod.listen(SocketAddr::from(([0_u16; 8], HTTP)))?;
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|length| length > 2) {
                line.clear();
            }
            let body = format!("asked by {}", from.ip().to_canonical());
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let _gone = stream.get_mut().write_all(answer.as_bytes()).await;
        }
    });
    Ok(())
}

async fn refuses(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    world.until_state("web", "captured").await?;
    drop(proxy);
    let status = world.until_state("web", "pending").await?;
    ensure!(status["reason"] == "no node proxy is connected", "{status}");
    for to in world.far() {
        ensure!(first_line(&pod, to).await.is_err(), "it goes in clear");
    }
    for ip in pod.ips() {
        ensure!(world.called_from_far(at(ip, PORT)).await.is_err(), "it is reached in clear");
    }
    let _next = world.proxy("q").await?;
    world.until_state("web", "captured").await?;
    ensure!(first_line(&pod, world.far()[0]).await?.starts_with("outbound by q"));
    world.bed.shutdown().await;
    Ok(())
}

async fn label(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let proxy = world.proxy("p").await?;
    let pod = world.sandbox("web").await?;
    let namespace = world.path("pods").join("shop.json");
    let before = rules_and_routes(&world, &pod).await?;
    world.object("web", Some("none"), false)?;
    ensure!(world.plugin("ADD", "web").await?.1, "a pod that is not in the mesh does not start");
    ensure!(rules_and_routes(&world, &pod).await? == before, "it has rules");
    for _ in 0..2 {
        world.object("web", Some("ambient"), false)?;
        world.until_state("web", "captured").await?;
        // While its namespace is not known, nothing is: it stays as it is.
        let known = std::fs::read(&namespace)?;
        std::fs::remove_file(&namespace)?;
        world.object("web", None, false)?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        ensure!(world.status("web").is_some(), "it was let go");
        world.object("web", Some("ambient"), false)?;
        std::fs::write(&namespace, known)?;
        ensure!(first_line(&pod, world.far()[1]).await?.starts_with("outbound by p"));
        world.object("web", None, false)?;
        world.until("web", "released", |status| status.is_none()).await?;
        world.until_first_line(&pod, "application sees").await?;
        ensure!(world.called_from_far(at(pod.ip(), PORT)).await?.first.starts_with("application sees"));
    }
    let after = rules_and_routes(&world, &pod).await?;
    ensure!(after == before, "{after} is left, not {before}");
    let heard = proxy.heard();
    ensure!(heard == ["snapshot", "add uid-web", "del uid-web", "add uid-web", "del uid-web"], "{heard:?}");
    world.bed.shutdown().await;
    Ok(())
}

/// What is written in a pod's namespace, without counters and comments.
async fn rules_and_routes(world: &World, pod: &Pod) -> anyhow::Result<String> {
    let mut all = String::new();
    let rules = world.rules(pod).await?;
    // Tables and built-in chains that were once used stay, empty.
    all.extend(rules.lines().filter(|line| line.contains("AMBIT") || line.contains("ambit") || line.starts_with("-A")));
    for family in ["-4", "-6"] {
        all += &world.run(pod, "ip", &[family, "rule", "show"]).await?;
        for table in ["100", "101"] {
            all += &world.run(pod, "ip", &[family, "route", "show", "table", table]).await.unwrap_or_default();
        }
    }
    all += &pod.netns().run(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/accept_local"))??;
    Ok(all)
}
