//! Labels and pods of the API server, and what becomes of the pods told there.

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use ambit_node_agent::{node::Event, source::PodSource};
use ambit_runtime::netns::NetNs;
use ambit_testbed::trial::test;
use anyhow::ensure;
use libtest_mimic::Trial;
use nlink::netlink::nftables::{Family, NFT_TABLE_F_OWNER};
use serde_json::Value;

use crate::{proxy::Proxy, world::World};

/// How long after the API server is back a label may take to be heard: the longest pause between two attempts is half of it.
const HEARD: Duration = Duration::from_secs(15);

pub fn tests() -> Vec<Trial> {
    vec![
        test("only_pods_of_the_node_are_known_and_a_label_counts_within_a_moment", known),
        test("a_pod_is_pending_until_a_proxy_has_it_enabled_while_it_is_in_the_mesh_and_then_neither", annotated),
        test("a_pod_that_is_cut_off_says_so_and_what_helps_in_an_event_and_each_right_of_the_role_is_needed", cut_off),
        test("while_the_api_server_is_away_all_is_as_it_was_and_afterwards_as_it_became", away),
        test("a_pod_does_not_start_outside_of_the_mesh_by_a_label_that_nobody_confirms", unconfirmed),
        test("without_its_role_nothing_is_known_and_it_says_which_verbs_are_missing", forbidden),
    ]
}

/// The pods that the source knows, and whether they are wanted.
fn pods(world: &World) -> anyhow::Result<Vec<(String, Option<bool>)>> {
    Ok(world.source.pods()?.into_iter().map(|pod| (pod.name, pod.enrolled)).collect())
}

async fn until_pods(world: &World, wanted: &[(&str, Option<bool>)]) -> anyhow::Result<()> {
    let wanted: Vec<_> = wanted.iter().map(|(name, enrolled)| ((*name).to_owned(), *enrolled)).collect();
    let is = async || Ok(pods(world).is_ok_and(|pods| pods == wanted));
    world.until(&format!("{wanted:?}"), is).await.map_err(|error| error.context(format!("{:?}", pods(world))))
}

async fn known() -> anyhow::Result<()> {
    let world = World::start().await?;
    let uid = world.pod("web", "node-1").await?;
    world.pod("elsewhere", "node-2").await?;
    until_pods(&world, &[("web", Some(false))]).await?;
    let found = world.source.pods()?;
    ensure!(found[0].uid == uid && found[0].service_account == "web" && !found[0].ending, "{found:?}");
    let begun = std::time::Instant::now();
    world.mode("ambient").await?;
    until_pods(&world, &[("web", Some(true))]).await?;
    println!("a label of a namespace is known {:?} after kubectl began", begun.elapsed());
    world.api.kubectl(&["label", "pod", "web", "-n", "shop", "istio.io/dataplane-mode=none"]).await?;
    until_pods(&world, &[("web", Some(false))]).await?;
    world.api.kubectl(&["delete", "pod", "web", "-n", "shop", "--force"]).await?;
    until_pods(&world, &[]).await
}

async fn annotated() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.mode("ambient").await?;
    let (uid, netns) = (world.pod("web", "node-1").await?, NetNs::create()?);
    let event = world.event("web", &uid, &netns)?;
    let node = Arc::clone(&world.node);
    let starting = tokio::spawn(async move { node.started(&event).await });
    world.until_annotation("web", Some("pending")).await?;
    let proxy = Proxy::connect(&world.socket(), "p").await?;
    world.until_annotation("web", Some("enabled")).await?;
    // It may have been given up meanwhile, on a slow machine; a runtime tries again.
    let _started = starting.await?;
    // A proxy is replaced.
    drop(proxy);
    let mut statuses = world.node.agent().statuses();
    statuses.wait_for(|pods| pods.get(&uid).is_some_and(|pod| !pod.is_captured())).await?;
    let _proxy = Proxy::connect(&world.socket(), "q").await?;
    statuses.wait_for(|pods| pods.get(&uid).is_some_and(|pod| pod.is_captured())).await?;
    let object = world.object("web").await?;
    ensure!(object["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled", "{object}");
    for _ in 0..2 {
        world.mode("none").await?;
        world.until_annotation("web", None).await?;
        ensure!(!world.node.agent().rules().traces(&netns).await?, "its rules are left");
        world.mode("ambient").await?;
        world.until_annotation("web", Some("enabled")).await?;
    }
    // Another pod of its name is not spoken of.
    world.api.kubectl(&["delete", "pod", "web", "-n", "shop", "--force"]).await?;
    world.pod("web", "node-1").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.until_annotation("web", None).await
}

/// On the way the agent does all that it ever asks the API server for, and nothing that its role does not allow. Without any verb of the
/// role a request of it is refused, and the test fails and names it; so it does when the role has more than that takes. (What the role says
/// of DaemonSets is for the program beside the agent: `ambit/tests/install_cni.rs`.)
async fn cut_off() -> anyhow::Result<()> {
    let (world, account) = World::audited().await?;
    world.mode("ambient").await?;
    let (uid, netns) = (world.pod("web", "node-1").await?, NetNs::create()?);
    let _proxy = Proxy::connect(&world.socket(), "p").await?;
    let event = world.event("web", &uid, &netns)?;
    world.until("it starts", async || Ok(world.node.started(&event).await.is_ok())).await?;
    let nft = take_the_table(&netns).await?;
    let found = until_event(&world, &uid, "CaptureCutOff").await?;
    let note = found["message"].as_str().unwrap_or_default();
    ensure!(found["type"] == "Warning" && note.contains("capture rules") && note.contains("NET_ADMIN"), "{found}");
    drop(nft);
    let found = until_event(&world, &uid, "Captured").await?;
    ensure!(found["type"] == "Normal", "{found}");
    world.until_annotation("web", Some("enabled")).await?;
    // The same once more is said in the event that there is.
    let _nft = take_the_table(&netns).await?;
    world.api.uses_each_right(&account, |right| right.resource != "daemonsets").await?;
    Ok(())
}

/// Puts a table that belongs to another program in the place of ours, for as long as the connection lives.
async fn take_the_table(netns: &NetNs) -> anyhow::Result<nlink::Connection<nlink::Nftables>> {
    let nft = nlink::Connection::<nlink::Nftables>::new_in(netns.as_fd())?;
    let swap = nft.transaction().del_table("ambit-capture", Family::Inet);
    swap.add_table_with_flags("ambit-capture", Family::Inet, NFT_TABLE_F_OWNER).commit(&nft).await?;
    Ok(nft)
}

/// The event of a pod with this reason, as `kubectl get events` has it.
async fn until_event(world: &World, uid: &str, reason: &str) -> anyhow::Result<Value> {
    let mut found = Value::Null;
    world
        .until(reason, async || {
            let events: Value = serde_json::from_str(&world.api.kubectl(&["get", "events", "-n", "shop", "-o", "json"]).await?)?;
            let it = |event: &&Value| event["involvedObject"]["uid"] == uid && event["reason"] == reason;
            found = events["items"].as_array().into_iter().flatten().find(it).cloned().unwrap_or_default();
            Ok(!found.is_null())
        })
        .await?;
    Ok(found)
}

async fn away() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.mode("ambient").await?;
    let (uid, netns) = (world.pod("web", "node-1").await?, NetNs::create()?);
    let _proxy = Proxy::connect(&world.socket(), "p").await?;
    let event = world.event("web", &uid, &netns)?;
    world.until("it starts", async || Ok(world.node.started(&event).await.is_ok())).await?;
    world.until_annotation("web", Some("enabled")).await?;
    world.api.kill_api_server();
    // What has changed since cannot be told afterwards: all has to be asked for anew.
    world.api.compact().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(pods(&world)? == [("web".to_owned(), Some(true))]);
    ensure!(world.node.started(&event).await.is_ok(), "a sandbox of a pod that is known does not start anew");
    ensure!(world.node.agent().statuses().borrow().get(&uid).is_some_and(|pod| pod.is_captured()));
    world.api.start_api_server().await?;
    let back = std::time::Instant::now();
    world.mode("none").await?;
    until_pods(&world, &[("web", Some(false))]).await?;
    let heard = back.elapsed();
    world.until_annotation("web", None).await?;
    println!("a label of a namespace is heard {heard:?} after the API server is back, and counts after {:?}", back.elapsed());
    ensure!(heard < HEARD, "a label of a namespace is heard {heard:?} after the API server is back");
    ensure!(!world.node.agent().rules().traces(&netns).await?, "its rules are left");
    Ok(())
}

async fn unconfirmed() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    let _proxy = Proxy::connect(&world.socket(), "p").await?;
    let (mut events, mut netns) = (Vec::new(), Vec::new());
    for name in ["first", "second", "third"] {
        netns.push(NetNs::create()?);
        events.push(world.event(name, &world.pod(name, "node-1").await?, &netns[netns.len() - 1])?);
    }
    let outside =
        |pods: Vec<(String, Option<bool>)>| pods.len() == 3 && pods.iter().all(|(_, enrolled)| *enrolled == Some(false));
    world.until("all are known", async || Ok(pods(&world).is_ok_and(outside))).await?;
    // It is labelled, and the agent does not hear of it.
    world.go_deaf();
    world.mode("ambient").await?;
    let refused = world.node.started(&events[0]).await.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("are just changing"), "it runs: {refused:?}");
    world.hear();
    world.until("it starts in the mesh", async || Ok(world.node.started(&events[0]).await.is_ok())).await?;
    world.until_annotation("first", Some("enabled")).await?;
    world.mode("none").await?;
    world.until("the label is gone", async || Ok(pods(&world).is_ok_and(outside))).await?;
    world.until("it starts outside of the mesh", async || Ok(world.node.started(&events[1]).await.is_ok())).await?;
    ensure!(!world.node.agent().rules().traces(&netns[1]).await?, "it was captured");
    world.api.kill_api_server();
    let refused = world.node.started(&events[2]).await.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("does not say whether the namespace shop is in the mesh"), "it runs: {refused:?}");
    // One that ran before is started anew as it was.
    let anew = Event { container: "another".to_owned(), ..events[1].clone() };
    world.node.started(&anew).await?;
    Ok(())
}

async fn forbidden() -> anyhow::Result<()> {
    let world = World::without_role().await?;
    world.mode("ambient").await?;
    let (uid, netns) = (world.pod("web", "node-1").await?, NetNs::create()?);
    let event = world.event("web", &uid, &netns)?;
    let why = async || world.node.started(&event).await.err().map(|error| error.to_string()).unwrap_or_default();
    world.until("the verbs that are missing", async || Ok(why().await.contains("verbs list and watch for pods"))).await?;
    ensure!(!world.node.agent().rules().traces(&netns).await?, "it was captured");
    world.allow().await?;
    let _proxy = Proxy::connect(&world.socket(), "p").await?;
    world.until("it starts", async || Ok(world.node.started(&event).await.is_ok())).await?;
    world.until_annotation("web", Some("enabled")).await
}
