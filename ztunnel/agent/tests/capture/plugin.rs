//! The plugin lets no pod start in clear, and says why.

use std::os::fd::AsFd;

use ambit_testbed::Pod;
use anyhow::ensure;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use nlink::netlink::nftables::{Family, NFT_TABLE_F_OWNER};

use crate::{talk::first_line, test, world::World};

pub fn tests() -> Vec<Trial> {
    vec![
        test("without_an_agent_no_pod_starts_but_those_of_excluded_namespaces", no_agent),
        test("a_pod_whose_rules_cannot_be_written_does_not_start", no_rules),
        test("a_running_pod_that_cannot_be_captured_is_cut_off_until_it_can_or_its_label_goes", cut_off),
        test("a_pod_that_the_proxy_refuses_does_not_start", refused),
        test("a_pod_waits_for_a_proxy_and_does_not_start_without_one", no_proxy),
        test("a_pod_that_nobody_knows_does_not_start_and_one_on_the_hosts_network_is_left_alone", unknown),
    ]
}

async fn no_agent() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    world.object("web", Some("ambient"), false)?;
    let _pod = world.sandbox("web").await?;
    // It hangs, then it is gone.
    world.plugin_patience = 2;
    let agent = world.agent.clone().expect("an agent");
    agent.signal(Signal::SIGSTOP);
    let (printed, well) = world.plugin("ADD", "web").await?;
    ensure!(!well && printed["code"] == 11, "{printed}");
    agent.signal(Signal::SIGCONT);
    world.kill_agent().await;
    let (printed, well) = world.plugin("ADD", "web").await?;
    let message = printed["msg"].as_str().unwrap_or_default();
    ensure!(!well && printed["code"] == 11 && message.contains("would start in clear"), "{printed}");
    ensure!(world.plugin_in("kube-system", "ADD", "web").await?.1, "the node's own pods do not start");
    ensure!(world.plugin("DEL", "web").await?.1, "a pod cannot end");
    // What is tried again while the agent comes back works.
    world.plugin_patience = 30;
    world.start_agent().await?;
    let _proxy = world.proxy("q").await?;
    ensure!(world.plugin("ADD", "web").await?.1, "{}", world.log());
    ensure!(world.plugin("CHECK", "web").await?.1);
    world.bed.shutdown().await;
    Ok(())
}

async fn no_rules() -> anyhow::Result<()> {
    let world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    world.object("web", Some("ambient"), false)?;
    let pod = world.sandbox("web").await?;
    let nft = occupied(&pod).await?;
    let (printed, well) = world.plugin("ADD", "web").await?;
    let message = printed["msg"].as_str().unwrap_or_default();
    ensure!(!well && printed["code"] == 100 && message.starts_with("capture rules: "), "{printed}");
    ensure!(first_line(&pod, world.far()[0]).await.is_err(), "it is in clear all the same");
    drop(nft);
    ensure!(world.plugin("ADD", "web").await?.1, "{}", world.log());
    ensure!(first_line(&pod, world.far()[0]).await?.starts_with("outbound by p"));
    world.bed.shutdown().await;
    Ok(())
}

/// A table of the name of ours that belongs to another program, until what this gives is dropped.
async fn occupied(pod: &Pod) -> anyhow::Result<nlink::Connection<nlink::Nftables>> {
    let nft = nlink::Connection::<nlink::Nftables>::new_in(pod.netns().as_fd())?;
    let owned = nft.transaction().add_table_with_flags("ambit-capture", Family::Inet, NFT_TABLE_F_OWNER);
    owned.commit(&nft).await?;
    Ok(nft)
}

async fn cut_off() -> anyhow::Result<()> {
    let world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    world.object("web", None, false)?;
    let pod = world.sandbox("web").await?;
    ensure!(world.plugin("ADD", "web").await?.1, "{}", world.log());
    for captured in [true, false] {
        let obstacle = occupied(&pod).await?;
        world.object("web", Some("ambient"), false)?;
        world.until_state("web", "cut off").await?;
        ensure!(first_line(&pod, world.far()[0]).await.is_err(), "it goes in clear");
        if captured {
            // Nobody asks for it again.
            drop(obstacle);
            world.until("web", "repaired", |status| status.is_some_and(|status| status["state"] != "cut off")).await?;
            world.until_first_line(&pod, "outbound by p").await?;
            world.object("web", None, false)?;
        } else {
            world.object("web", None, false)?;
            world.until("web", "let go", |status| status.is_none()).await?;
            drop(obstacle);
        }
        world.until_first_line(&pod, "application sees").await?;
        world.until("web", "let go", |status| status.is_none()).await?;
    }
    world.bed.shutdown().await;
    Ok(())
}

async fn refused() -> anyhow::Result<()> {
    let world = World::start().await?;
    let proxy = world.proxy("p").await?;
    proxy.refuse("uid-web", true);
    world.object("web", Some("ambient"), false)?;
    let pod = world.sandbox("web").await?;
    let (printed, well) = world.plugin("ADD", "web").await?;
    let message = printed["msg"].as_str().unwrap_or_default();
    ensure!(!well && message.contains("it is refused by the test"), "{printed}");
    let (printed, well) = world.plugin("CHECK", "web").await?;
    ensure!(!well && printed["msg"].as_str().is_some_and(|why| why.starts_with("pending")), "{printed}");
    ensure!(first_line(&pod, world.far()[0]).await.is_err(), "it is in clear all the same");
    proxy.refuse("uid-web", false);
    ensure!(world.plugin("ADD", "web").await?.1, "{}", world.log());
    world.until_state("web", "captured").await?;
    ensure!(world.plugin("CHECK", "web").await?.1);
    world.bed.shutdown().await;
    Ok(())
}

async fn no_proxy() -> anyhow::Result<()> {
    let world = World::start().await?;
    for name in ["early", "late"] {
        world.object(name, Some("ambient"), false)?;
    }
    let (_early, late) = (world.sandbox("early").await?, world.sandbox("late").await?);
    let (printed, well) = world.plugin("ADD", "early").await?;
    ensure!(!well && printed["msg"] == "no node proxy is connected to the node agent", "{printed}");
    let (started, proxy) = tokio::join!(world.plugin("ADD", "late"), async {
        world.until_state("late", "pending").await?;
        world.proxy("p").await
    });
    let _proxy = proxy?;
    ensure!(started?.1, "{}", world.log());
    ensure!(first_line(&late, world.far()[0]).await?.starts_with("outbound by p"));
    world.bed.shutdown().await;
    Ok(())
}

async fn unknown() -> anyhow::Result<()> {
    let world = World::start().await?;
    let proxy = world.proxy("p").await?;
    let _ghost = world.sandbox("ghost").await?;
    let (printed, well) = world.plugin("ADD", "ghost").await?;
    ensure!(!well && printed["msg"].as_str().is_some_and(|why| why.contains("does not know of pod shop/ghost")), "{printed}");
    world.object("host", Some("ambient"), true)?;
    let host = world.sandbox("host").await?;
    ensure!(world.plugin("ADD", "host").await?.1, "{}", world.log());
    ensure!(first_line(&host, world.far()[0]).await?.starts_with("application sees"));
    ensure!(proxy.heard() == ["snapshot"], "{:?}", proxy.heard());
    world.bed.shutdown().await;
    Ok(())
}
