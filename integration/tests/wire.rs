//! What is seen on the link between the nodes, with and without the label that enrols a namespace.

use std::process::ExitCode;
use std::time::Duration;

use ambit::demo::MARKER;
use ambit::local::WaypointKind;
use ambit_integration::client::{Client, get};
use ambit_integration::{over, suite::Suite, wait};
use ambit_testbed::{Families, wire::Report};
use anyhow::{Context, ensure};
use bytes::Bytes;
use istiod_lite::source::NamespacedName;
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The label that enrols a namespace, and what the fixture has in its place when it is absent.
const LABEL: &str = "istio.io/dataplane-mode: ambient";
const NO_LABEL: &str = "# no label";

/// The file of each namespace: that of the caller on one node and that of the server on the other.
const CALLERS: &str = "10-callers.yaml";
const SHOP: &str = "20-shop.yaml";

fn main() -> ExitCode {
    ambit_integration::run(Families::ALL.into_iter().flat_map(tests).collect())
}

fn tests(families: Families) -> [Trial; 4] {
    [
        over(families, "without the label the marker is seen on the link, over each family", absent),
        over(families, "with the label the marker is never seen, from the start on", present),
        over(families, "with only one end labelled the marker is seen: there is nobody to encrypt for", one_end),
        over(families, "a label added at run time encrypts what comes after, and removed again no longer", added_and_removed),
    ]
}

async fn start(families: Families, callers: &str, shop: &str) -> anyhow::Result<Suite> {
    Suite::start_with("wire", WaypointKind::Ours, families, &[("CALLERS", callers), ("SHOP", shop)]).await
}

/// What was seen of the marker between two moments, and what was seen at all.
#[derive(Debug)]
struct Seen {
    families: Families,
    marker_v4: u64,
    marker_v6: u64,
    packets_v4: u64,
    packets_v6: u64,
}

impl Seen {
    fn between(families: Families, before: &Report, after: &Report) -> anyhow::Result<Self> {
        ensure!(after.dropped == 0, "{} packets were not looked at", after.dropped);
        let (old, new) = (before.markers.first(), after.markers.first());
        let (old, new) = (old.context("the marker")?, new.context("the marker")?);
        Ok(Self {
            families,
            marker_v4: new.ipv4 - old.ipv4,
            marker_v6: new.ipv6 - old.ipv6,
            packets_v4: after.ipv4.packets - before.ipv4.packets,
            packets_v6: after.ipv6.packets - before.ipv6.packets,
        })
    }

    /// In each address family, the marker in clear; `least` times or more.
    fn clear(&self, least: u64) -> anyhow::Result<()> {
        let seen = self.families.of([self.marker_v4, self.marker_v6]);
        ensure!(seen.iter().all(|count| *count >= least), "not seen {least} times in each family: {self:?}");
        Ok(())
    }

    /// In each address family, traffic but no marker.
    fn encrypted(&self) -> anyhow::Result<()> {
        ensure!(self.marker_v4 == 0 && self.marker_v6 == 0, "the marker was seen: {self:?}");
        // As many as there are exchanges, there and back; on tunnels that stand it may be few more.
        let crossed = self.families.of([self.packets_v4, self.packets_v6]);
        ensure!(crossed.iter().all(|count| *count >= ALL), "hardly anything crossed the link: {self:?}");
        Ok(())
    }
}

/// Sends the marker and gets it back, as a request and as bytes, to the service and to the pod, over each family: 4 times in each
/// direction.
async fn talk(suite: &Suite) -> anyhow::Result<Seen> {
    let before = suite.mesh.wire_report();
    let (client, server) = (suite.pod("callers/client")?, suite.pod("shop/echo")?);
    let services = suite.service("shop/echo")?.into_iter().map(|address| (address, 80));
    for (address, http) in services.chain(server.ips().into_iter().map(|address| (address, 8080))) {
        let web = Client::new(client.clone(), (address, http).into());
        let answer = web.send_with_body(get("/").method("POST").header("x-marker", MARKER), Bytes::from_static(b"x")).await?;
        ensure!(answer.echo()?.headers.get("x-marker").is_some_and(|value| value == MARKER), "{answer:?}");
        let mut stream = Client::new(client.clone(), (address, 9090).into()).connect().await?;
        stream.write_all(MARKER.as_bytes()).await?;
        let mut back = vec![0; MARKER.len()];
        tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut back)).await.context("no answer")??;
        ensure!(back == MARKER.as_bytes(), "{back:?}");
    }
    Seen::between(suite.families(), &before, &suite.mesh.wire_report())
}

/// Each of [`talk`]'s exchanges carries the marker there and back: four exchanges over each family.
const ALL: u64 = 8;

async fn absent(families: Families) -> anyhow::Result<()> {
    let suite = start(families, NO_LABEL, NO_LABEL).await?;
    talk(&suite).await?.clear(ALL)?;
    suite.stop().await;
    Ok(())
}

async fn present(families: Families) -> anyhow::Result<()> {
    let suite = start(families, LABEL, LABEL).await?;
    for _ in 0..10 {
        talk(&suite).await?.encrypted()?;
    }
    let all = suite.mesh.wire_report();
    ensure!(!all.marker_seen() && all.dropped == 0, "{all:?}");
    suite.stop().await;
    Ok(())
}

async fn one_end(families: Families) -> anyhow::Result<()> {
    for (callers, shop) in [(LABEL, NO_LABEL), (NO_LABEL, LABEL)] {
        let suite = start(families, callers, shop).await?;
        talk(&suite).await?.clear(ALL)?;
        suite.stop().await;
    }
    Ok(())
}

async fn added_and_removed(families: Families) -> anyhow::Result<()> {
    let suite = start(families, NO_LABEL, NO_LABEL).await?;
    talk(&suite).await?.clear(ALL)?;
    for _ in 0..2 {
        enrol(&suite, true).await?;
        talk(&suite).await?.encrypted()?;
        enrol(&suite, false).await?;
        talk(&suite).await?.clear(ALL)?;
    }
    suite.stop().await;
    Ok(())
}

/// Labels both namespaces, or takes the label away, and waits until both proxies follow.
async fn enrol(suite: &Suite, enrolled: bool) -> anyhow::Result<()> {
    for file in [CALLERS, SHOP] {
        let original = suite.original(file)?;
        suite.apply(file, &if enrolled { original.replace(NO_LABEL, LABEL) } else { original })?;
    }
    let what = if enrolled { "both pods are captured" } else { "neither pod is captured" };
    let topology = suite.mesh.topology();
    let captured = async || {
        let pods = [("callers", "client"), ("shop", "echo")].map(|(namespace, name)| NamespacedName::new(namespace, name));
        let topology = topology.borrow().clone();
        let follows =
            |name| topology.pods.get(name).is_some_and(|facts| facts.captured == enrolled && facts.enrolled == enrolled);
        if pods.iter().all(follows) { Ok(()) } else { Err(format!("{:?}", topology.pods)) }
    };
    wait::until(what, Duration::from_secs(5), captured).await?;
    // The state of a pod is known to the node proxies a moment after it is captured.
    settled(suite, enrolled).await
}

/// Waits until a connection made now is encrypted, or is not.
async fn settled(suite: &Suite, encrypted: bool) -> anyhow::Result<()> {
    let ask = async || {
        let seen = talk(suite).await.map_err(|error| format!("{error:#}"))?;
        let follows = if encrypted { seen.encrypted() } else { seen.clear(ALL) };
        follows.map_err(|error| error.to_string())
    };
    wait::until("the change is in force", Duration::from_secs(5), ask).await.map(drop)
}
