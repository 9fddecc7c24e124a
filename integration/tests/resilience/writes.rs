//! Requests that must not be made twice, while connections break at all stages of one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ambit_hbone::TunnelStream;
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::join_all;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Handler;
use crate::client::ID;
use crate::mesh::Mesh;
use crate::objects::WRITTEN;

/// The header of a request that says what becomes of it.
const STAGE: &str = "x-test-stage";
/// What may: the connection ends once the head was read, half of the body, all of it, once half of the answer's head was written, or half of
/// its body; the answer is a failure; it comes after the time for one try.
const STAGES: [&str; 7] = ["head", "half", "body", "answering", "answered", "failure", "late"];
/// Longer than what is read at once.
const BODY: usize = 200_000;
const AT_ONCE: usize = 4;

/// How often each request was begun, by its id.
#[derive(Default)]
pub struct Seen(Mutex<HashMap<String, u32>>);

impl Seen {
    /// A backend that does what requests ask it to.
    pub fn handler(seen: &Arc<Self>) -> Handler {
        let seen = Arc::clone(seen);
        Arc::new(move |tunnel: TunnelStream| {
            let seen = Arc::clone(&seen);
            async move { drop(serve(tunnel, &seen).await) }.boxed()
        })
    }

    fn note(&self, id: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default() += 1;
    }

    fn of(&self, id: &str) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied().unwrap_or_default()
    }
}

/// A connection of HTTP/1.1, byte by byte. Dropping the tunnel resets it.
async fn serve(mut tunnel: TunnelStream, seen: &Seen) -> anyhow::Result<()> {
    let mut unread = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(tunnel.read_buf(&mut unread).await? > 0, "the connection has ended");
        };
        let head: Vec<u8> = unread.drain(..end).collect();
        let head = String::from_utf8(head)?;
        let said = |name: &str| {
            let of = |line: &str| {
                line.split_once(':').filter(|(named, _)| named.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
            };
            head.lines().find_map(of).unwrap_or_default()
        };
        let (stage, length) = (said(STAGE), said("content-length").parse().unwrap_or(0_usize));
        seen.note(&said(ID));
        let read = match stage.as_str() {
            "head" => return Ok(()),
            "half" => length / 2,
            _ => length,
        };
        while unread.len() < read {
            ensure!(tunnel.read_buf(&mut unread).await? > 0, "the connection has ended");
        }
        unread.drain(..read);
        let written: &[u8] = match stage.as_str() {
            "half" | "body" => return Ok(()),
            "answering" => b"HTTP/1.1 200 OK\r\ncontent-le",
            "answered" => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ",
            "failure" => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        };
        if stage == "late" {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        tunnel.write_all(written).await?;
        tunnel.flush().await?;
        if ["answering", "answered"].contains(&stage.as_str()) {
            // What was written is to be read before the reset.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Ok(());
        }
    }
}

async fn send(mesh: &Mesh, method: &str, stage: &str, id: &str) -> anyhow::Result<u16> {
    let body = if method == "GET" { Bytes::new() } else { Bytes::from(vec![b'x'; BODY]) };
    let request = Request::builder().method(method).uri("/").header("host", "written").header(STAGE, stage).header(ID, id);
    let limit = Duration::from_secs(20);
    let sent = mesh.caller.once(WRITTEN, request.body(Full::new(body))?);
    tokio::time::timeout(limit, sent).await.with_context(|| format!("{id} is not answered"))?
}

/// At each stage several at once, first on new connections of the waypoint, then on those that it has at hand.
pub async fn once(mesh: &Mesh) -> anyhow::Result<()> {
    let (mut posted, mut all) = (0, 0);
    for stage in STAGES {
        // What is late takes its time, and as a connection does not break one kind of it is enough.
        for round in ["new", "at-hand"].into_iter().skip(usize::from(stage == "late")) {
            if round == "at-hand" {
                let ids: Vec<String> = (0..AT_ONCE).map(|at| format!("{stage}-before-{at}")).collect();
                let before = join_all(ids.iter().map(|id| send(mesh, "GET", "fine", id))).await;
                ensure!(before.iter().all(|status| matches!(status, Ok(200))), "what is to go well does not: {before:?}");
            }
            let ids: Vec<String> = (0..AT_ONCE).map(|at| format!("{stage}-{round}-{at}")).collect();
            let answers = join_all(ids.iter().map(|id| send(mesh, "POST", stage, id))).await;
            for (id, answer) in ids.iter().zip(answers) {
                let times = mesh.written.of(id);
                ensure!(times <= 1, "POST {id} came {times} times; it was answered {answer:?}");
                posted += times;
                all += 1;
            }
        }
    }
    // That there are retries at all.
    for stage in ["head", "failure"] {
        let (id, status) = (format!("{stage}-read"), send(mesh, "GET", stage, &format!("{stage}-read")).await?);
        let times = mesh.written.of(&id);
        ensure!(times >= 2 && status == 503, "GET {id} came {times} times, and was answered {status}");
    }
    ensure!(posted * 5 >= all * 4, "only {posted} of {all} POSTs came to the endpoint at all");
    println!("{posted} POSTs came once each, however their connections ended");
    Ok(())
}
