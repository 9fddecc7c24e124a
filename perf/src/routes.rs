//! Many routes: what they take of a waypoint's memory and of each request, and how soon a changed one holds.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ambit_testbed::Pod;
use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    bench::{Bench, Shape},
    figure::{ROUTE_CHANGE_ERRORS, ROUTE_CHANGE_P50, ROUTE_CHANGE_P99, ROUTES_CPU, ROUTES_MEMORY},
    manifests::SERVICE_PORT,
    paths::Path,
    process,
    serve::{BODY, end_of_head},
    session::{Session, progress},
};

/// Routes that memory is looked at with.
pub const MANY: usize = 5000;
/// Routes beside the one that changes.
const SOME: usize = 3000;
/// How long it changes again and again.
const CHANGING_FOR: Duration = Duration::from_secs(30);
/// Rules of an HTTPRoute (the Gateway API has no more).
const RULES: usize = 16;

const FILE: &str = "routes.yaml";
const CHANGING: &str = "changing.yaml";

/// The header that an answer bears which tells the route it took.
const HEADER: &str = "x-route";
/// How long routes may take to hold.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a load lasts before the first change and after the last.
const MARGIN: Duration = Duration::from_millis(500);
/// How long memory is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(12);
/// Between two changes, so that each is measured alone.
const BETWEEN: Duration = Duration::from_millis(100);

/// Measures the paths that have a waypoint.
///
/// # Errors
/// When a load fails, or routes do not hold after a while.
pub async fn measure(session: &mut Session) -> anyhow::Result<()> {
    let paths: Vec<Path> = session.paths.iter().copied().filter(|path| path.has_waypoint()).collect();
    let bench = &mut session.bench;
    let asked = Shape::new("requests", 16, bench.seconds);
    let mut without = Vec::new();
    for path in &paths {
        without.push(bench.quiet(*path, &asked).await?.cpu_each());
    }
    progress(&format!("{MANY} routes"));
    hold(bench, &paths, MANY).await?;
    tokio::time::sleep(SETTLE).await;
    for (path, without) in paths.iter().zip(without) {
        bench.results.set(path.name(), ROUTES_MEMORY, 0, waypoint_memory(bench, *path));
        let with = bench.quiet(*path, &asked).await?.cpu_each();
        bench.results.set(path.name(), ROUTES_CPU, 0, with / without);
    }
    progress(&format!("a route that changes beside {SOME} others, under load"));
    hold(bench, &paths, SOME).await?;
    for path in &paths {
        changes(bench, *path).await?;
    }
    for file in [FILE, CHANGING] {
        bench.rig.mesh().remove_manifest(file)?;
    }
    Ok(())
}

/// Has so many routes hold, and waits for the last.
async fn hold(bench: &Bench, paths: &[Path], count: usize) -> anyhow::Result<()> {
    let revision = format!("of-{count}");
    let all: String = paths.iter().map(|path| routes(path.name(), count, &revision)).collect();
    let changing: String = paths.iter().map(|path| route(path.name(), "changing", &[rule("/changing", &revision)])).collect();
    bench.rig.mesh().write_manifest(CHANGING, &changing)?;
    bench.rig.mesh().write_manifest(FILE, &all)?;
    for path in paths {
        let mut client = Client::of(bench, *path).await?;
        client.becomes(&format!("/r/{}/", count - 1), &revision).await?;
    }
    Ok(())
}

/// Times a route's changes, one after the other, from the file that is written to the first answer that differs, while others ask.
async fn changes(bench: &mut Bench, path: Path) -> anyhow::Result<()> {
    let mut client = Client::of(bench, path).await?;
    let mut times = Histogram::<u64>::new(3)?;
    let shape = Shape::new("paced", 16, (CHANGING_FOR + 2 * MARGIN).as_secs_f64());
    let load = bench.start(path, "client", &shape)?;
    tokio::time::sleep(MARGIN).await;
    let first = Instant::now();
    for number in 0.. {
        if first.elapsed() >= CHANGING_FOR {
            bench.results.notes.push(format!("{}: a route changed {number} times", path.name()));
            break;
        }
        let revision = format!("change-{number}");
        let began = Instant::now();
        bench.rig.mesh().write_manifest(CHANGING, &route(path.name(), "changing", &[rule("/changing", &revision)]))?;
        client.becomes("/changing", &revision).await?;
        times.record(u64::try_from(began.elapsed().as_micros())?)?;
        tokio::time::sleep(BETWEEN).await;
    }
    let sample = bench.finish(load, &shape).await?;
    let name = path.name();
    bench.results.set(name, ROUTE_CHANGE_P50, 0, times.value_at_quantile(0.5) as f64 / 1000.0);
    bench.results.set(name, ROUTE_CHANGE_P99, 0, times.value_at_quantile(0.99) as f64 / 1000.0);
    bench.results.set(name, ROUTE_CHANGE_ERRORS, 0, sample.errors as f64);
    Ok(())
}

/// Of the waypoint by itself, in MB.
fn waypoint_memory(bench: &Bench, path: Path) -> f64 {
    let proxies = bench.rig.proxies(path).into_iter().filter(|proxy| proxy.name.starts_with("waypoint/"));
    proxies.map(|proxy| process::memory(proxy.pid).pss).sum()
}

/// So many routes to the server and one for all other requests.
#[must_use]
pub fn routes(namespace: &str, count: usize, revision: &str) -> String {
    let numbers: Vec<usize> = (0..count).collect();
    let mut out = route(namespace, "all", &["    - backendRefs: [{name: server, port: 80}]\n".to_owned()]);
    for (at, part) in numbers.chunks(RULES).enumerate() {
        let rules: Vec<String> = part.iter().map(|number| rule(&format!("/r/{number}/"), revision)).collect();
        out.push_str(&route(namespace, &format!("r-{at}"), &rules));
    }
    out
}

fn route(namespace: &str, name: &str, rules: &[String]) -> String {
    let mut out = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: server, port: {SERVICE_PORT}}}]
  rules:
"
    );
    rules.iter().for_each(|rule| out.push_str(rule));
    out.push_str("---\n");
    out
}

fn rule(path: &str, revision: &str) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
      filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: {HEADER}, value: {revision}}}]}}}}]
      backendRefs: [{{name: server, port: {SERVICE_PORT}}}]
"
    );
    out
}

/// A connection of its own, to see which route an answer took.
struct Client {
    pod: Pod,
    to: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    async fn of(bench: &Bench, path: Path) -> anyhow::Result<Self> {
        let to = bench.rig.targets(path)?.first().copied().context("the server has no address")?;
        Ok(Self { pod: bench.rig.pod(path, "client")?, to, stream: None })
    }

    /// Asks until the answer bears `revision`.
    async fn becomes(&mut self, path: &str, revision: &str) -> anyhow::Result<()> {
        let wanted = format!("{HEADER}: {revision}\r\n");
        let began = Instant::now();
        loop {
            let head = timeout(PATIENCE, self.ask(path)).await.context("a request is not answered")?;
            match head {
                Ok(head) if head.contains(&wanted) => return Ok(()),
                Ok(_) => {}
                Err(_) => self.stream = None,
            }
            if began.elapsed() > PATIENCE {
                bail!("{path} is not answered by the route {revision} after {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The head of one answer.
    async fn ask(&mut self, path: &str) -> std::io::Result<String> {
        let mut stream = match self.stream.take() {
            Some(open) => open,
            None => self.pod.connect(self.to).await?,
        };
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: server\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        let head = loop {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(head) = end_of_head(&answer) {
                break head;
            }
        };
        let text = String::from_utf8_lossy(answer.get(..head).unwrap_or_default()).into_owned();
        // Anything but the server's answer ends the connection for us: its length is not that of a body.
        if text.starts_with("HTTP/1.1 200") {
            while answer.len() < head + BODY {
                if stream.read_buf(&mut answer).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            self.stream = Some(stream);
        }
        Ok(text)
    }
}
