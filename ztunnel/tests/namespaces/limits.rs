//! Many connections that do nothing, and what happens when a proxy has no file descriptor left.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ambit_testbed::Pod;
use anyhow::{Context, bail, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    mesh::{Mesh, PATIENCE, call_until_it_works, echo},
    observe::get,
    test,
};

/// Descriptors of a proxy that is to run out of them.
const DESCRIPTORS: usize = 200;
/// Idle connections, and those before them that bring what many share: code, tunnels, metrics.
const IDLE: usize = 5000;
const FIRST: usize = 300;
/// What one of them may add to the memory of a proxy, bytes: a little above twice what it needs.
const EACH: u64 = 5 << 10;
/// Clients that connect at once.
const AT_ONCE: usize = 20;

pub fn tests() -> Vec<Trial> {
    vec![
        test("without_a_descriptor_a_connection_is_refused_for_that_reason_and_all_others_go_on", descriptors),
        test("one_client_does_not_take_all_places_of_a_pod", one_client),
        test("thousands_of_idle_connections_cost_a_few_kilobytes_each", idle),
    ]
}

async fn descriptors() -> anyhow::Result<()> {
    let mut mesh = Mesh::start().await?;
    let server = mesh.pod(1, "api").await?;
    let _echo = echo(&server, 8080)?;
    let client = mesh.pod(0, "web").await?;
    let to = SocketAddr::new(server.ip(), 8080);
    for node in 0..2 {
        restart(&mut mesh, node, Some(DESCRIPTORS)).await?;
        call_until_it_works(&client, to, 2 * PATIENCE).await?;
        let (mut held, refused) = open(&client, to, DESCRIPTORS).await?;
        println!("node {node}: {} of {DESCRIPTORS} connections stand", held.len());
        ensure!(held.len() > DESCRIPTORS / 4 && refused > 0, "{} stand and {refused} are refused", held.len());
        mesh.logged(node, &["reason=descriptor_limit"]).await?;
        get(&mesh, node, 15020, "/metrics").await.context("its own pages")?;
        for stream in &mut held {
            exchange(stream).await.context("one that stands")?;
        }
        held.truncate(10);
        call_until_it_works(&client, to, PATIENCE).await.context("when others have gone")?;
        for stream in &mut held {
            exchange(stream).await.context("one that stands still")?;
        }
        ensure!(mesh.nodes[node].proxy.as_ref().is_some_and(|proxy| proxy.is_running()), "the proxy has ended");
        restart(&mut mesh, node, None).await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn one_client() -> anyhow::Result<()> {
    const MOST: usize = 20;
    let mesh = Mesh::start_adding(|_, _| vec!["--max-connections-per-source".into(), MOST.to_string().into()]).await?;
    let server = mesh.pod(1, "api").await?;
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    // One on the other node, whose tunnels count too, one on the same, and one that is not in the mesh.
    let clients = [mesh.pod(0, "web").await?, mesh.pod(1, "near").await?, mesh.outsider(0, "plain", false).await?];
    for (number, client) in clients.iter().enumerate() {
        call_until_it_works(client, to, 2 * PATIENCE).await?;
        let (mut held, refused) = open(client, to, MOST + 5).await?;
        println!("{}: {} connections stand, {refused} were refused", client.name(), held.len());
        ensure!(held.len() > MOST / 2 && held.len() <= MOST && refused >= 5, "{} stand", held.len());
        for stream in &mut held {
            exchange(stream).await.context("one that stands")?;
        }
        for other in clients.iter().skip(number + 1) {
            call_until_it_works(other, to, PATIENCE).await.context("another client")?;
        }
        drop(held);
        call_until_it_works(client, to, PATIENCE).await.context("when its others have gone")?;
    }
    mesh.logged(1, &["reason=connection_limit", "direction=inbound"]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

/// Starts the proxy of a node again, with so many descriptors.
async fn restart(mesh: &mut Mesh, node: usize, descriptors: Option<usize>) -> anyhow::Result<()> {
    if let Some(proxy) = mesh.nodes[node].proxy.take() {
        proxy.kill();
        proxy.wait().await;
    }
    mesh.descriptors = descriptors;
    mesh.start_proxy(node).await
}

/// Opens so many connections, one after the other, that stay; says how many were refused.
async fn open(pod: &Pod, to: SocketAddr, count: usize) -> anyhow::Result<(Vec<TcpStream>, usize)> {
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..count {
        let one = async {
            let mut stream = pod.connect(to).await?;
            // Who the server sees comes first.
            while stream.read_u8().await? != b'\n' {}
            std::io::Result::Ok(stream)
        };
        match tokio::time::timeout(2 * PATIENCE, one).await {
            Ok(Ok(stream)) => held.push(stream),
            Ok(Err(_)) => refused += 1,
            Err(_) => bail!("a connection was neither taken nor refused, after {} that were", held.len()),
        }
    }
    Ok((held, refused))
}

async fn exchange(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut answer = [0; 64];
    let exchange = async {
        stream.write_all(&[7; 64]).await?;
        stream.read_exact(&mut answer).await
    };
    tokio::time::timeout(2 * PATIENCE, exchange).await.context("no answer in time")??;
    ensure!(answer == [7; 64]);
    Ok(())
}

async fn idle() -> anyhow::Result<()> {
    // Client and server are this process, and each proxy needs as many as it does.
    let (count, may) = (IDLE, ambit_runtime::sys::raise_open_files()?);
    let needed = 2 * IDLE as u64 + 1000;
    ensure!(
        may >= needed,
        "{IDLE} connections need {needed} descriptors, and `ulimit -Hn` is {may}: raise it (`ulimit -n {needed}` as root)"
    );
    let mesh = Mesh::start().await?;
    let server = mesh.pod(1, "api").await?;
    let _echo = echo(&server, 8080)?;
    let client = mesh.pod(0, "web").await?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, 2 * PATIENCE).await?;
    let _first = open_all(&client, to, FIRST).await?;
    let before = [footprint(&mesh, 0)?, footprint(&mesh, 1)?];
    let mut held = open_all(&client, to, count).await?;
    let until = Instant::now() + 3 * PATIENCE;
    loop {
        let now = [footprint(&mesh, 0)?, footprint(&mesh, 1)?];
        let each = [0, 1].map(|node| now[node].bytes.saturating_sub(before[node].bytes) / count as u64);
        let descriptors = [0, 1].map(|node| (now[node].descriptors - before[node].descriptors) as f64 / count as f64);
        if each.iter().all(|each| *each <= EACH) {
            println!("{count} idle connections: {each:?} bytes and {descriptors:.3?} descriptors each in the two proxies");
            ensure!(descriptors.iter().all(|each| *each < 1.05), "{descriptors:?} descriptors for each connection");
            break;
        }
        ensure!(Instant::now() < until, "{count} idle connections take {each:?} bytes each, {EACH} are allowed; {now:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for stream in held.iter_mut().step_by(100) {
        exchange(stream).await.context("one that was idle")?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

/// Opens so many connections, several at once, that carry a request each and stay.
async fn open_all(pod: &Pod, to: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut clients = JoinSet::new();
    for client in 0..AT_ONCE {
        let pod = pod.clone();
        clients.spawn(async move {
            let share = (count + client) / AT_ONCE;
            let (mut held, refused) = open(&pod, to, share).await?;
            ensure!(refused == 0, "{refused} of {share} connections are refused");
            for stream in &mut held {
                exchange(stream).await?;
            }
            Ok(held)
        });
    }
    let mut all = Vec::with_capacity(count);
    while let Some(held) = clients.join_next().await {
        all.extend(held??);
    }
    Ok(all)
}

/// What a proxy holds.
#[derive(Debug, Clone, Copy)]
struct Footprint {
    /// Memory that is no file's.
    bytes: u64,
    descriptors: usize,
}

fn footprint(mesh: &Mesh, node: usize) -> anyhow::Result<Footprint> {
    let proxy = mesh.nodes[node].proxy.as_ref().context("no proxy")?;
    let proc = std::path::Path::new("/proc").join(proxy.pid().to_string());
    let rollup = std::fs::read_to_string(proc.join("smaps_rollup"))?;
    let anonymous = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).context("no line Anonymous")?;
    let kilobytes: u64 = anonymous.trim().trim_end_matches("kB").trim().parse()?;
    Ok(Footprint { bytes: kilobytes << 10, descriptors: std::fs::read_dir(proc.join("fd"))?.count() })
}
