//! What the capture rules do with DNS: a program that asks any resolver is answered by the proxy, and does not see that.

use std::{net::SocketAddr, time::Duration};

use ambit_runtime::socket::{ConnectOptions, send_to};
use ambit_testbed::Families;
use anyhow::{Context, ensure};
use domain::base::Rtype;

use super::{
    VIPS,
    client::{over_tcp, over_udp, query, read},
    found, is_from_a_resolver, mesh,
};
use crate::mesh::PATIENCE;

pub async fn redirected(families: Families) -> anyhow::Result<()> {
    let (mesh, client, resolvers) = mesh(families).await?;
    // Nobody is there, nor needs to be.
    for at in families.of(["198.51.100.53:53", "[2001:db8::53]:53"]) {
        let at: SocketAddr = at.parse()?;
        let (ours, other) = (query("api.shop.", Rtype::A, 0)?, query("www.example.com.", Rtype::A, 0)?);
        for answer in [over_udp(&client, at, &ours).await?, over_tcp(&client, at, &ours).await?] {
            ensure!(read(&answer)? == found(&VIPS[..1]), "at {at}: {:?}", read(&answer));
        }
        for answer in [over_udp(&client, at, &other).await?, over_tcp(&client, at, &other).await?] {
            ensure!(is_from_a_resolver(&answer)?, "at {at}: {:?}", read(&answer));
        }
    }
    // The proxy's own queries are not redirected to it, or they would never arrive.
    let askers: Vec<_> = resolvers.iter().flat_map(|resolver| resolver.askers("www")).collect();
    ensure!(askers.iter().all(|from| client.ips().contains(from)), "{askers:?}");
    mesh.bed.shutdown().await;
    Ok(())
}

/// UDP to other ports goes to where it is sent.
pub async fn other_udp(families: Families) -> anyhow::Result<()> {
    let (mesh, client, _resolvers) = mesh(families).await?;
    let server = mesh.outsider(1, "udp-server", false).await?;
    for ip in server.ips() {
        let at = SocketAddr::new(ip, 5353);
        let listening = ambit_runtime::socket::ListenOptions { netns: Some(server.netns()), ..Default::default() };
        let listening = ambit_runtime::socket::receive(at, &listening)?;
        let socket = send_to(at, &ConnectOptions { netns: Some(client.netns()), ..ConnectOptions::default() })?;
        let mut buffer = [0; 16];
        let received = async {
            loop {
                socket.send(b"hello").await?;
                if let Ok(received) = tokio::time::timeout(Duration::from_secs(1), listening.recv_from(&mut buffer)).await {
                    return anyhow::Ok(received?);
                }
            }
        };
        let (length, from) = tokio::time::timeout(PATIENCE, received).await.context("nothing arrived")??;
        ensure!(client.ips().contains(&from.ip().to_canonical()) && &buffer[..length] == b"hello", "from {from}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}
