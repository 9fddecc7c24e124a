//! A change of the watched directory: how fast it is in force, and what a broken file does.

use std::time::Duration;

use ambit_integration::{SharedMesh, shared, suite::Suite, wait};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;

use super::{CLIENT, ECHO};

const ROUTES: &str = "20-routes.yaml";

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "a file with an error is explained by file, line and reason, and changes nothing", broken),
        shared(mesh, "a new weight is in force within a second and kept within 5 points over 2,000 requests", weight),
    ]
}

/// The share of v2, in percent, over `requests` requests to the split path.
pub async fn share_of_v2(suite: &Suite, requests: u32) -> anyhow::Result<f64> {
    let mut session = suite.client(CLIENT, ECHO, 80)?.session().await?;
    let mut v2 = 0;
    for _ in 0..requests {
        v2 += u32::from(session.get("/split").await?.echo()?.version == "v2");
    }
    Ok(f64::from(v2) * 100.0 / f64::from(requests))
}

async fn weight(suite: &Suite) -> anyhow::Result<()> {
    let changed = suite.original(ROUTES)?.replace("weight: 95", "weight: 0").replace("weight: 5}", "weight: 1}");
    suite.apply(ROUTES, &changed)?;
    let mut session = suite.client(CLIENT, ECHO, 80)?.session().await?;
    // Ten in a row from v2 happen once in 10^13 with the old weights.
    let followed = async || {
        for _ in 0..10 {
            let version =
                session.get("/split").await.and_then(|answer| answer.echo()).map_err(|error| error.to_string())?.version;
            if version != "v2" {
                return Err(format!("{version} still answers"));
            }
        }
        Ok(())
    };
    let (_, took) = wait::until("the new weights", Duration::from_secs(5), followed).await?;
    ensure!(took < Duration::from_secs(1), "it took {took:?}");
    let even = suite.original(ROUTES)?.replace("weight: 95", "weight: 50").replace("weight: 5}", "weight: 50}");
    suite.apply(ROUTES, &even)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let share = share_of_v2(suite, 2000).await?;
    ensure!((45.0..=55.0).contains(&share), "{share} % went to v2, not 50");
    suite.apply(ROUTES, &suite.original(ROUTES)?)
}

async fn broken(suite: &Suite) -> anyhow::Result<()> {
    let original = suite.original(ROUTES)?;
    let line = original.lines().position(|line| line.contains("weight: 95")).context("the weight's line")? + 1;
    suite.apply(ROUTES, &original.replace("weight: 95", "weight: ninety"))?;
    let explained = async || {
        let errors = suite.mesh.source_errors().await.map_err(|error| error.to_string())?.to_string();
        let wanted = [ROUTES, "weight", &line.to_string()];
        if wanted.iter().all(|part| errors.contains(part)) { Ok(()) } else { Err(format!("{errors} lacks one of {wanted:?}")) }
    };
    wait::until("the control plane explains the error", Duration::from_secs(3), explained).await?;
    let share = share_of_v2(suite, 400).await?;
    ensure!((0.0..=12.0).contains(&share), "{share} % went to v2: the broken file was taken");
    suite.apply(ROUTES, &original)?;
    let recovered = async || {
        let errors = suite.mesh.source_errors().await.map_err(|error| error.to_string())?.to_string();
        if errors.contains(ROUTES) { Err(errors) } else { Ok(()) }
    };
    wait::until("the error is withdrawn", Duration::from_secs(3), recovered).await.map(drop)
}
