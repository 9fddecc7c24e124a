//! The document of `ambit up --for TIME --json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use ambit_integration::test;
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde::Deserialize;

use crate::run::{How, Run};

/// Who calls whom in the demonstration, by unmodified programs last.
const EDGES: [[&str; 2]; 11] = [
    ["shop/client", "shop/web"],
    ["shop/web", "shop/api"],
    ["shop/api", "shop/orders"],
    ["shop/api", "shop/permissions"],
    ["shop/api", "shop/notifications"],
    ["shop/api", "billing/billing"],
    ["shop/orders", "data/storage"],
    ["shop/permissions", "data/storage"],
    ["shop/notifications", "data/storage"],
    ["billing/billing", "data/storage"],
    ["ledger/auditor", "ledger/ledger"],
];

/// The fields that the document promises.
#[derive(Debug, Deserialize)]
struct Document {
    ready_seconds: f64,
    nodes: Vec<String>,
    pods: Vec<serde_json::Value>,
    edges: Vec<Edge>,
    wire: Wire,
    waypoints: Vec<String>,
    processes: Vec<Process>,
    notices: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Edge {
    source: String,
    destination: String,
    protocol: String,
    requests: u64,
    errors: u64,
    p50_ms: f64,
    p99_ms: f64,
    encrypted: bool,
    source_identity: Option<String>,
    destination_identity: Option<String>,
    versions: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Wire {
    packets: u64,
    bytes: u64,
    plaintext_marker_seen: bool,
    unseen: u64,
}

#[derive(Debug, Deserialize)]
struct Process {
    name: String,
    rss_bytes: u64,
    cpu_seconds: f64,
    restarts: u32,
}

pub fn tests(program: &Path) -> Vec<Trial> {
    let program = || program.to_owned();
    let (ours, without, envoy, nobody, alone) = (program(), program(), program(), program(), program());
    vec![
        test("the demonstration is ready in 10 seconds and reports encrypted edges without an error", async move || {
            let document = report(&ours, How::default(), &["--for", "12s", "--json"])?;
            whole(&document)?;
            split(&document)
        }),
        test("without IPv4 the demonstration reports the same", async move || {
            let document = report(&without, How::default(), &["--for", "6s", "--json", "--ipv6-only"])?;
            whole(&document)
        }),
        test("the demonstration reports the same with Envoy as the waypoint", async move || {
            let document = report(&envoy, How::default(), &["--for", "12s", "--json", "--waypoint", "envoy"])?;
            whole(&document)?;
            split(&document)
        }),
        test("an ordinary user gets the same mesh", async move || {
            let how = How { as_nobody: true, ..How::default() };
            sound(&report(&nobody, how, &["--for", "4s", "--json"]).context(USER_NAMESPACES)?)
        }),
        test("the mesh needs no program of the machine, and says which pods cannot be shown without", async move || {
            let how = How { empty_path: true, ..How::default() };
            let document = report(&alone, how, &["--for", "2s", "--json"])?;
            sound(&document)?;
            let told =
                |name: &str| document.notices.iter().any(|notice| notice.contains(name) && notice.contains("not installed"));
            ensure!(told("curl") && told("python3"), "{:?}", document.notices);
            Ok(())
        }),
    ]
}

const USER_NAMESPACES: &str = "an ordinary user needs a kernel that lets him make user namespaces (user.max_user_namespaces, \
     kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)";

/// Runs to the end and reads the one document.
fn report(program: &Path, how: How, arguments: &[&str]) -> anyhow::Result<Document> {
    let mut run = Run::start(program, how, arguments)?;
    run.inhabited().or_else(|error| {
        let ended = run.end(Duration::from_secs(1))?;
        Err(error.context(format!("{ended:#?}")))
    })?;
    let ended = run.end(Duration::from_secs(60))?;
    ensure!(ended.status.success(), "{ended:#?}");
    ensure!(ended.error.is_empty(), "it complains: {}", ended.error);
    run.nothing_left()?;
    // Anything before or after the document is an error to the parser.
    serde_json::from_str(&ended.output).with_context(|| format!("not one document: {}", ended.output))
}

/// What holds of every run.
fn sound(document: &Document) -> anyhow::Result<()> {
    ensure!(document.ready_seconds < 10.0, "ready after {} s", document.ready_seconds);
    ensure!(document.nodes == ["node-1", "node-2"], "{:?}", document.nodes);
    ensure!(document.pods.len() >= 10, "{:?}", document.pods);
    for edge in &document.edges {
        ensure!(edge.requests > 0 && edge.errors == 0, "{edge:#?}");
        ensure!(edge.p50_ms > 0.0 && edge.p50_ms <= edge.p99_ms, "{edge:#?}");
        ensure!(edge.encrypted, "in clear: {edge:#?}");
        for (end, identity) in [(&edge.source, &edge.source_identity), (&edge.destination, &edge.destination_identity)] {
            let namespace = end.split('/').next().unwrap_or_default();
            let start = format!("spiffe://cluster.local/ns/{namespace}/sa/");
            ensure!(identity.as_ref().is_some_and(|identity| identity.starts_with(&start)), "{identity:?} of {edge:#?}");
        }
    }
    let (wire, promised) = (&document.wire, ["http", "grpc"].map(|name| document.edges.iter().any(|edge| edge.protocol == name)));
    ensure!(promised == [true; 2], "{:#?}", document.edges);
    ensure!(!wire.plaintext_marker_seen && wire.unseen == 0, "{wire:?}");
    ensure!(wire.packets > 500 && wire.bytes > 50_000, "hardly anything crossed the wire: {wire:?}");
    ensure!(document.waypoints == ["billing/waypoint"], "{:?}", document.waypoints);
    for name in ["istiod", "ztunnel/node-1", "ztunnel/node-2", "waypoint/billing/waypoint", "shop/web-1"] {
        let process = document.processes.iter().find(|process| process.name == name).with_context(|| format!("no {name}"))?;
        ensure!(process.rss_bytes > 1 << 20 && process.cpu_seconds >= 0.0 && process.restarts == 0, "{process:?}");
    }
    Ok(())
}

/// What holds where the programs are installed that the demonstration shows.
fn whole(document: &Document) -> anyhow::Result<()> {
    sound(document)?;
    ensure!(document.notices.is_empty(), "{:?}", document.notices);
    let seen: BTreeSet<[&str; 2]> = document.edges.iter().map(|edge| [&*edge.source, &*edge.destination]).collect();
    ensure!(seen == BTreeSet::from(EDGES), "{seen:?}");
    Ok(())
}

/// Billing is split 95 to 5 between its versions by the waypoint.
fn split(document: &Document) -> anyhow::Result<()> {
    let edge = document.edges.iter().find(|edge| edge.destination == "billing/billing").context("no edge to billing")?;
    let count = |version: &str| edge.versions.get(version).copied().unwrap_or_default();
    let (v1, v2) = (count("v1"), count("v2"));
    ensure!(v1 > v2 && v2 > 0 && v1 + v2 + 5 >= edge.requests, "{edge:#?}");
    Ok(())
}
