//! What the admin page of our waypoint says of a request is what becomes of the request.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::Suite;
use crate::client::{get, over, request};
use crate::mesh::{Driver, Mesh, identity};
use crate::objects::{BILLING, LOCKED, authority_over};

/// An account, a method, a path, a header, and the service asked.
type Case = (&'static str, &'static str, &'static str, Option<(&'static str, &'static str)>, &'static str);

const CASES: [Case; 22] = [
    ("web", "GET", "/v1", None, BILLING),
    ("web", "PUT", "/v1", None, BILLING),
    ("web", "GET", "/v1/v2?version=v2", None, BILLING),
    ("web", "GET", "/v1?version=v2", None, BILLING),
    ("web", "GET", "/v1", Some(("x-version", "v2")), BILLING),
    ("web", "GET", "/v1", Some(("x-re", "v7")), BILLING),
    ("web", "GET", "/re/abc/v2", None, BILLING),
    ("web", "GET", "/split", None, BILLING),
    ("web", "GET", "/headers", Some(("x-remove", "me")), BILLING),
    ("web", "GET", "/rewrite/prefix/a", None, BILLING),
    ("web", "GET", "/redirect/a?b", None, BILLING),
    ("web", "GET", "/invalid", None, BILLING),
    ("web", "GET", "/none", None, BILLING),
    ("web", "GET", "/empty", None, BILLING),
    ("web", "GET", "/consumer", None, BILLING),
    ("tests/web", "GET", "/consumer", None, BILLING),
    ("intruder", "GET", "/v1/../secret", None, BILLING),
    ("intruder", "GET", "/v1", None, BILLING),
    ("web", "GET", "/open/1", None, LOCKED),
    ("web", "POST", "/open/1", None, LOCKED),
    ("other", "GET", "/open/1", None, LOCKED),
    ("other", "GET", "/by-address", None, LOCKED),
];

pub fn tests(suite: &mut Suite) {
    if suite.driver == Driver::Ambit {
        suite.test("its admin page explains each request as it ends", each);
    }
}

async fn each(mesh: &Mesh) -> anyhow::Result<()> {
    let mut ends = std::collections::BTreeSet::new();
    for (account, method, path, header, service) in CASES {
        let told = explained(mesh, (account, method, path, header, service)).await?;
        let answer = mesh.request(account, service, 80, request(method, path, header.as_slice())).await?;
        let what =
            || format!("{account} {method} {path} {header:?}: answered {} by {}, and told {told:#}", answer.status, answer.pod());
        ensure!(told["status"].as_u64().unwrap_or(200) == u64::from(answer.status), what());
        let reason = answer.headers.get("x-ambit-reason").and_then(|reason| reason.to_str().ok());
        ensure!(reason.is_none() || told["reason"].as_str() == reason, what());
        if told["status"].is_null() {
            let pod = format!("shop/{}", answer.pod());
            let clusters = told["clusters"].as_array().into_iter().flatten();
            let mut endpoints = clusters.flat_map(|cluster| cluster["endpoints"].as_array().into_iter().flatten());
            ensure!(endpoints.any(|endpoint| endpoint["workload"] == *pod && endpoint["usable"] == true), what());
        }
        by_itself(mesh, (account, method, path, header, service), &told).await?;
        ends.insert(answer.status);
    }
    ensure!(
        [200, 301, 403, 404, 500, 503].iter().all(|status| ends.contains(status)),
        "not every kind of end was seen: {ends:?}"
    );
    Ok(())
}

/// The same asked with the request: an administrator is told what the page says, and what has happened; to anybody else it is as if he had
/// not asked.
async fn by_itself(mesh: &Mesh, (account, method, path, header, service): Case, told: &Value) -> anyhow::Result<()> {
    let ask = async |how: &'static str| {
        let headers: Vec<_> = header.into_iter().chain([("x-ambit-explain", how)]).collect();
        mesh.request(account, service, 80, request(method, path, &headers)).await
    };
    let (explained, beside) = (ask("answer").await?, ask("beside").await?);
    let what = || format!("{account} {method} {path} {header:?}: {} {:?}", explained.status, beside.headers);
    ensure!(u64::from(beside.status) == told["status"].as_u64().unwrap_or(200), what());
    if account != "web" {
        ensure!(explained.status == beside.status, what());
        ensure!([&explained, &beside].iter().all(|answer| !answer.headers.contains_key("x-ambit-explained")), what());
        return Ok(());
    }
    ensure!(explained.status == 200 && explained.headers.get("x-ambit-explained").is_some_and(|said| said == "answer"), what());
    let said: Value = serde_json::from_str(&explained.body)?;
    for part in ["verdict", "chain", "route", "status", "reason", "policy", "steps"] {
        ensure!(said["explanation"][part] == told[part], "{}: {part}: {said:#} and not {told:#}", what());
    }
    let happened = beside.headers.get("x-ambit-explained").with_context(what)?;
    let happened: Value = serde_json::from_str(happened.to_str()?)?;
    ensure!(happened["status"] == beside.status, "{}: {happened:#}", what());
    // Of what policies refuse it is not explained which route would have taken it.
    ensure!(told["route"].is_null() || happened["route"] == told["route"], "{}: {happened:#}", what());
    if told["status"].is_null() {
        let pod = format!("shop/{}", beside.pod());
        ensure!(happened["endpoint"]["workload"] == *pod && !beside.body.is_empty(), "{}: {happened:#}", what());
    }
    Ok(())
}

/// What the page says.
async fn explained(mesh: &Mesh, (account, method, path, header, service): Case) -> anyhow::Result<Value> {
    let destination = authority_over(mesh.bed.families(), &format!("{service}:80"));
    let mut query = format!(
        "/explain?identity={}&address={}&destination={destination}&method={method}&host=billing.shop&path={}",
        identity(account),
        mesh.client.ip(),
        path.replace('?', "%3F").replace('=', "%3D"),
    );
    if let Some((name, value)) = header {
        query += &format!("&headers={name}%3A{value}");
    }
    let admin = mesh.waypoint.connect(([127, 0, 0, 1], 15000).into()).await?;
    let (status, _, body) = over(admin, get(&query)).await?;
    let mut answer: Value = serde_json::from_str(&body).with_context(|| format!("answered {status} {body}"))?;
    ensure!(status == 200, "{query}: {answer}");
    Ok(answer["explanation"].take())
}
