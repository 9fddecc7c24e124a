//! Chaos under steady load from 20 pods on two nodes: parts are killed and replaced, rules removed, namespaces and addresses reused, the
//! control plane and the authority away, roots replaced. Counted are requests, failures with their reasons, bytes in clear, and bytes that
//! reached somebody else than they were meant for. `AMBIT_CHAOS_SECONDS` is how long an address goes from one identity to the next each second.
//! Needs root or user namespaces and leaves nothing behind.

#[path = "../../../ztunnel/agent/tests/capture/child.rs"]
mod agent;
mod app;
mod child;
mod load;
mod pages;
mod parts;
mod pods;
mod report;
mod reuse;
mod roots;
mod world;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use ambit_testbed::bed;
use libtest_mimic::Arguments;

use crate::{
    app::{App, PORT},
    load::{Callers, STEADY},
    pods::Wanted,
    world::World,
};

/// Pods with steady load.
const PODS: usize = 20;

/// A mesh under steady load.
struct Chaos {
    world: World,
    pods: Vec<(Wanted, Arc<App>)>,
    callers: Vec<Callers>,
}

impl Chaos {
    /// Starts a mesh whose certificates live so long, and waits until its load works.
    async fn start(certificate_seconds: u64) -> anyhow::Result<Self> {
        let world = World::start(certificate_seconds).await?;
        let wanted: Vec<Wanted> =
            (0..PODS).map(|number| Wanted::new(number % 2, format!("{STEADY}{number}"), format!("{STEADY}{number}"))).collect();
        let started = wanted.iter().map(|wanted| world.runtime.add(wanted, &world.astray));
        let apps = futures::future::join_all(started).await;
        let mut chaos = Self { world, pods: Vec::new(), callers: Vec::new() };
        for (wanted, app) in wanted.into_iter().zip(apps) {
            let app = app.map_err(|error| error.context(chaos.world.logs()))?;
            let mut target = chaos.world.runtime.service(&wanted.account)?;
            target.addresses.extend(app.who.ips.iter().map(|ip| SocketAddr::new(*ip, PORT)));
            chaos.world.load.add_target(target);
            chaos.pods.push((wanted, app));
        }
        // What the control plane says nothing of is reached in clear.
        let names: Vec<&str> = chaos.pods.iter().map(|(wanted, _)| wanted.name.as_str()).collect();
        chaos.world.proxies_know(&names).await?;
        for (number, (_, app)) in chaos.pods.iter().enumerate() {
            chaos.callers.push(chaos.world.load.call(app, number as u64, None));
        }
        chaos.world.settled().await?;
        Ok(chaos)
    }

    async fn stop(self) {
        let Self { world, pods, callers } = self;
        drop(callers);
        drop(pods);
        world.stop().await;
    }
}

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    // Each is a mesh of its own, and mostly waits.
    arguments.test_threads.get_or_insert(2);
    // Two take a minute or more: they come first, so that neither runs by itself at the end.
    let tests =
        [roots::longest(), reuse::longest()].into_iter().chain(parts::tests()).chain(roots::tests()).chain(reuse::tests());
    let conclusion = libtest_mimic::run(&arguments, tests.collect());
    report::print_table();
    conclusion.exit_code()
}
