//! Rules that somebody changed are written again, what went in clear meanwhile is reset, and what cannot be repaired is cut off.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use ambit_testbed::Pod;
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::{
    talk::{PORT, Talk, at, first_line},
    test,
    world::{Filter, PATIENCE, World, last},
};

const MARKER: &[u8] = b"in clear after the repair";

pub fn tests(filter: Filter) -> Vec<Trial> {
    let name = filter.name().replace('-', "_");
    let named = |what: &str| format!("{name}_{what}");
    vec![
        test(&named("rules_flushed_by_hand_are_written_again_at_once"), move || flushed(filter)),
        test(&named("connections_that_began_in_clear_are_reset_by_the_repair"), move || cut(filter)),
        test(&named("a_rule_before_ours_is_noticed_and_foreign_ones_stay"), move || tampered(filter)),
        test(&named("a_pod_that_cannot_be_repaired_is_cut_off_until_it_can"), move || beyond_repair(filter)),
    ]
}

async fn flushed(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    world.until_state("web", "captured").await?;
    for _ in 0..3 {
        // What is removed bit by bit may be repaired more than once.
        let before = world.status("web").and_then(|status| status["repairs"].as_u64());
        let begun = Instant::now();
        world.flush(&pod).await?;
        world.until_first_line(&pod, "outbound by p").await?;
        let took = begun.elapsed();
        let more = |status: Option<&serde_json::Value>| status.is_some_and(|status| status["repairs"].as_u64() > before);
        let status = world.until("web", "repaired", more).await?.unwrap_or_default();
        ensure!(
            status["state"] == "repaired" && status["reason"].as_str().is_some_and(|reason| reason.contains("rules")),
            "{status}"
        );
        println!("{}: flushed and captured again within {took:?}", filter.name());
        let until = Instant::now() + PATIENCE;
        while !world.called_from_far(at(last(&pod), PORT)).await.is_ok_and(|talk| talk.first.starts_with("inbound by p")) {
            ensure!(Instant::now() < until, "it is not reached again: {}", world.log());
        }
    }
    // Routing belongs to it.
    for (family, table) in [("-4", "100"), ("-6", "100"), ("-6", "101")] {
        let before = world.status("web").and_then(|status| status["repairs"].as_u64());
        world.flush_routing(&pod).await?;
        // Where it is not there, there is nothing to remove.
        let _none = world.run(&pod, "ip", &[family, "route", "flush", "table", table]).await;
        let more = |status: Option<&serde_json::Value>| status.is_some_and(|status| status["repairs"].as_u64() > before);
        world.until("web", "repaired", more).await?;
        let until = Instant::now() + PATIENCE;
        for ip in pod.ips() {
            while !answers(&world, ip).await {
                ensure!(Instant::now() < until, "{ip} is not reached again");
            }
        }
    }
    world.bed.shutdown().await;
    Ok(())
}

/// Whether the application of a captured pod answers.
async fn answers(world: &World, ip: IpAddr) -> bool {
    let talk = world.called_from_far(at(ip, PORT)).await;
    let Ok(mut talk) = talk else { return false };
    talk.line().await.is_ok_and(|line| line.starts_with("application sees"))
}

async fn cut(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    world.until_state("web", "captured").await?;
    let mut captured = Talk::open(&pod, world.far()[0]).await?;
    let agent = world.agent.clone().expect("an agent");
    agent.signal(Signal::SIGSTOP);
    // Either of them alone lets nothing out.
    world.flush(&pod).await?;
    world.flush_routing(&pod).await?;
    let (mut outbound, mut inbound) = (Vec::new(), Vec::new());
    for to in world.far() {
        let mut talk = Talk::open(&pod, to).await?;
        ensure!(talk.first == format!("application sees {}", if to.is_ipv4() { pod.ip() } else { last(&pod) }));
        talk.echo(b"nobody sees to it").await?;
        outbound.push(talk);
    }
    for ip in pod.ips() {
        inbound.push(world.called_from_far(at(ip, PORT)).await?);
    }
    agent.signal(Signal::SIGCONT);
    world.until_state("web", "repaired").await?;
    let wire = world.bed.capture([MARKER])?;
    for talk in outbound {
        talk.until_reset(MARKER).await?;
    }
    for talk in inbound {
        talk.until_reset(b"what the client says it says in clear").await?;
    }
    ensure!(!wire.report().marker_seen(), "bytes were sent in clear after the repair: {:?}", wire.report());
    // Nothing was sent on it meanwhile, so that it is as whole as ever.
    captured.echo(&[1; 1000]).await?;
    ensure!(first_line(&pod, world.far()[0]).await?.starts_with("outbound by p"));
    world.bed.shutdown().await;
    Ok(())
}

async fn tampered(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    world.until_state("web", "captured").await?;
    let program = filter.name();
    // What others have in the same place is theirs, and stays.
    let (foreign, changes): (&[&str], &[&str]) = match filter {
        Filter::Nftables | Filter::NftablesOverIpv6 => (
            &[
                "nft add table inet foreign",
                "nft add chain inet foreign theirs { type filter hook input priority 0; }",
                "nft add rule inet foreign theirs tcp dport 7 drop",
            ],
            &[
                "nft insert rule inet ambit-capture nat-output accept",
                "nft add table inet ambit-capture { flags dormant; }",
                "nft add chain inet ambit-capture leave { policy drop; }",
                "nft add chain inet ambit-capture another { type nat hook output priority -150; }",
            ],
        ),
        Filter::LegacyIptables => (&["-A INPUT -p tcp --dport 7 -j DROP"], &["-t nat -I OUTPUT 1 -p tcp -j ACCEPT"]),
        Filter::IptablesOverNftables => (
            &["-A INPUT -p tcp --dport 7 -j DROP"],
            &[
                "-t nat -I OUTPUT 1 -p tcp -j ACCEPT",
                "nft add table ip nat { flags dormant; }",
                "nft add table ip6 filter { flags dormant; }",
            ],
        ),
    };
    let run = async |line: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        match arguments.strip_prefix(&["nft"]) {
            Some(arguments) => world.run(&pod, "nft", arguments).await,
            None => world.run(&pod, program, &arguments).await,
        }
    };
    for line in foreign {
        run(line).await?;
    }
    for line in changes {
        let before = world.status("web").and_then(|status| status["repairs"].as_u64());
        run(line).await?;
        let more = |status: Option<&serde_json::Value>| status.is_some_and(|status| status["repairs"].as_u64() > before);
        world.until("web", "repaired", more).await.with_context(|| format!("after {line:?}"))?;
        world.until_first_line(&pod, "outbound by p").await?;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let rules = world.rules(&pod).await?;
        ensure!(rules.contains("dport 7 "), "a foreign rule is gone: {rules}");
        if !rules.contains("dormant") && !rules.contains("another") {
            break;
        }
        ensure!(Instant::now() < until, "{rules}");
    }
    world.bed.shutdown().await;
    Ok(())
}

async fn beyond_repair(filter: Filter) -> anyhow::Result<()> {
    let world = World::start_with(filter).await?;
    let _proxy = world.proxy("p").await?;
    let (pod, other) = (world.pod("web").await?, world.pod("other").await?);
    world.until_state("web", "captured").await?;
    world.until_state("other", "captured").await?;
    let obstacle = Obstacle::put(&world, filter, &pod).await?;
    let status = world.until_state("web", "cut off").await?;
    println!("{}: {}", filter.name(), status["reason"]);
    let wire = world.bed.capture([MARKER])?;
    for to in world.far() {
        let refused = Instant::now();
        ensure!(Talk::open(&pod, to).await.is_err(), "it goes in clear");
        ensure!(refused.elapsed() < Duration::from_secs(3), "it is not refused at once");
    }
    for ip in pod.ips() {
        ensure!(world.called_from_far(at(ip, PORT)).await.is_err(), "it is reached in clear");
    }
    ensure!(wire.report().dropped == 0 && !wire.report().marker_seen());
    obstacle.take_away(&world).await?;
    world.until_state("web", "repaired").await?;
    world.until_first_line(&pod, "outbound by p").await?;
    let until = Instant::now() + PATIENCE;
    for pod in [&pod, &other] {
        while !world.called_from_far(at(pod.ip(), PORT)).await.is_ok_and(|talk| talk.first.starts_with("inbound by p")) {
            ensure!(Instant::now() < until, "it is not reached again");
        }
    }
    world.bed.shutdown().await;
    Ok(())
}

/// Something that keeps the agent from writing rules.
enum Obstacle {
    /// A table of the same name that belongs to another program.
    Owned(nlink::Connection<nlink::Nftables>),
    /// The programs are gone.
    NoPrograms,
}

impl Obstacle {
    async fn put(world: &World, filter: Filter, pod: &Pod) -> anyhow::Result<Self> {
        use std::os::fd::AsFd;
        if filter.is_nftables() {
            use nlink::netlink::nftables::{Family, NFT_TABLE_F_OWNER};
            let nft = nlink::Connection::<nlink::Nftables>::new_in(pod.netns().as_fd())?;
            let swap = nft.transaction().del_table("ambit-capture", Family::Inet);
            swap.add_table_with_flags("ambit-capture", Family::Inet, NFT_TABLE_F_OWNER).commit(&nft).await?;
            return Ok(Self::Owned(nft));
        }
        std::fs::rename(world.path("programs"), world.path("no-programs"))?;
        world.flush(pod).await?;
        Ok(Self::NoPrograms)
    }

    async fn take_away(self, world: &World) -> anyhow::Result<()> {
        match self {
            // The kernel removes the table with the socket.
            Self::Owned(nft) => drop(nft),
            Self::NoPrograms => std::fs::rename(world.path("no-programs"), world.path("programs"))?,
        }
        Ok(())
    }
}
