//! The sockets of `ambit_runtime` on real kernel rules.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use ambit_runtime::socket::{self, ListenOptions, PROXY_MARK};
use ambit_testbed::{Bed, BedConfig, Place, PodSpec};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use nlink::netlink::nftables::{BaseChain, Chain, Family, NatHook, Priority, Rule};
use nlink::netlink::{Connection, Nftables};
use tokio::io::AsyncReadExt;

use crate::test;

/// Where connections are redirected to.
const CAPTURED: u16 = 15001;

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_redirected_connection_tells_its_original_destination", original_destination),
        test("a_connection_that_was_not_redirected_has_no_original_destination", not_redirected),
        test("a_reset_is_seen_as_a_reset", reset),
        test("two_listeners_share_a_port_only_when_both_say_so", reuse_port),
    ]
}

/// Redirects what leaves the place for port 80, unless it has the proxy's mark.
async fn redirect(place: &Place) -> anyhow::Result<()> {
    let connection = Connection::<Nftables>::new_in(place.netns().as_fd())?;
    let mut transaction = connection.transaction();
    for family in [Family::Ip, Family::Ip6] {
        let chain = Chain::new("t", "output")?.family(family).base(BaseChain::nat(NatHook::Output, Priority::DstNat));
        let rule =
            Rule::new("t", "output").family(family).match_tcp_dport(80).match_mark_not(PROXY_MARK).redirect(Some(CAPTURED));
        transaction = transaction.add_table("t", family).add_chain(chain).add_rule(rule);
    }
    Ok(transaction.commit(&connection).await?)
}

async fn original_destination() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let pod = bed.add_node("node-1").await?.add_pod(PodSpec::new("shop", "web")).await?;
    redirect(&pod).await?;
    let any: SocketAddr = "[::]:15001".parse()?;
    let listener = pod.listen(any)?;
    for destination in ["10.96.3.4:80".parse::<SocketAddr>()?, "[fd96::34]:80".parse()?] {
        let (client, accepted) = tokio::join!(pod.connect(destination), listener.accept());
        let (client, (server, peer)) = (client?, accepted?);
        ensure!(client.peer_addr()? == destination);
        ensure!(socket::canonical(peer) == client.local_addr()?, "{peer}");
        let found = socket::original_destination(&server)?;
        ensure!(found == destination, "{found} instead of {destination}");
    }
    // The proxy's own connection passes.
    let server = pod.listen((pod.ip(), 80).into())?;
    let marked = socket::ConnectOptions { mark: Some(PROXY_MARK), ..Default::default() };
    pod.connect_with(server.local_addr()?, marked).await?;
    server.accept().await?;
    Ok(())
}

async fn not_redirected() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let pod = bed.add_node("node-1").await?.add_pod(PodSpec::new("shop", "web")).await?;
    for ip in [IpAddr::from([127, 0, 0, 1]), "::1".parse()?] {
        let listener = pod.listen((ip, 0).into())?;
        let _client = pod.connect(listener.local_addr()?).await?;
        let server = listener.accept().await?.0;
        ensure!(socket::original_destination(&server).is_err());
    }
    Ok(())
}

async fn reset() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let pod = bed.add_node("node-1").await?.add_pod(PodSpec::new("shop", "web")).await?;
    let listener = pod.listen((pod.ip(), 80).into())?;
    for by_reset in [true, false] {
        let mut client = pod.connect(listener.local_addr()?).await?;
        let server = listener.accept().await?.0;
        if by_reset {
            socket::reset(server)
        } else {
            drop(server)
        }
        let end = client.read(&mut [0; 8]).await;
        match end {
            Ok(0) => ensure!(!by_reset, "an orderly end instead of a reset"),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => ensure!(by_reset, "a reset instead of an end"),
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok(())
}

async fn reuse_port() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let pod = bed.add_node("node-1").await?.add_pod(PodSpec::new("shop", "web")).await?;
    let shared = ListenOptions { reuse_port: true, netns: Some(pod.netns()), ..Default::default() };
    let first = socket::listen("[::]:15008".parse()?, &shared)?;
    let second = socket::listen("[::]:15008".parse()?, &shared)?;
    ensure!(first.local_addr()? == second.local_addr()?);
    let alone = pod.listen("[::]:15008".parse()?).err().context("a listener took a shared port")?;
    ensure!(alone.kind() == std::io::ErrorKind::AddrInUse, "{alone}");
    Ok(())
}
