//! Requests on connections that stay open.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};

use super::{Load, Sample, tally::Tally, timer::Timer};
use crate::serve::{BODY, end_of_head};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: server\r\nuser-agent: ambit-perf\r\naccept: */*\r\n\r\n";

/// How long one answer may take before it counts as an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection and what it has read.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) async fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// The connection alone.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Sends one request and reads all of its answer.
    pub(super) async fn exchange(&mut self) -> std::io::Result<()> {
        self.stream.write_all(REQUEST).await?;
        self.buffer.clear();
        let mut expected = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if expected.is_none() {
                expected = end_of_head(&self.buffer).map(|head| head + BODY);
                if !self.buffer.starts_with(b"HTTP/1.1 200") {
                    return Err(std::io::Error::other("the answer is not 200"));
                }
            }
            if expected.is_some_and(|expected| self.buffer.len() >= expected) {
                return Ok(());
            }
        }
    }
}

/// Each connection sends its next request when it has the answer to the last.
pub(super) async fn closed_loop(load: &Load) -> anyhow::Result<Sample> {
    let tally = Tally::new(load)?;
    let tasks = LocalSet::new();
    for connection in 0..load.connections {
        let (tally, target) = (tally.clone(), load.target(connection));
        tasks.spawn_local(async move {
            let until = tally.borrow().until;
            let mut client = None;
            while Instant::now() < until {
                let started = Instant::now();
                match tokio::time::timeout(PATIENCE, one(&mut client, target)).await {
                    Ok(Ok(())) => tally.borrow_mut().record(started, Instant::now()),
                    _ => failed(&tally, &mut client).await,
                }
            }
        });
    }
    tasks.await;
    let tally = tally.borrow();
    tally.sample()
}

/// Request `n` of a connection is due at a fixed moment; a late answer delays the ones behind it and they count it.
pub(super) async fn open_loop(load: &Load, rate: u64) -> anyhow::Result<Sample> {
    let tally = Tally::new(load)?;
    let begin = Instant::now();
    let interval = Duration::from_secs_f64(load.connections as f64 / rate as f64);
    let tasks = LocalSet::new();
    for connection in 0..load.connections {
        let (tally, target) = (tally.clone(), load.target(connection));
        let timer = Timer::new()?;
        let first = begin + interval.mul_f64(connection as f64 / load.connections as f64);
        tasks.spawn_local(async move {
            let until = tally.borrow().until;
            let mut client = None;
            let mut due = first;
            while due < until {
                if timer.wait_until(due).await.is_err() {
                    break;
                }
                match tokio::time::timeout(PATIENCE, one(&mut client, target)).await {
                    Ok(Ok(())) => tally.borrow_mut().record(due, Instant::now()),
                    _ => failed(&tally, &mut client).await,
                }
                due += interval;
            }
        });
    }
    tasks.await;
    let tally = tally.borrow();
    tally.sample()
}

async fn one(client: &mut Option<Client>, target: SocketAddr) -> std::io::Result<()> {
    let open = match client.take() {
        Some(open) => open,
        None => Client::open(target).await?,
    };
    client.insert(open).exchange().await
}

async fn failed(tally: &Rc<RefCell<Tally>>, client: &mut Option<Client>) {
    tally.borrow_mut().failed();
    *client = None;
    tokio::time::sleep(Duration::from_millis(20)).await;
}
