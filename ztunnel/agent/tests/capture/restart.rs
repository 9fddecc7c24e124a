//! The agent ends and comes back; namespaces are used again by others.

use anyhow::ensure;
use libtest_mimic::Trial;

use crate::{
    talk::{PORT, Talk, at, first_line},
    test,
    world::{PATIENCE, World},
};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_killed_agent_leaves_pods_captured_and_takes_them_up_again", killed),
        test("an_agent_that_is_told_to_stop_leaves_the_rules", stopped),
        test("a_namespace_that_another_pod_got_lends_nobodys_identity", reused),
        test("a_path_that_shows_another_namespace_after_a_restart_is_another_pod", another),
        test("pods_that_ran_before_the_agent_are_captured_and_their_open_connections_reset", before),
        test("a_sandbox_that_ends_keeps_its_rules", ended),
    ]
}

async fn killed() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let proxy = world.proxy("p").await?;
    let (pod, flushed) = (world.pod("web").await?, world.pod("flushed").await?);
    let mut open = Talk::open(&pod, world.far()[0]).await?;
    world.kill_agent().await;
    // The proxy goes on, and so do the rules.
    open.echo(b"without an agent").await?;
    ensure!(first_line(&pod, world.far()[1]).await?.starts_with("outbound by p"));
    world.flush(&flushed).await?;
    world.start_agent().await?;
    for name in ["web", "flushed"] {
        world.until_state(name, "pending").await?;
    }
    open.echo(b"the rules were not written anew").await?;
    let again = world.proxy("q").await?;
    let mut heard = again.heard();
    heard.sort();
    ensure!(heard == ["add uid-flushed", "add uid-web", "snapshot"], "{heard:?}");
    drop(proxy);
    for (name, pod) in [("web", &pod), ("flushed", &flushed)] {
        let status = world.until(name, "captured", |status| status.is_some_and(|status| status["reason"] == "")).await?;
        ensure!(status.is_some_and(|status| status["repairs"] == 0));
        // What the other one does not accept any more it may still reset.
        world.until_first_line(pod, "outbound by q").await?;
    }
    world.bed.shutdown().await;
    Ok(())
}

async fn stopped() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    let agent = world.agent.take().expect("an agent");
    ensure!(agent.stop(PATIENCE).await.success(), "{}", world.log());
    ensure!(!world.path("zds.sock").exists() && !world.path("cni.sock").exists(), "its sockets stay");
    for to in world.far() {
        ensure!(first_line(&pod, to).await?.starts_with("outbound by p"));
    }
    world.bed.shutdown().await;
    Ok(())
}

async fn reused() -> anyhow::Result<()> {
    let world = World::start().await?;
    let proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    // Nobody said that the first pod is gone.
    world.show("next", pod.netns())?;
    world.object("next", Some("ambient"), false)?;
    ensure!(world.plugin("ADD", "next").await?.1, "{}", world.log());
    let heard = proxy.heard();
    ensure!(heard == ["snapshot", "add uid-web", "del uid-web", "add uid-next"], "{heard:?}");
    world.until("web", "forgotten", |status| status.is_none()).await?;
    let status = world.until_state("next", "captured").await?;
    ensure!(status["service_account"] == "next", "{status}");
    // And one that is not in the mesh finds nothing of it.
    world.show("last", pod.netns())?;
    world.object("last", None, false)?;
    ensure!(world.plugin("ADD", "last").await?.1, "{}", world.log());
    proxy.wait_for("del uid-next").await?;
    world.until_first_line(&pod, "application sees").await?;
    world.bed.shutdown().await;
    Ok(())
}

async fn another() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let _proxy = world.proxy("p").await?;
    let (pod, plain) = (world.pod("web").await?, world.sandbox("plain").await?);
    world.kill_agent().await;
    world.show("web", plain.netns())?;
    world.start_agent().await?;
    let proxy = world.proxy("q").await?;
    ensure!(proxy.heard() == ["snapshot"], "{:?}", proxy.heard());
    ensure!(first_line(&plain, world.far()[0]).await?.starts_with("application sees"), "it is captured as somebody else");
    world.until("web", "forgotten", |status| status.is_none()).await?;
    for to in world.far() {
        ensure!(!first_line(&pod, to).await.is_ok_and(|line| line.starts_with("application")), "it goes in clear");
    }
    world.bed.shutdown().await;
    Ok(())
}

async fn before() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.kill_agent().await;
    world.object("web", Some("ambient"), false)?;
    world.object("host", Some("ambient"), false)?;
    world.object("plain", None, false)?;
    let (pod, plain) = (world.sandbox("web").await?, world.sandbox("plain").await?);
    world.process(10, "host", world.node.netns())?;
    world.process(11, "plain", plain.netns())?;
    world.process(12, "web", pod.netns())?;
    let mut clear = Vec::new();
    for to in world.far() {
        let talk = Talk::open(&pod, to).await?;
        ensure!(talk.first.starts_with("application sees"), "{}", talk.first);
        clear.push(talk);
    }
    world.start_agent().await?;
    let proxy = world.proxy("p").await?;
    world.until_state("web", "captured").await?;
    for talk in clear {
        talk.until_reset(b"as before").await?;
    }
    ensure!(first_line(&pod, world.far()[0]).await?.starts_with("outbound by p"));
    ensure!(first_line(&plain, world.far()[0]).await?.starts_with("application sees"));
    ensure!(first_line(&world.node, world.far()[0]).await?.starts_with("application sees"), "the node itself is captured");
    let heard = proxy.heard();
    ensure!(heard.iter().filter(|heard| heard.starts_with("add")).eq(["add uid-web"]), "{heard:?}");
    // And one that is labelled later.
    world.object("plain", Some("ambient"), false)?;
    world.until_state("plain", "captured").await?;
    world.bed.shutdown().await;
    Ok(())
}

async fn ended() -> anyhow::Result<()> {
    let world = World::start().await?;
    let proxy = world.proxy("p").await?;
    let (pod, second) = (world.pod("web").await?, world.pod("second").await?);
    ensure!(world.plugin("DEL", "web").await?.1);
    proxy.wait_for("del uid-web").await?;
    world.until("web", "forgotten", |status| status.is_none()).await?;
    for to in world.far() {
        ensure!(first_line(&pod, to).await.is_err(), "what still runs in it goes in clear");
    }
    for ip in pod.ips() {
        ensure!(world.called_from_far(at(ip, PORT)).await.is_err(), "what still runs in it is reached in clear");
    }
    // And one whose runtime says nothing.
    std::fs::remove_file(world.netns_path("second"))?;
    proxy.wait_for("del uid-second").await?;
    ensure!(first_line(&second, world.far()[0]).await.is_err(), "what still runs in it goes in clear");
    world.bed.shutdown().await;
    Ok(())
}
