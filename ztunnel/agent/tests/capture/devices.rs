//! Pods with more than one device.

use std::net::{IpAddr, Ipv4Addr};

use ambit_testbed::{Command, Pod, PodSpec};
use anyhow::ensure;
use libtest_mimic::Trial;

use crate::{
    talk::{PORT, Talk, at, first_line, serve},
    test,
    world::World,
};

/// The addresses of both ends of the second device.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

pub fn tests() -> Vec<Trial> {
    vec![test("a_second_device_takes_connections_however_strict_it_is_and_is_as_before_afterwards", strict)]
}

async fn strict() -> anyhow::Result<()> {
    let world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    let (pod, other) = (world.sandbox("web").await?, world.node.add_pod(PodSpec::new("outside", "other")).await?);
    serve(&other)?;
    second_device(&world, &pod, &other).await?;
    world.object("web", None, false)?;
    ensure!(world.plugin("ADD", "web").await?.1, "{}", world.log());
    // The setting of all devices, of those that come, and of the second one.
    for settings in [["0", "0", "1"], ["1", "0", "0"], ["1", "1", "1"], ["0", "2", "2"], ["2", "1", "1"], ["0", "0", "0"]] {
        for (of, value) in ["all", "default", "eth1"].into_iter().zip(settings) {
            set(&pod, of, value)?;
        }
        ensure!(talk(&other).await?.starts_with("application sees"), "{settings:?} without capture");
        world.object("web", Some("ambient"), false)?;
        world.until_state("web", "captured").await?;
        ensure!(talk(&other).await?.starts_with("inbound by p"), "{settings:?}");
        ensure!(first_line(&pod, at(IpAddr::V4(FAR), PORT)).await?.starts_with("outbound by p"), "{settings:?}");
        if settings[2] == "1" && settings[0] != "2" {
            // Somebody makes it strict again.
            set(&pod, "eth1", "1")?;
            let repaired = |status: Option<&serde_json::Value>| status.is_some_and(|status| status["state"] == "repaired");
            world.until("web", "repaired", repaired).await?;
            ensure!(talk(&other).await?.starts_with("inbound by p"), "{settings:?}, made strict");
        }
        world.object("web", None, false)?;
        world.until("web", "let go", |status| status.is_none()).await?;
        world.until_first_line(&pod, "application sees").await?;
        let after = pod.netns().run(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth1/rp_filter"))??;
        ensure!(after.trim() == settings[2], "{settings:?}: {after} is left");
    }
    world.bed.shutdown().await;
    Ok(())
}

/// Who answers another pod that connects over the second device.
async fn talk(other: &Pod) -> anyhow::Result<String> {
    Ok(Talk::open(other, at(IpAddr::V4(NEAR), PORT)).await?.first)
}

fn set(pod: &Pod, of: &str, value: &str) -> anyhow::Result<()> {
    Ok(pod.netns().run(|| std::fs::write(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"), value))??)
}

/// Joins two pods by a link of their own.
async fn second_device(world: &World, pod: &Pod, other: &Pod) -> anyhow::Result<()> {
    let there = other.spawn(Command::new("sleep").arg("60"))?;
    let process = there.pid().to_string();
    let link = ["link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", process.as_str()];
    world.run(pod, "ip", &link).await?;
    there.kill();
    for (pod, ip) in [(pod, NEAR), (other, FAR)] {
        world.run(pod, "ip", &["address", "add", &format!("{ip}/24"), "dev", "eth1"]).await?;
        world.run(pod, "ip", &["link", "set", "eth1", "up"]).await?;
    }
    Ok(())
}
