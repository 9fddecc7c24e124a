//! Orders to a running cluster, over a socket in its directory: a line of JSON, for an image followed by its bytes, answered by another line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ambit_cluster::Cluster;
use ambit_testbed::wire::Capture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::place::ClusterPlace;
use crate::demo::MARKER;
use crate::error::{Error, Result};

/// Longest order, bytes.
const LINE: u64 = 4096;

/// Longest image, bytes.
const IMAGE: u64 = 4 << 30;

/// Pause when no order can be taken, for want of descriptors for example.
const PAUSE: Duration = Duration::from_millis(100);

/// What is asked of a cluster.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// What it is like.
    Status,
    /// To take the image of so many bytes that follows.
    Load(u64),
    /// What crossed the wire between its nodes, which is watched from the first time that this is asked.
    Wire,
}

/// What crossed the wire between the nodes of a cluster.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct WireCount {
    /// Packets between nodes.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets in which the mark was in clear that all messages of the demonstration have.
    pub marked: u64,
    /// Packets that could not be looked at.
    pub unseen: u64,
}

/// The watch over the wire, once there is one.
type Watch = OnceCell<Capture>;

/// Takes orders until it is dropped.
pub(super) async fn serve(listener: UnixListener, cluster: Arc<Cluster>, directory: PathBuf) {
    let (mut orders, watch) = (JoinSet::new(), Arc::<Watch>::default());
    loop {
        while orders.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let watch = watch.clone();
                let (cluster, archive) = (cluster.clone(), directory.join(format!("loaded-{}.tar", fastrand::u64(..))));
                orders.spawn(async move {
                    // Whoever asked and went away needs no answer.
                    let _unheard = answer(stream, &cluster, &watch, &archive).await;
                    let _never_made = tokio::fs::remove_file(&archive).await;
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn answer(stream: UnixStream, cluster: &Cluster, watch: &Watch, archive: &Path) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(LINE).read_line(&mut line).await?;
    let outcome = match serde_json::from_str(&line) {
        Ok(Order::Status) => cluster
            .status()
            .await
            .map_err(|error| error.to_string())
            .and_then(|status| serde_json::to_value(status).map_err(|error| error.to_string())),
        Ok(Order::Load(length)) if length <= IMAGE => {
            let mut file = File::create(archive).await?;
            let copied = copy(&mut (&mut stream).take(length), &mut file).await?;
            file.flush().await?;
            if copied == length {
                cluster.load(archive).await.map(Value::String).map_err(|error| error.to_string())
            } else {
                Err(format!("only {copied} of {length} bytes arrived"))
            }
        }
        Ok(Order::Wire) => {
            wire(cluster, watch).await.and_then(|count| serde_json::to_value(count).map_err(|error| error.to_string()))
        }
        Ok(Order::Load(length)) => Err(format!("an image has {IMAGE} bytes at most, not {length}")),
        Err(error) => Err(format!("this is no order: {error}")),
    };
    let text = serde_json::to_string(&outcome)?;
    stream.write_all(format!("{text}\n").as_bytes()).await?;
    stream.shutdown().await
}

async fn wire(cluster: &Cluster, watch: &Watch) -> Result<WireCount, String> {
    let begin = || async { cluster.bed().capture([MARKER]) };
    let report = watch.get_or_try_init(begin).await.map_err(|error| format!("watching the wire: {error}"))?.report();
    let marked = report.markers.iter().map(|seen| seen.ipv4 + seen.ipv6).sum();
    Ok(WireCount { packets: report.total.packets, bytes: report.total.bytes, marked, unseen: report.dropped })
}

/// Asks a running cluster what crossed its wire since it was asked for the first time.
pub(crate) async fn crossed(place: &ClusterPlace) -> Result<WireCount> {
    let answer = ask(place, &Order::Wire, None).await?;
    serde_json::from_value(answer).map_err(|error| Error::part("reading the cluster's answer", error))
}

/// Asks a running cluster what it is like.
pub(super) async fn status(place: &ClusterPlace) -> Result<ambit_cluster::cluster::Status> {
    let answer = ask(place, &Order::Status, None).await?;
    serde_json::from_value(answer).map_err(|error| Error::part("reading the cluster's answer", error))
}

/// Gives a running cluster an image, and returns the image's name.
pub(super) async fn load(place: &ClusterPlace, image: &Path) -> Result<String> {
    let failed = |cause| Error::path("reading", image, cause);
    let file = File::open(image).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    let answer = ask(place, &Order::Load(length), Some(file)).await?;
    Ok(answer.as_str().unwrap_or_default().to_owned())
}

async fn ask(place: &ClusterPlace, order: &Order, content: Option<File>) -> Result<Value> {
    let socket = place.socket();
    let failed = |cause| Error::path("asking the cluster at", &socket, cause);
    let stream = UnixStream::connect(&socket).await.map_err(|_| Error::Missing {
        missing: format!("no cluster named {} is ready{}", place.name, super::of_root()),
        remedy: format!("sudo ambit cluster up --name {}", place.name),
    })?;
    let (read, mut write) = stream.into_split();
    let line = serde_json::to_string(order).map_err(|error| Error::part("writing the order", error))?;
    let send = async {
        write.write_all(format!("{line}\n").as_bytes()).await?;
        if let Some(mut content) = content {
            copy(&mut content, &mut write).await?;
        }
        write.shutdown().await
    };
    let mut text = String::new();
    let mut read = BufReader::new(read);
    let (sent, answered) = tokio::join!(send, read.read_line(&mut text));
    // An order that is refused is answered before all of it was read.
    answered.and_then(|length| if length == 0 { sent } else { Ok(()) }).map_err(failed)?;
    let outcome: Result<Value, String> =
        serde_json::from_str(&text).map_err(|error| Error::part("reading the cluster's answer", error))?;
    outcome.map_err(|error| Error::part(format!("the cluster {}", place.name), error))
}
