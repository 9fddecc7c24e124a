//! The DNS of a pod: names of the mesh from the proxy, everything else from the resolvers of the node.

mod client;
mod handover;
mod redirect;
pub mod resolver;

use std::net::{IpAddr, SocketAddr};

use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use domain::base::{Message, Rtype, iana::Rcode};
use libtest_mimic::Trial;

use crate::{mesh::Mesh, observe::get, over};
use client::{PROXY, over_tcp, over_udp, query, read, until};
use resolver::Resolver;

pub fn tests(families: Families) -> Vec<Trial> {
    vec![
        over(families, "a_pod_resolves_names_of_the_mesh_over_udp_and_tcp_ipv4_and_ipv6", names),
        over(families, "names_of_the_mesh_resolve_while_the_control_plane_and_all_resolvers_are_away", away),
        over(families, "everything_else_is_forwarded_as_it_is_from_the_pods_own_address", forwarded),
        over(families, "a_resolver_that_fails_or_is_slow_or_lies_does_not_keep_the_answer_away", bad_resolvers),
        over(families, "what_does_not_fit_is_asked_again_over_tcp", truncation),
        over(families, "malformed_queries_and_a_flood_are_bounded_and_the_mesh_answers_on", flood),
        over(families, "queries_of_a_pod_to_any_resolver_are_answered_as_if_by_it", redirect::redirected),
        over(families, "no_query_is_lost_or_forwarded_while_a_new_proxy_takes_over", handover::takes_over),
        over(families, "udp_to_other_ports_is_left_alone", redirect::other_udp),
    ]
}

const VIPS: [&str; 2] = ["10.96.0.10", "fd96::10"];

/// A mesh with one service, a pod that asks, and two resolvers of the node.
async fn mesh(families: Families) -> anyhow::Result<(Mesh, Pod, [Resolver; 2])> {
    let mesh = Mesh::over(families).await?;
    let (client, _server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api-1").await?);
    let vips: Vec<IpAddr> = VIPS.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?;
    mesh.service("api", &vips, &["api-1"], |_| {});
    let (first, second) = (mesh.outsider(1, "resolver-1", false).await?, mesh.outsider(1, "resolver-2", false).await?);
    let resolvers =
        [Resolver::start(&first, [192, 0, 2, 1].into(), true)?, Resolver::start(&second, [192, 0, 2, 2].into(), false)?];
    let text = format!("search example.com\nnameserver {}\nnameserver {}\n", first.ip(), second.ips()[second.ips().len() - 1]);
    std::fs::write(mesh.bed.dir().join("resolv.conf"), text)?;
    until(&client, "api.", Rtype::A, &VIPS[..1]).await?;
    Ok((mesh, client, resolvers))
}

/// Where the proxy listens in a pod, over a family that the pod has.
fn proxy(pod: &Pod) -> SocketAddr {
    PROXY[usize::from(pod.ip().is_ipv6())].parse().unwrap()
}

async fn ask(pod: &Pod, name: &str, kind: Rtype) -> anyhow::Result<(Rcode, Vec<IpAddr>)> {
    read(&over_udp(pod, proxy(pod), &query(name, kind, 0)?).await?)
}

fn found(addresses: &[&str]) -> (Rcode, Vec<IpAddr>) {
    (Rcode::NOERROR, addresses.iter().map(|ip| ip.parse().unwrap()).collect())
}

/// Which of the two answers, when the machine is slow, is not said.
fn is_from_a_resolver(answer: &[u8]) -> anyhow::Result<bool> {
    let answer = read(answer)?;
    Ok(["192.0.2.1", "192.0.2.2"].iter().any(|address| answer == found(&[address])))
}

async fn names(families: Families) -> anyhow::Result<()> {
    let (mesh, client, resolvers) = mesh(families).await?;
    let before = resolvers[0].count() + resolvers[1].count();
    for at in PROXY {
        let at: SocketAddr = at.parse()?;
        for name in
            ["api.", "API.shop.", "api.shop.svc.", "api.shop.svc.cluster.local.", "api.shop.svc.cluster.local.svc.cluster.local."]
        {
            for (kind, vip) in [(Rtype::A, VIPS[0]), (Rtype::AAAA, VIPS[1])] {
                let query = query(name, kind, 1232)?;
                for answer in [over_udp(&client, at, &query).await?, over_tcp(&client, at, &query).await?] {
                    ensure!(read(&answer)? == found(&[vip]), "{name} {kind} at {at}: {:?}", read(&answer));
                    ensure!(Message::from_octets(&answer[..])?.opt().is_some(), "no EDNS");
                }
            }
        }
    }
    mesh.service("v4", &["10.96.0.11".parse()?], &["api-1"], |service| service.ip_families = 1);
    until(&client, "v4.", Rtype::A, &["10.96.0.11"]).await?;
    ensure!(ask(&client, "v4.", Rtype::AAAA).await? == found(&[]));
    mesh.service("headless", &[], &["api-1"], |_| {});
    let api = mesh.nodes[1].node.pods().iter().find(|pod| pod.name() == "api-1").map(|pod| pod.ips());
    let api = api.context("no pod")?;
    for kind in [Rtype::A, Rtype::AAAA] {
        let of_kind = api.iter().filter(|ip| ip.is_ipv4() == (kind == Rtype::A)).map(ToString::to_string).collect::<Vec<_>>();
        let expected: Vec<_> = of_kind.iter().map(String::as_str).collect();
        until(&client, "headless.shop.svc.cluster.local.", kind, &expected).await?;
    }
    mesh.change("api-1", |workload| workload.status = 1);
    until(&client, "headless.shop.svc.cluster.local.", Rtype::AAAA, &[]).await?;
    let asked = resolvers[0].count() + resolvers[1].count();
    // Only the names that the proxy had not been told of yet were forwarded.
    ensure!(resolvers[0].askers("api").len() + resolvers[1].askers("api").len() <= before, "{asked} queries left the mesh");
    let text = get(&mesh, 0, 15020, "/metrics").await?;
    let line = |parts: &[&str]| text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    for protocol in ["udp", "tcp"] {
        let protocol = format!("request_protocol=\"{protocol}\"");
        ensure!(line(&["istio_dns_requests_total{", &protocol, "request_query_type=\"AAAA\"", "outcome=\"answered\""]), "{text}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn away(families: Families) -> anyhow::Result<()> {
    let (mut mesh, client, resolvers) = mesh(families).await?;
    drop(resolvers);
    mesh.stop_control_plane().await;
    for _ in 0..20 {
        ensure!(ask(&client, "api.shop.", Rtype::A).await? == found(&VIPS[..1]));
    }
    ensure!(ask(&client, "www.example.com.", Rtype::A).await?.0 == Rcode::SERVFAIL);
    mesh.bed.shutdown().await;
    Ok(())
}

async fn forwarded(families: Families) -> anyhow::Result<()> {
    let (mesh, client, resolvers) = mesh(families).await?;
    for tcp in [false, true] {
        for kind in [Rtype::A, Rtype::SRV, Rtype::PTR, Rtype::TXT, Rtype::HTTPS] {
            let name = if kind == Rtype::A { "www.example.com." } else { "api.shop.svc.cluster.local." };
            let asked = query(name, kind, 1400)?;
            let before = resolvers.each_ref().map(Resolver::count);
            let answer = if tcp {
                over_tcp(&client, proxy(&client), &asked).await?
            } else {
                over_udp(&client, proxy(&client), &asked).await?
            };
            ensure!(is_from_a_resolver(&answer)?, "{kind}: {answer:?}");
            let unchanged = |(resolver, before): (&Resolver, usize)| resolver.asker_since(before, tcp, &asked);
            let from = resolvers.iter().zip(before).find_map(unchanged);
            ensure!(from.is_some_and(|ip| client.ips().contains(&ip)), "{name} {kind} was asked from {from:?}, or changed");
        }
    }
    ensure!(ask(&client, "nobody.example.com.", Rtype::A).await? == (Rcode::NXDOMAIN, Vec::new()));
    let mut numbers: Vec<[u8; 2]> = Vec::new();
    for _ in 0..8 {
        ask(&client, "numbers.example.com.", Rtype::A).await?;
    }
    for resolver in &resolvers {
        numbers.extend(
            resolver.asked.lock().unwrap().iter().filter(|asked| !asked.tcp).map(|asked| [asked.bytes[0], asked.bytes[1]]),
        );
    }
    numbers.sort_unstable();
    numbers.dedup();
    // Of more than a dozen random numbers, that as few as three differ does not happen.
    ensure!(numbers.len() > 3, "the numbers of queries can be guessed: {numbers:?}");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn bad_resolvers(families: Families) -> anyhow::Result<()> {
    let (mesh, client, resolvers) = mesh(families).await?;
    let forged = over_udp(&client, proxy(&client), &query("forged.example.com.", Rtype::A, 0)?).await?;
    ensure!(is_from_a_resolver(&forged)?, "{forged:?}");
    ensure!(ask(&client, "slow.example.com.", Rtype::A).await?.0 == Rcode::NOERROR);
    ensure!(ask(&client, "failing.example.com.", Rtype::A).await? == (Rcode::SERVFAIL, Vec::new()));
    let answer = ask(&client, "twice.example.com.", Rtype::A).await?;
    ensure!(answer == found(&["192.0.2.2"]), "{answer:?}");
    ensure!(ask(&client, "silent.example.com.", Rtype::A).await?.0 == Rcode::SERVFAIL);
    ensure!(!resolvers[0].askers("silent").is_empty() && !resolvers[1].askers("silent").is_empty());
    let text = get(&mesh, 0, 15020, "/metrics").await?;
    let failed = |line: &str| line.starts_with("istio_dns_upstream_failures_total{") && line.contains("\"timeout\"");
    ensure!(text.lines().any(failed), "that nobody answered is not counted: {text}");
    ensure!(ask(&client, "api.", Rtype::A).await? == found(&VIPS[..1]));
    mesh.bed.shutdown().await;
    Ok(())
}

async fn truncation(families: Families) -> anyhow::Result<()> {
    let (mesh, client, _resolvers) = mesh(families).await?;
    for name in ["big.example.com.", "rude.example.com."] {
        let asked = query(name, Rtype::A, 0)?;
        let cut = over_udp(&client, proxy(&client), &asked).await?;
        ensure!(cut.len() <= 512 && Message::from_octets(&cut[..])?.header().tc(), "{name}: {} bytes", cut.len());
        let whole = over_tcp(&client, proxy(&client), &asked).await?;
        ensure!(read(&whole)?.0 == Rcode::NOERROR && !read(&whole)?.1.is_empty(), "{name}: {whole:?}");
    }
    let many: Vec<IpAddr> = (1..=200).map(|last| IpAddr::from([10, 97, 0, last])).collect();
    mesh.service("many", &many, &["api-1"], |_| {});
    let asked = query("many.", Rtype::A, 0)?;
    let begun = std::time::Instant::now();
    loop {
        let cut = over_udp(&client, proxy(&client), &asked).await?;
        ensure!(cut.len() <= 512, "{} bytes", cut.len());
        if Message::from_octets(&cut[..])?.header().tc() {
            break;
        }
        ensure!(begun.elapsed() < 2 * crate::mesh::PATIENCE, "the service is not known");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    ensure!(read(&over_tcp(&client, proxy(&client), &asked).await?)?.1 == many);
    let large = over_udp(&client, proxy(&client), &query("many.", Rtype::A, 4096)?).await?;
    ensure!(read(&large)?.1 == many);
    mesh.bed.shutdown().await;
    Ok(())
}

async fn flood(families: Families) -> anyhow::Result<()> {
    let (mesh, client, _resolvers) = mesh(families).await?;
    let asked = query("api.", Rtype::A, 0)?;
    let options = ambit_runtime::socket::ConnectOptions { netns: Some(client.netns()), ..Default::default() };
    let socket = ambit_runtime::socket::send_to(proxy(&client), &options)?;
    for length in 0..asked.len() {
        socket.send(&asked[..length]).await?;
    }
    let malformed = read(&over_udp(&client, proxy(&client), &asked[..asked.len() - 1]).await?)?;
    ensure!(malformed.0 == Rcode::FORMERR, "{malformed:?}");
    let silent = query("silent.example.com.", Rtype::A, 0)?;
    for _ in 0..1000 {
        socket.send(&silent).await?;
    }
    // Those beyond the limit are answered at once, while the others wait for a resolver that says nothing.
    let mut buffer = [0; 512];
    let limited = async {
        loop {
            let length = socket.recv(&mut buffer).await?;
            if read(&buffer[..length])?.0 == Rcode::SERVFAIL {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(crate::mesh::PATIENCE, limited).await??;
    ensure!(ask(&client, "api.", Rtype::A).await? == found(&VIPS[..1]));
    let text = get(&mesh, 0, 15020, "/metrics").await?;
    for outcome in ["limited", "malformed"] {
        let outcome = format!("outcome=\"{outcome}\"");
        ensure!(text.lines().any(|line| line.starts_with("istio_dns_requests_total{") && line.contains(&outcome)), "{text}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}
