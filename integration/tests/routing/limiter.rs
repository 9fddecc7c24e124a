//! Limits that a server counts: what it is asked, and what becomes of a request by each answer.

use std::time::Duration;

use ambit_integration::{
    SharedMesh,
    client::{Answer, Client},
    shared,
    suite::Suite,
    wait,
};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{CLIENT, ECHO, OTHER, authorizer::ask};

/// A server of limits has its endpoints once the mesh is up.
const THERE: Duration = Duration::from_secs(15);

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "asks a rate limit server for the descriptors of a request, and does what it says", counted),
        shared(mesh, "lets pass without an answer of a rate limit server, unless its provider says otherwise", unanswered),
    ]
}

async fn reached(client: &Client, path: &str) -> anyhow::Result<()> {
    let reached = async || match ask(client, path, &[("x-verdict", "within")], "").await {
        Ok(answer) if answer.header("x-asked").is_some() => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    wait::until("the rate limit server to be reached", THERE, reached).await.map(drop)
}

/// What the server says that it was asked.
fn asked(answer: &Answer) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(answer.header("x-asked").context("x-asked")?)?)
}

async fn counted(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    reached(&client, "/counted").await?;
    let told = [("x-user", "ann"), ("x-user", "bob"), ("x-team", "red"), ("x-verdict", "within")];
    let answer = ask(&client, "/counted", &told, "").await?;
    let seen = asked(&answer)?;
    let identity = "spiffe://cluster.local/ns/callers/sa/client";
    let address = seen["descriptors"][1][1][1].as_str().unwrap_or_default().to_owned();
    ensure!(suite.pod(CLIENT)?.ips().iter().any(|ip| ip.to_string() == address), "{address:?} is not the client's: {seen}");
    let expected = json!({"domain": "shop", "hits": 1, "descriptors": [
        [["policy", "shop/counted"], ["identity", identity], ["user", "ann"], ["verdict", "within"]],
        [["plan", "gold"], ["remote_address", address]],
        [["generic_key", "all"], ["x-team", "red"]],
    ]});
    ensure!(seen == expected, "{seen}");
    let echo = answer.echo()?;
    let of_request = |name: &str| echo.headers.get(name).map(String::as_str).unwrap_or_default();
    let told = seen.to_string();
    ensure!(of_request("x-asked") == told && of_request("x-user").contains("limiter"), "{echo:?}");
    ensure!(answer.status == 200 && answer.header("x-left") == Some("7"), "{answer:?}");
    ensure!(answer.header("x-envoy-ratelimited").is_none(), "{answer:?}");
    // What a request lacks is left out, or it is not counted so at all.
    let answer = ask(&suite.client(OTHER, ECHO, 80)?, "/counted", &[], "").await?;
    let seen = asked(&answer)?;
    let descriptors = seen["descriptors"].as_array().context("descriptors")?;
    let other = json!([["policy", "shop/counted"], ["identity", identity.replace("client", "other")]]);
    ensure!(descriptors.len() == 2 && descriptors.first() == Some(&other), "{seen}");
    let answer = ask(&client, "/counted", &[("x-verdict", "over")], "").await?;
    ensure!(answer.status == 429 && answer.body == b"slow down: \xff"[..], "{answer:?}");
    ensure!(answer.header("x-envoy-ratelimited") == Some("true") && answer.header("x-left") == Some("7"), "{answer:?}");
    let answer = ask(&client, "/counted", &[("x-verdict", "over"), ("content-type", "application/grpc")], "").await?;
    ensure!(answer.status == 200 && answer.header("grpc-status") == Some("8"), "{answer:?}");
    Ok(())
}

async fn unanswered(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    reached(&client, "/strictly").await?;
    for (path, verdict, status) in [
        ("/counted", "fail", 200),
        ("/strictly", "fail", 503),
        ("/strictly", "slow", 503),
        ("/strictly", "over", 429),
        ("/lost", "over", 200),
        ("/needed", "within", 500),
    ] {
        let answer = ask(&client, path, &[("x-verdict", verdict)], "").await?;
        ensure!(answer.status == status, "{path} {verdict}: {answer:?}");
        ensure!((status == 200) == answer.echo().is_ok(), "{path} {verdict}: {answer:?}");
        let told = answer.header("x-envoy-ratelimited").is_some();
        ensure!(told == (status == 429), "{path} {verdict}: {answer:?}");
    }
    // Of what it has none nobody is asked.
    let answer = ask(&client, "/strictly", &[], "").await?;
    ensure!(answer.status == 200 && answer.header("x-asked").is_none(), "{answer:?}");
    Ok(())
}
