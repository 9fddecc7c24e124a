//! A service that is asked for more than it can do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use crate::backend::{self, Handler};
use crate::client::Channel;
use crate::mesh::Mesh;
use crate::objects::BUSY;

/// What the backend works on at once, and how long each takes; what it cannot work on yet waits for its turn.
const PLACES: usize = 30;
const WORK: Duration = Duration::from_millis(300);
/// How many times as much is asked for as it can do.
const TIMES: f64 = 10.0;
/// So much of it has to have been asked for in truth, or else another time.
const ENOUGH: f64 = 0.9;
const AGAIN: usize = 3;
const SETTLING: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(4);

/// The backend.
pub struct Busy;

impl Busy {
    pub fn handler() -> Handler {
        let places = Arc::new(Semaphore::new(PLACES));
        backend::http(move |request| {
            let places = Arc::clone(&places);
            async move {
                if request.uri().path() == "/healthz" {
                    return 200;
                }
                let Ok(_place) = places.acquire().await else { return 500 };
                tokio::time::sleep(WORK).await;
                200
            }
        })
    }
}

/// One request.
struct Asked {
    began: Instant,
    took: Duration,
    status: u16,
    /// Why the waypoint has refused it.
    reason: Option<String>,
}

async fn ask(mesh: &Mesh, channel: &Channel, path: &str) -> anyhow::Result<Asked> {
    let began = Instant::now();
    let (status, headers) = channel.get(&mesh.caller, path, "").await?;
    let reason = headers.get("x-ambit-reason").and_then(|reason| reason.to_str().ok()).map(ToOwned::to_owned);
    Ok(Asked { began, took: began.elapsed(), status, reason })
}

/// The time in which 99 of a hundred have ended.
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// How long requests take when there are few.
async fn one_by_one(mesh: &Mesh, channel: &Channel, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let asked = ask(mesh, channel, "/").await?;
        ensure!(asked.status == 200, "a request is answered {} when there are few: {:?}", asked.status, asked.reason);
        times.push(asked.took);
    }
    Ok(times)
}

/// What came of a flood.
struct Flood {
    /// As parts of what the backend can do.
    offered: f64,
    goodput: f64,
    /// Of those that were let in.
    longest: Duration,
}

/// It does at least four fifths of what it can, and what it takes on in less than twice the time; its health is told as ever.
pub async fn ten_times(mesh: &Mesh) -> anyhow::Result<()> {
    let channel = Channel::new(BUSY);
    // Fewer than are let in at first, and enough to know how long they take.
    let quiet = join_all((0..4).map(|_| one_by_one(mesh, &channel, 14))).await;
    let quiet = quiet.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let normal = p99(quiet.concat());
    for _ in 0..AGAIN {
        let Flood { offered, goodput, longest } = overloaded(mesh, &channel).await?;
        let ratio = longest.as_secs_f64() / normal.as_secs_f64();
        println!(
            "asked for {offered:.1} times as much as it can do, it did {:.0} % of that; p99 of those admitted was {longest:.0?}, {ratio:.2} times \
             the normal {normal:.0?}",
            goodput * 100.0
        );
        // What was not asked for shows nothing.
        if offered >= TIMES * ENOUGH {
            ensure!(goodput >= 0.8, "only {:.0} % of what it can do was done", goodput * 100.0);
            ensure!(ratio < 2.0, "p99 of those admitted is {ratio:.2} times the normal one");
            return Ok(());
        }
    }
    anyhow::bail!("this machine is too slow to ask for {TIMES} times as much as the service can do")
}

/// Asks for ten times as much as it can do, and for its health meanwhile.
async fn overloaded(mesh: &Mesh, channel: &Channel) -> anyhow::Result<Flood> {
    let capacity = PLACES as f64 / WORK.as_secs_f64();
    let began = Instant::now();
    let (asked, healthy) = tokio::join!(flood(mesh, channel, capacity * TIMES), health(mesh, channel));
    let (asked, healthy) = (asked?, healthy?);
    let is_measured = |at: Instant| at >= began + SETTLING && at < began + SETTLING + MEASURED;
    let a_second = |count: usize| count as f64 / MEASURED.as_secs_f64() / capacity;
    let of_time: Vec<&Asked> = asked.iter().filter(|asked| is_measured(asked.began)).collect();
    let done = asked.iter().filter(|asked| asked.status == 200 && is_measured(asked.began + asked.took)).count();
    let admitted: Vec<Duration> = of_time.iter().filter(|asked| asked.status == 200).map(|asked| asked.took).collect();
    let strange =
        asked.iter().find(|asked| asked.status != 200 && (asked.status, asked.reason.as_deref()) != (503, Some("overloaded")));
    if let Some(Asked { status, reason, .. }) = strange {
        anyhow::bail!("a request is answered {status}, because {reason:?}");
    }
    ensure!(healthy.iter().all(|asked| asked.status == 200), "a probe is refused while there is too much");
    Ok(Flood { offered: a_second(of_time.len()), goodput: a_second(done), longest: p99(admitted) })
}

/// Asks for so many a second, whatever becomes of them, until the time is over and all are answered.
async fn flood(mesh: &Mesh, channel: &Channel, a_second: f64) -> anyhow::Result<Vec<Asked>> {
    let pace = Duration::from_millis(10);
    let at_once = (a_second * pace.as_secs_f64()).round() as usize;
    let mut pace = tokio::time::interval(pace);
    let (began, mut asked) = (Instant::now(), Vec::new());
    let mut under_way = FuturesUnordered::new();
    while began.elapsed() < SETTLING + MEASURED {
        tokio::select! {
            _ = pace.tick() => under_way.extend((0..at_once).map(|_| ask(mesh, channel, "/"))),
            Some(ended) = under_way.next(), if !under_way.is_empty() => asked.push(ended?),
        }
    }
    while let Some(ended) = under_way.next().await {
        asked.push(ended?);
    }
    Ok(asked)
}

/// Asks for its health meanwhile.
async fn health(mesh: &Mesh, channel: &Channel) -> anyhow::Result<Vec<Asked>> {
    let mut asked = Vec::new();
    for _ in 0..20 {
        tokio::time::sleep((SETTLING + MEASURED) / 22).await;
        asked.push(ask(mesh, channel, "/healthz").await?);
    }
    Ok(asked)
}
