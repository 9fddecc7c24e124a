//! A program in a pod that asks for names, without a resolver library between.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ambit_runtime::socket::{ConnectOptions, send_to};
use ambit_testbed::Pod;
use anyhow::{Context, bail, ensure};
use domain::{
    base::{Message, MessageBuilder, Name, Rtype, iana::Rcode},
    rdata::{A, Aaaa},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::mesh::PATIENCE;

/// Where the proxy listens in each pod.
pub const PROXY: [&str; 2] = ["127.0.0.1:15053", "[::1]:15053"];

/// A query, with EDNS of this size when that is not 0.
pub fn query(name: &str, kind: Rtype, edns: u16) -> anyhow::Result<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x4711);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((Name::<Vec<u8>>::from_chars(name.chars())?, kind))?;
    let mut additional = question.additional();
    if edns > 0 {
        additional.opt(|opt| {
            opt.set_udp_payload_size(edns);
            Ok(())
        })?;
    }
    Ok(additional.finish())
}

/// Sends `query` to `at` in the pod, and again as a resolver library does, until there is an answer.
pub async fn over_udp(pod: &Pod, at: SocketAddr, query: &[u8]) -> anyhow::Result<Vec<u8>> {
    let socket = send_to(at, &ConnectOptions { netns: Some(pod.netns()), ..ConnectOptions::default() })?;
    let (until, mut buffer) = (Instant::now() + 2 * PATIENCE, vec![0; 65_535]);
    while Instant::now() < until {
        socket.send(query).await?;
        if let Ok(received) = tokio::time::timeout(Duration::from_secs(6), socket.recv(&mut buffer)).await {
            let answer = buffer[..received?].to_vec();
            ensure!(answer.len() >= 12 && answer[..2] == query[..2], "not the number of the query: {answer:?}");
            return Ok(answer);
        }
    }
    bail!("no answer from {at}")
}

/// Asks over TCP.
pub async fn over_tcp(pod: &Pod, at: SocketAddr, query: &[u8]) -> anyhow::Result<Vec<u8>> {
    let asking = async {
        let mut stream = pod.connect(at).await?;
        stream.write_all(&[&u16::try_from(query.len())?.to_be_bytes(), query].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(2 * PATIENCE, asking).await.context("no answer over TCP in time")?
}

/// The code and the addresses of an answer, in the order of their value.
pub fn read(answer: &[u8]) -> anyhow::Result<(Rcode, Vec<IpAddr>)> {
    let message = Message::from_octets(answer)?;
    let mut found = Vec::new();
    for record in message.answer()?.limit_to_in::<A>() {
        found.push(IpAddr::V4(record?.data().addr()));
    }
    for record in message.answer()?.limit_to_in::<Aaaa>() {
        found.push(IpAddr::V6(record?.data().addr()));
    }
    found.sort_unstable();
    Ok((message.header().rcode(), found))
}

/// Asks until the addresses are these: a change takes a moment to reach the proxy.
pub async fn until(pod: &Pod, name: &str, kind: Rtype, expected: &[&str]) -> anyhow::Result<()> {
    let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?;
    let (until, query) = (Instant::now() + 2 * PATIENCE, query(name, kind, 0)?);
    loop {
        let answer = read(&over_udp(pod, super::proxy(pod), &query).await?)?;
        if answer == (Rcode::NOERROR, expected.clone()) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{name} is {answer:?} and not {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
