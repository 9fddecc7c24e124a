//! The agent ends and comes back; namespaces are used again by others.

use anyhow::ensure;
use libtest_mimic::Trial;

use crate::{
    proxy::Proxy,
    talk::{PORT, Talk, at, first_line},
    test,
    world::{PATIENCE, SOON, World},
};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_killed_agent_leaves_pods_captured_and_takes_them_up_again", killed),
        test("an_agent_that_is_told_to_stop_leaves_the_rules", stopped),
        test("an_agent_that_ends_leaves_its_successors_sockets", succeeded),
        test("a_proxy_is_told_of_all_pods_by_an_agent_that_comes_back", at_once),
        test("a_namespace_that_another_pod_got_lends_nobodys_identity", reused),
        test("a_pod_does_not_start_where_a_proxy_still_serves_another_one", served_still),
        test("a_path_that_shows_another_namespace_after_a_restart_is_another_pod", another),
        test("pods_that_ran_before_the_agent_are_captured_and_their_open_connections_reset", before),
        test("a_pod_found_by_its_process_is_checked_and_said_goodbye_to_as_one_that_was_started", found),
        test("a_pod_is_not_where_a_later_process_of_it_went", elsewhere),
        test("a_pod_of_which_nothing_is_noted_any_more_is_as_without_a_mesh_when_its_label_went", lost),
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

async fn succeeded() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let old = world.agent.take().expect("an agent");
    let before = inode(&world)?;
    // One that cannot run takes nothing away.
    world.launch_agent()?;
    let failed = world.agent.take().expect("an agent");
    ensure!(!failed.wait().await.success() && inode(&world)? == before, "{}", world.log());
    world.admin = "127.0.0.1:15091";
    world.launch_agent()?;
    let until = std::time::Instant::now() + PATIENCE;
    // Both of its sockets, in place of those of the old one.
    while !inode(&world).is_ok_and(|now| now.0 != before.0 && now.1 != before.1) {
        ensure!(std::time::Instant::now() < until, "no second agent: {}", world.log());
        tokio::time::sleep(SOON).await;
    }
    ensure!(old.stop(PATIENCE).await.success(), "{}", world.log());
    let _proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    ensure!(first_line(&pod, world.far()[0]).await?.starts_with("outbound by p"));
    world.bed.shutdown().await;
    Ok(())
}

fn inode(world: &World) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Ok((std::fs::metadata(world.path("zds.sock"))?.ino(), std::fs::metadata(world.path("cni.sock"))?.ino()))
}

async fn at_once() -> anyhow::Result<()> {
    const PODS: usize = 12;
    let mut world = World::start().await?;
    let mut pods = Vec::new();
    {
        let _proxy = world.proxy("p").await?;
        for number in 0..PODS {
            pods.push(world.pod(&format!("web-{number}")).await?);
        }
    }
    world.kill_agent().await;
    for pod in &pods {
        world.flush(pod).await?;
    }
    world.launch_agent()?;
    // As soon as it listens, before it has looked at all of them.
    let proxy = Proxy::connect(&world.path("zds.sock"), "q").await?;
    proxy.wait_for("snapshot").await?;
    let heard = proxy.heard();
    ensure!(heard.len() == PODS + 1 && heard.last().is_some_and(|last| last == "snapshot"), "{heard:?}");
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

async fn served_still() -> anyhow::Result<()> {
    let world = World::start().await?;
    let proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    proxy.linger();
    world.show("next", pod.netns())?;
    world.object("next", Some("ambient"), false)?;
    // Also when it is tried again.
    for _ in 0..2 {
        let (printed, well) = world.plugin("ADD", "next").await?;
        let why = printed["msg"].as_str().unwrap_or_default();
        ensure!(!well && why.contains("a proxy still serves pod uid-web"), "{printed}");
    }
    proxy.go_deaf("uid-web");
    ensure!(world.plugin("ADD", "next").await?.1, "{}", world.log());
    world.until_first_line(&pod, "outbound by p").await?;
    let status = world.until_state("next", "captured").await?;
    ensure!(status["service_account"] == "next", "{status}");
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

async fn found() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.kill_agent().await;
    world.object("web", Some("ambient"), false)?;
    world.object("plain", None, false)?;
    let (pod, _plain) = (world.sandbox("web").await?, world.sandbox("plain").await?);
    world.process(12, "web", pod.netns())?;
    world.start_agent().await?;
    let proxy = world.proxy("p").await?;
    world.until_state("web", "captured").await?;
    for name in ["web", "plain"] {
        let (printed, well) = world.plugin("CHECK", name).await?;
        ensure!(well, "{name}: {printed}\n{}", world.log());
    }
    // What is said of an earlier sandbox of the pod is not said of this one.
    let earlier = world.sandbox("earlier").await?;
    world.show("web", earlier.netns())?;
    let (printed, well) = world.plugin("CHECK", "web").await?;
    ensure!(!well && printed["msg"].as_str().is_some_and(|why| why.contains("is not known")), "{printed}");
    ensure!(world.plugin("DEL", "web").await?.1);
    std::fs::remove_file(world.netns_path("web"))?;
    ensure!(world.plugin("DEL", "web").await?.1);
    ensure!(first_line(&pod, world.far()[0]).await?.starts_with("outbound by p"), "{:?}", proxy.heard());
    world.show("web", pod.netns())?;
    ensure!(world.plugin("CHECK", "web").await?.1, "{}", world.log());
    // It ends: the API server says so first.
    world.gone("web")?;
    ensure!(world.plugin("DEL", "web").await?.1);
    proxy.wait_for("del uid-web").await?;
    world.until("web", "forgotten", |status| status.is_none()).await?;
    ensure!(first_line(&pod, world.far()[0]).await.is_err(), "what still runs in it goes in clear");
    world.bed.shutdown().await;
    Ok(())
}

async fn elsewhere() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.kill_agent().await;
    world.object("web", Some("ambient"), false)?;
    world.object("second", Some("ambient"), false)?;
    let (other, second) = (world.sandbox("other").await?, world.sandbox("second").await?);
    // Its first process does not show a namespace of its own, its next one shows another's.
    world.process(11, "web", world.node.netns())?;
    world.process(12, "web", other.netns())?;
    world.process(13, "second", second.netns())?;
    world.start_agent().await?;
    let proxy = world.proxy("p").await?;
    world.until_state("second", "captured").await?;
    // All are found by one search; it gets the time of another one.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    ensure!(world.status("web").is_none() && !proxy.heard().contains(&"add uid-web".to_owned()), "{:?}", proxy.heard());
    ensure!(first_line(&other, world.far()[0]).await?.starts_with("application sees"), "it is captured as somebody else");
    world.bed.shutdown().await;
    Ok(())
}

async fn lost() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let proxy = world.proxy("p").await?;
    let (pod, kept) = (world.pod("web").await?, world.pod("kept").await?);
    world.process(12, "web", pod.netns())?;
    world.process(13, "kept", kept.netns())?;
    // What others made is not ours to remove.
    world.run(&pod, "nft", &["add", "table", "inet", "others"]).await?;
    world.kill_agent().await;
    drop(proxy);
    for entry in std::fs::read_dir(world.path("sandboxes"))? {
        std::fs::remove_file(entry?.path())?;
    }
    world.object("web", None, false)?;
    for to in world.far() {
        ensure!(first_line(&pod, to).await.is_err(), "nothing refuses its connections");
    }
    // Of one pod nothing is known yet: what is found could be that one's.
    let stranger = r#"{"kind":"Pod","metadata":{"namespace":"late","name":"stranger","uid":"uid-stranger"}}"#;
    std::fs::write(world.path("pods/stranger.json"), stranger)?;
    world.start_agent().await?;
    let proxy = world.proxy("between").await?;
    world.until_state("kept", "captured").await?;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    ensure!(world.rules(&pod).await?.contains("ambit"), "they are removed already");
    drop(proxy);
    std::fs::write(world.path("pods/late.json"), r#"{"kind":"Namespace","metadata":{"name":"late"}}"#)?;
    world.until_first_line(&pod, "application sees").await?;
    ensure!(world.called_from_far(at(pod.ip(), PORT)).await?.first.starts_with("application sees"));
    let rules = world.rules(&pod).await?;
    ensure!(rules.contains("others") && !rules.contains("ambit"), "{rules}");
    let _proxy = world.proxy("q").await?;
    world.until_state("kept", "captured").await?;
    world.until_first_line(&kept, "outbound by q").await?;
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
