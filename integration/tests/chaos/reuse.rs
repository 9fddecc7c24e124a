//! Rules are removed by hand; namespaces and addresses go from one pod to the next.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ambit_integration::test;
use ambit_testbed::{Command, Pod};
use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use tokio::time::{Instant, interval};

use crate::{
    Chaos, PODS,
    app::{ANYBODY, App, PORT},
    load::{Callers, Outcome, Target},
    pods::Wanted,
    world::{DAY, SECOND},
};

/// The identities that an address goes through.
const COLOURS: [&str; 3] = ["red", "green", "blue"];
/// The last part of that address, on each node.
const RECYCLED: u8 = 200;

pub fn longest() -> Trial {
    test("an address goes to another identity every second", recycled)
}

pub fn tests() -> Vec<Trial> {
    vec![test("rules are flushed by hand", flushed), test("namespaces are used again by other pods", namespaces)]
}

async fn flushed() -> anyhow::Result<()> {
    let chaos = Chaos::start(DAY).await?;
    let phase = chaos.world.begin("rules flushed by hand").await?;
    for round in 0..4 {
        for (_, app) in chaos.pods.iter().skip(round).step_by(4) {
            let done = app.pod.run(Command::new("nft").args(["flush", "ruleset"])).await?;
            ensure!(done.status.success(), "{}", done.stderr);
        }
        tokio::time::sleep(SECOND).await;
    }
    chaos.world.end(phase).await?;
    chaos.stop().await;
    Ok(())
}

async fn namespaces() -> anyhow::Result<()> {
    let mut chaos = Chaos::start(DAY).await?;
    let phase = chaos.world.begin("namespaces reused by other pods").await?;
    for round in 0..4 {
        // The application ends, and whoever knew its addresses; whoever knows its service goes on.
        let (wanted, app) = chaos.pods.remove(round);
        drop(chaos.callers.remove(round));
        chaos.world.load.forget(&app.who.account);
        let pod = app.pod.clone();
        drop(app);
        // Nobody tells that the sandbox has ended.
        chaos.world.runtime.forget(&wanted)?;
        let name = format!("newcomer-{round}");
        let target = chaos.world.runtime.service(&name)?;
        let next = Wanted::new(wanted.node, &name, &name);
        let app = chaos.world.runtime.add_in(&next, pod, &chaos.world.astray).await?;
        chaos.callers.insert(round, chaos.world.load.call(&app, (PODS + round) as u64, None));
        chaos.pods.insert(round, (next, app));
        chaos.world.load.add_target(target);
        tokio::time::sleep(SECOND).await;
    }
    let newcomers = |outcome: &Outcome| outcome.wanted.starts_with("newcomer") || outcome.account.starts_with("newcomer");
    let from = std::time::Instant::now();
    chaos.world.until("newcomers that work", async || chaos.world.load.counts(from, newcomers).0 > 20).await?;
    let row = chaos.world.end(phase).await?;
    ensure!(row.steady == 0, "pods that stayed as they were have failures: {row:#?}");
    chaos.stop().await;
    Ok(())
}

/// How long addresses are recycled.
fn how_long() -> Duration {
    let asked = std::env::var("AMBIT_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(10))
}

/// A pod at the address that is recycled, and its requests to a server that lets in one colour only.
struct Current {
    wanted: Wanted,
    pod: Pod,
    app: Arc<App>,
    callers: Callers,
}

/// The next pod at the address of a node.
async fn next(chaos: &Chaos, node: usize, turn: usize, guarded: &Target) -> anyhow::Result<Current> {
    let colour = COLOURS[(turn + node) % COLOURS.len()];
    let mut wanted = Wanted::new(node, format!("{colour}-{node}-{turn}"), colour);
    wanted.number = Some(RECYCLED);
    let app = chaos.world.runtime.add(&wanted, &chaos.world.astray).await?;
    let callers = chaos.world.load.call(&app, (PODS * 2 + turn) as u64, Some(guarded.clone()));
    Ok(Current { wanted, pod: app.pod.clone(), app, callers })
}

/// The next pods at the addresses of both nodes.
async fn both(chaos: &Chaos, turn: usize, guarded: &Target) -> anyhow::Result<Vec<Current>> {
    let started = [0, 1].map(|node| next(chaos, node, turn, guarded));
    futures::future::join_all(started).await.into_iter().collect()
}

async fn recycled() -> anyhow::Result<()> {
    let chaos = Chaos::start(DAY).await?;
    let (world, load) = (&chaos.world, &chaos.world.load);
    for colour in COLOURS {
        load.add_target(world.runtime.service(colour)?);
    }
    let guarded = world.runtime.service("guarded")?;
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "only-red", "namespace": "shop" },
        "spec": {
            "selector": { "matchLabels": { "app": "guarded" } }, "action": "ALLOW",
            "rules": [{ "from": [{ "source": { "principals": ["cluster.local/ns/shop/sa/red"] } }] }],
        },
    });
    world.runtime.publish("only-red", &[policy])?;
    let mut guard = Wanted::new(1, "guarded", "guarded");
    guard.admits = Some("red");
    let _guard = world.runtime.add(&guard, &world.astray).await?;
    // Two who remember the addresses, and do not know whose they are now.
    let mut addresses = Vec::new();
    for number in world.nodes.iter().map(|node| node.place.number()) {
        addresses.push(SocketAddr::new(format!("10.244.{number}.{RECYCLED}").parse()?, PORT));
        addresses.push(SocketAddr::new(format!("fd44:0:0:{number}::{RECYCLED}").parse()?, PORT));
    }
    let remembered = Target { account: ANYBODY.into(), addresses };
    let phase = world.begin("pod IPs recycled to another identity every second").await?;
    let mut current = both(&chaos, 0, &guarded).await?;
    world.proxies_know(&current.iter().map(|current| current.wanted.name.as_str()).collect::<Vec<_>>()).await?;
    let _remembering = [0, 1].map(|pod| load.call(&chaos.pods[pod].1, pod as u64, Some(remembered.clone())));
    let (begun, mut every, mut turn) = (Instant::now(), interval(SECOND), 0);
    every.tick().await;
    while begun.elapsed() < how_long() {
        every.tick().await;
        for Current { wanted, pod, app, callers } in current.drain(..) {
            drop((callers, app));
            world.runtime.forget(&wanted)?;
            world.runtime.end(&wanted, &pod).await?;
        }
        turn += 1;
        current = both(&chaos, turn, &guarded).await?;
    }
    let colours = |outcome: &Outcome| COLOURS.contains(&&*outcome.wanted);
    let let_in = |outcome: &Outcome| &*outcome.wanted == "guarded";
    let (to, from) = (load.counts(begun.into_std(), colours), load.counts(begun.into_std(), let_in));
    println!("{turn} identities at each address; to them {to:?} requests ended well and badly, from them {from:?}");
    let row = world.end(phase).await?;
    ensure!(row.steady == 0, "pods that stayed as they were have failures: {row:#?}");
    ensure!(to.0 > 0 && from.0 > 0, "nobody was ever reached");
    drop(current);
    chaos.stop().await;
    Ok(())
}
