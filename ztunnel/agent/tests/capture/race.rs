//! A pod's label goes while the runtime starts it anew: whichever of the two comes last, what is kept has its rules.

use ambit_node_agent::{
    Agent, PodInfo,
    rules::{Choice, Rules, table::Capture},
};
use ambit_runtime::netns::NetNs;
use anyhow::ensure;
use libtest_mimic::Trial;

use crate::test;

/// Often enough that one of them would meet the other in between.
const TIMES: u32 = 40;

pub fn tests() -> Vec<Trial> {
    vec![test("a_pod_that_is_let_go_and_captured_at_once_has_its_rules_if_it_is_kept", at_once)]
}

async fn at_once() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let agent = Agent::listen(&directory.path().join("zds.sock"), Rules::new(Choice::Nftables, Capture::default()))?;
    let netns = NetNs::create()?;
    let info =
        PodInfo { uid: "u".to_owned(), name: "web".to_owned(), namespace: "shop".parse()?, service_account: "web".parse()? };
    let mut kept = 0;
    for time in 0..TIMES {
        agent.add(info.clone(), netns.clone()).await?;
        let added = async {
            // At another point of the other one each time.
            tokio::time::sleep(std::time::Duration::from_micros(u64::from(time) * 250)).await;
            agent.add(info.clone(), netns.clone()).await
        };
        let (removed, added) = tokio::join!(agent.remove("u"), added);
        removed?;
        // Nothing has awaited since: no keeper has repaired anything.
        let there = agent.pods().contains(&"u".to_owned());
        let faults = agent.rules().faults(&netns).await?;
        ensure!(!there || faults.is_empty(), "time {time}: it is kept ({added:?}) without {faults:?}");
        ensure!(there || !faults.is_empty(), "time {time}: it is let go and has its rules");
        kept += u32::from(there);
    }
    ensure!(kept > 0, "the runtime never came last");
    Ok(())
}
