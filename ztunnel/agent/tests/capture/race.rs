//! A pod's label goes while the runtime starts it anew: whichever of the two comes last, what is kept has its rules. And a look at the
//! labels may be long ago when it is a pod's turn.

use std::{
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use ambit_node_agent::{
    Agent, Error, PodInfo,
    discover::Before,
    node::{Event, Node},
    records::Records,
    rules::{Choice, Rules, table::Capture},
    source::{PodFacts, PodSource},
};
use ambit_runtime::netns::NetNs;
use anyhow::ensure;
use libtest_mimic::Trial;
use tokio::task::JoinSet;

use crate::{proxy::Proxy, test};

/// Often enough that one of them would meet the other in between.
const TIMES: u32 = 40;

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_pod_that_is_let_go_and_captured_at_once_has_its_rules_if_it_is_kept", at_once),
        test("nobody_is_let_go_by_a_look_that_is_out_of_date", out_of_date),
    ]
}

async fn at_once() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let agent = Arc::new(Agent::listen(&directory.path().join("zds.sock"), Rules::new(Choice::Nftables, Capture::default()))?);
    let netns = NetNs::create()?;
    let info =
        PodInfo { uid: "u".to_owned(), name: "web".to_owned(), namespace: "shop".parse()?, service_account: "web".parse()? };
    let mut kept = 0;
    for time in 0..TIMES {
        agent.add(info.clone(), netns.clone()).await?;
        // On two threads, as in `ambit up`.
        let (runtime, again, same) = (Arc::clone(&agent), info.clone(), netns.clone());
        let added = tokio::spawn(async move {
            // At another point of the other one each time.
            tokio::time::sleep(Duration::from_micros(u64::from(time) * 250)).await;
            runtime.add(again, same).await
        });
        agent.remove("u").await?;
        let added = added.await?;
        let there = agent.pods().contains(&"u".to_owned());
        let faults = agent.rules().faults(&netns).await?;
        ensure!(!there || faults.is_empty(), "time {time}: it is kept ({added:?}) without {faults:?}");
        ensure!(there || !faults.is_empty(), "time {time}: it is let go and has its rules");
        kept += u32::from(there);
    }
    ensure!(kept > 0, "the runtime never came last");
    Ok(())
}

/// A pod whose label goes and comes back before anything is done about it, at every other question.
#[derive(Default)]
struct Wavering {
    wavers: AtomicBool,
    asked: AtomicU32,
}

impl PodSource for Wavering {
    fn pods(&self) -> Result<Vec<PodFacts>, Error> {
        let gone = self.wavers.load(Ordering::Relaxed) && self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        Ok(vec![PodFacts {
            uid: "u".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            service_account: "web".to_owned(),
            enrolled: Some(!gone),
            ending: false,
        }])
    }
}

async fn out_of_date() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("zds.sock");
    let agent = Agent::bind(&socket, Rules::new(Choice::Nftables, Capture::default()))?;
    let records = Records::open(&directory.path().join("sandboxes"))?;
    let before = Before { proc: directory.path().join("proc"), host: NetNs::current()? };
    let source = Arc::new(Wavering::default());
    let told = Arc::<Wavering>::clone(&source);
    let node = Arc::new(Node::start(agent, told, records, Vec::new(), before).await);
    let _proxy = Proxy::connect(&socket, "p").await?;
    let netns = NetNs::create()?;
    let event = Event {
        netns: format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()).into(),
        pod_name: "web".to_owned(),
        pod_namespace: "shop".to_owned(),
        container: "sandbox".to_owned(),
        uid: "u".to_owned(),
    };
    node.started(&event).await?;
    let mut tasks = JoinSet::new();
    let following = Arc::clone(&node);
    tasks.spawn(async move { following.follow().await });
    let mut statuses = node.agent().statuses();
    source.wavers.store(true, Ordering::Relaxed);
    // Some looks.
    let kept = tokio::time::timeout(Duration::from_secs(4), statuses.wait_for(|pods| !pods.contains_key("u"))).await.is_err();
    ensure!(kept, "it was let go, though it was in the mesh when that was done");
    let asked = source.asked.load(Ordering::Relaxed);
    ensure!(asked >= 4, "asked {asked} times only");
    ensure!(node.agent().rules().faults(&netns).await?.is_empty(), "its rules are gone");
    Ok(())
}
