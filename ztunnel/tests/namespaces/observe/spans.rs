//! Spans of connections, as a collector gets them.

use std::{
    ffi::OsString,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ambit_testbed::Node;
use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use crate::mesh::{Mesh, PATIENCE, call_until_it_works, echo};

/// The proxy before comes first in the trace, and the log lines have the same one.
pub async fn come() -> anyhow::Result<()> {
    let mesh = Mesh::start_adding(|_, _| {
        ["--otlp-endpoint", "http://127.0.0.1:4318", "--trace-sample", "1"].map(OsString::from).to_vec()
    })
    .await?;
    let collectors = [Collector::start(&mesh.nodes[0].node)?, Collector::start(&mesh.nodes[1].node)?];
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    call_until_it_works(&client, SocketAddr::new(server.ip(), 8080), PATIENCE).await?;
    let line = mesh.logged(0, &["direction=outbound", "reason=ok ", "trace="]).await?;
    let trace = line.split(' ').find_map(|part| part.strip_prefix("trace=")).context("no trace")?;
    let outbound = collectors[0].span(trace).await?;
    let inbound = collectors[1].span(trace).await?;
    ensure!(outbound["name"] == "outbound api" && outbound["kind"] == 3 && outbound.get("parentSpanId").is_none(), "{outbound}");
    ensure!(inbound["name"] == "inbound api" && inbound["kind"] == 2, "{inbound}");
    ensure!(inbound["parentSpanId"] == outbound["spanId"], "{inbound} {outbound}");
    mesh.bed.shutdown().await;
    Ok(())
}

struct Collector {
    requests: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    fn start(node: &Node) -> anyhow::Result<Self> {
        let listener = node.listen(SocketAddr::from(([127, 0, 0, 1], 4318)))?;
        let requests: Arc<Mutex<Vec<Value>>> = Arc::default();
        let keep = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // One that breaks off shows as a span that never comes.
                if let Ok(request) = taken(&mut stream).await {
                    keep.lock().unwrap().push(request);
                }
            }
        });
        Ok(Self { requests, task })
    }

    /// Waits for the span of this trace.
    async fn span(&self, trace: &str) -> anyhow::Result<Value> {
        let until = Instant::now() + 2 * PATIENCE;
        loop {
            let requests = self.requests.lock().unwrap().clone();
            let spans = requests.iter().filter_map(|request| request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array());
            if let Some(span) = spans.flatten().find(|span| span["traceId"] == trace) {
                return Ok(span.clone());
            }
            ensure!(Instant::now() < until, "no span of {trace}: {requests:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The body of one request, which is answered.
async fn taken(stream: &mut TcpStream) -> anyhow::Result<Value> {
    let mut request = Vec::new();
    let body = loop {
        ensure!(stream.read_buf(&mut request).await? > 0, "it ended early");
        let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&request[..end])?.to_ascii_lowercase();
        let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?.parse()?;
        if let Some(body) = request.get(end + 4..end + 4 + length) {
            break serde_json::from_slice(body)?;
        }
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await?;
    Ok(body)
}
