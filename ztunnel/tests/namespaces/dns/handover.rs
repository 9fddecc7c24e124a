//! What pods see of DNS while a new proxy takes over from an old one.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use ambit_runtime::socket::{ConnectOptions, send_to};
use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use domain::base::Rtype;

use super::{
    PROXY, VIPS,
    client::{query, read},
    found, mesh,
};
use crate::mesh::PATIENCE;

/// Both proxies answer while there are two, and only what the mesh says: the new one does not forward what it does not know yet.
pub async fn takes_over(families: Families) -> anyhow::Result<()> {
    let (mut mesh, client, resolvers) = mesh(families).await?;
    let before = resolvers[0].askers("api").len() + resolvers[1].askers("api").len();
    let (ended, asked) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 2]);
    let exchange = async {
        // No answer of the old one alone.
        several(&asked).await?;
        let old = mesh.nodes[0].proxy.take().context("no proxy")?;
        mesh.start_proxy(0).await?;
        let mut proxies = mesh.nodes[0].agent.proxies();
        tokio::time::timeout(PATIENCE, proxies.wait_for(|count| *count > 1)).await??;
        several(&asked).await?;
        ensure!(old.stop(PATIENCE).await.success(), "the old proxy did not end well");
        several(&asked).await?;
        ended.store(true, Relaxed);
        anyhow::Ok(())
    };
    tokio::try_join!(exchange, asking(&client, PROXY[0], &ended, &asked[0]), asking(&client, PROXY[1], &ended, &asked[1]),)?;
    let after = resolvers[0].askers("api").len() + resolvers[1].askers("api").len();
    ensure!(after == before, "{} queries for a name of the mesh were forwarded", after - before);
    mesh.bed.shutdown().await;
    Ok(())
}

/// Waits until each has asked a few times more.
async fn several(asked: &[AtomicUsize; 2]) -> anyhow::Result<()> {
    let wanted = asked.each_ref().map(|count| count.load(Relaxed) + 20);
    let reached = async {
        while asked.iter().zip(wanted).any(|(count, wanted)| count.load(Relaxed) < wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, reached).await.context("nobody asks any more")
}

/// Asks one query after the other; each must be answered at the first time, by the mesh.
async fn asking(pod: &Pod, at: &str, ended: &AtomicBool, count: &AtomicUsize) -> anyhow::Result<()> {
    let (at, asked): (SocketAddr, _) = (at.parse()?, query("api.shop.", Rtype::A, 0)?);
    while !ended.load(Relaxed) {
        let nth = count.load(Relaxed);
        let answer = once(pod, at, &asked).await.with_context(|| format!("query {nth} to {at}"))?;
        ensure!(read(&answer)? == found(&VIPS[..1]), "query {nth} to {at}: {:?}", read(&answer));
        count.fetch_add(1, Relaxed);
    }
    Ok(())
}

async fn once(pod: &Pod, at: SocketAddr, query: &[u8]) -> anyhow::Result<Vec<u8>> {
    let socket = send_to(at, &ConnectOptions { netns: Some(pod.netns()), ..ConnectOptions::default() })?;
    let mut buffer = [0; 512];
    socket.send(query).await?;
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.context("it was lost")??;
    Ok(buffer[..length].to_vec())
}
