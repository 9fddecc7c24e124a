//! What leaves a pod whose rules somebody flushed: nothing in clear. Routing holds it back until the rules are written again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ambit_node_agent::rules::table::{PROBE_V4, PROBE_V6};
use ambit_testbed::Pod;
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    talk::{PORT, Talk, at, first_line},
    test,
    world::{Filter, PATIENCE, SOON, World},
};

const MARKER: &[u8] = b"nobody but the proxy may read this\n";
/// How long nothing writes the rules again.
const GAP: Duration = Duration::from_millis(300);
/// As long as somebody waits who has much to say: some begin in every gap.
const SHORT: Duration = Duration::from_millis(200);
/// As long as it takes to see that nothing answers.
const SILENCE: Duration = Duration::from_millis(1500);

pub fn tests(filter: Filter) -> Vec<Trial> {
    let name = filter.name().replace('-', "_");
    let named = |what: &str| format!("{name}_{what}");
    vec![
        test(&named("nothing_of_steady_connections_leaves_in_clear_while_rules_are_flushed"), move || steady(filter)),
        test(&named("without_rules_routing_holds_connections_back_and_lets_probes_pass"), move || alone(filter)),
    ]
}

/// What became of an attempt to say something to a server that is not in the mesh.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Captured,
    Failed,
    InClear,
}

/// Says something on a new connection at once.
async fn say(connect: impl Future<Output = std::io::Result<TcpStream>>, patience: Duration) -> Outcome {
    let said = async {
        let mut stream = BufReader::new(connect.await?);
        stream.write_all(MARKER).await?;
        let mut first = String::new();
        stream.read_line(&mut first).await?;
        std::io::Result::Ok(first)
    };
    match tokio::time::timeout(patience, said).await {
        Ok(Ok(first)) if first.starts_with("outbound by") => Outcome::Captured,
        Ok(Ok(first)) if first.starts_with("application sees") => Outcome::InClear,
        _ => Outcome::Failed,
    }
}

async fn steady(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let pod = Arc::new(world.pod("web").await?);
    world.until_state("web", "captured").await?;
    let agent = world.agent.clone().context("an agent")?;
    let wire = world.bed.capture([MARKER])?;
    let (mut clients, counts) = (JoinSet::new(), Arc::new(Mutex::new(BTreeMap::new())));
    for to in [world.far(); 4].into_iter().flatten() {
        let (pod, counts) = (Arc::clone(&pod), Arc::clone(&counts));
        clients.spawn(async move {
            loop {
                let outcome = say(pod.connect(to), SHORT).await;
                *counts.lock().unwrap().entry(outcome).or_insert(0_u32) += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    let captured = || counts.lock().unwrap().get(&Outcome::Captured).copied().unwrap_or_default();
    for repairs in 1..=3_u64 {
        let (before, until) = (captured(), Instant::now() + PATIENCE);
        while captured() == before {
            ensure!(Instant::now() < until, "nobody is served: {}", world.log());
            tokio::time::sleep(SOON).await;
        }
        agent.signal(Signal::SIGSTOP);
        world.flush(&pod).await?;
        tokio::time::sleep(GAP).await;
        agent.signal(Signal::SIGCONT);
        world.until("web", "repaired", |status| status.is_some_and(|status| status["repairs"].as_u64() >= Some(repairs))).await?;
    }
    clients.shutdown().await;
    println!("{}: {:?}", filter.name(), counts.lock().unwrap());
    ensure!(!counts.lock().unwrap().contains_key(&Outcome::InClear), "it goes in clear");
    let report = wire.report();
    ensure!(report.dropped == 0 && !report.marker_seen(), "in clear on the wire: {report:?}");
    for to in world.far() {
        ensure!(first_line(&pod, to).await?.starts_with("outbound by p"));
    }
    world.bed.shutdown().await;
    Ok(())
}

async fn alone(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    world.until_state("web", "captured").await?;
    until_probed(&world, &pod).await?;
    let mut open = Vec::new();
    for to in world.far() {
        open.push(Talk::open(&pod, to).await?);
    }
    for ip in pod.ips() {
        let mut talk = world.called_from_far(at(ip, PORT)).await?;
        ensure!(talk.line().await?.starts_with("application sees"));
        open.push(talk);
    }
    let agent = world.agent.clone().context("an agent")?;
    agent.signal(Signal::SIGSTOP);
    world.flush(&pod).await?;
    let wire = world.bed.capture([MARKER])?;
    for to in world.far() {
        for way in ["any device", "eth0"] {
            let outcome =
                if way == "eth0" { say(by_device(&pod, to), SILENCE).await } else { say(pod.connect(to), SILENCE).await };
            ensure!(outcome == Outcome::Failed, "to {to} by {way}: {outcome:?}");
        }
    }
    for ip in pod.ips() {
        let heard = tokio::time::timeout(SILENCE, world.called_from_far(at(ip, PORT))).await;
        ensure!(!matches!(heard, Ok(Ok(_))), "it is reached in clear at {ip}");
        ensure!(world.called_from_far(at(ip, 15008)).await?.first == "tunnel by p", "tunnels are cut");
        ensure!(first_line(&pod, at(ip, PORT)).await? == format!("application sees {ip}"), "the pod to itself");
    }
    until_probed(&world, &pod).await?;
    // Said now, heard when the rules are there again.
    let mut echoes = JoinSet::new();
    for mut talk in open {
        echoes.spawn(async move { talk.echo(b"nobody has seen to it yet").await });
    }
    tokio::time::sleep(GAP).await;
    agent.signal(Signal::SIGCONT);
    world.until_state("web", "repaired").await?;
    while let Some(echo) = echoes.join_next().await {
        echo?.context("a connection from before")?;
    }
    let report = wire.report();
    ensure!(report.dropped == 0 && !report.marker_seen(), "in clear on the wire: {report:?}");
    for to in world.far() {
        ensure!(first_line(&pod, to).await?.starts_with("outbound by p"));
    }
    world.bed.shutdown().await;
    Ok(())
}

/// Connects as a program that asks for a device.
async fn by_device(pod: &Pod, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = pod.netns().run(|| {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind_device(Some(b"eth0"))?;
        std::io::Result::Ok(socket)
    })??;
    socket.connect(to).await
}

/// Waits until the node's probes of a pod pass.
async fn until_probed(world: &World, pod: &Pod) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    for ip in pod.ips() {
        let probe = if ip.is_ipv4() { PROBE_V4.into() } else { IpAddr::from(PROBE_V6) };
        let wanted = format!("application sees {probe}");
        loop {
            let first = first_line(&world.node, at(ip, PORT)).await;
            if first.as_ref().is_ok_and(|first| *first == wanted) {
                break;
            }
            ensure!(Instant::now() < until, "a probe at {ip} does not pass: {first:?}");
        }
    }
    Ok(())
}
