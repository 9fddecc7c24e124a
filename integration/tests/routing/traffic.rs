//! What TrafficPolicies and DestinationRules ask for, where a waypoint sends on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ambit_integration::{
    SharedMesh,
    client::{Session, get},
    shared,
    suite::Suite,
    wait,
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use libtest_mimic::Trial;

use super::CLIENT;

/// Much more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(15);

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "an endpoint that fails is given no more requests", ejected),
        shared(mesh, "requests with a header of one value reach one endpoint, and those of many values all", hashed),
        shared(mesh, "a client without the cookie that is hashed is given one that leads where its request went", tabled),
        shared(mesh, "a new endpoint is given its share by and by", grown),
        shared(mesh, "an endpoint that fails its health check is given no requests until it is well", checked),
        shared(mesh, "an endpoint of another zone takes over while the one nearby fails, and no longer", failed_over),
        shared(mesh, "a request beyond the limit is refused, and one after it is not", limited),
    ]
}

/// v1 answers what asks for it with 500, until it is left alone; then it is also by requests that it would answer well.
async fn ejected(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, "shop/tended", 80)?.session().await?;
    let mut failed = 0;
    let alone = async || {
        // Ten in a row from v2 happen once in a thousand while both are asked by chance, and never while they take turns.
        for _ in 0..10 {
            let answer = session.send(get("/").header("x-fail-at", "v1"), Bytes::new()).await;
            let answer = answer.map_err(|error| error.to_string())?;
            if answer.status == 500 {
                failed += 1;
                return Err(format!("{failed} requests failed"));
            }
        }
        Ok(())
    };
    wait::until("v1 is left alone", PATIENCE, alone).await?;
    ensure!(failed >= 3, "it was left alone after {failed} failures");
    for _ in 0..20 {
        let echo = session.get("/").await?.echo()?;
        ensure!(echo.version == "v2", "{} was asked, which is ejected", echo.version);
    }
    Ok(())
}

/// By the header, or by the query where there is no header.
async fn hashed(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, "shop/hashed", 80)?.session().await?;
    let mut versions = BTreeMap::new();
    for _ in 0..3 {
        // That all of so many lead to one of two endpoints happens once in millions.
        for user in 0..24 {
            let user = format!("user-{user}");
            let answer = session.send(get("/").header("x-user", &user), Bytes::new()).await?;
            let version = answer.echo()?.version;
            let before = versions.entry(user.clone()).or_insert_with(|| version.clone());
            ensure!(*before == version, "{user} came to {before} before, and now to {version}");
            let by_query = session.get(&format!("/?user={user}")).await?.echo()?.version;
            ensure!(*before == by_query, "by the query {user} came to {by_query}, and by the header to {before}");
        }
    }
    let reached: BTreeSet<&String> = versions.values().collect();
    ensure!(reached.iter().map(|version| version.as_str()).eq(["v1", "v2"]), "{versions:?}");
    Ok(())
}

async fn tabled(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, "shop/tabled", 80)?.session().await?;
    let first = session.get("/").await?;
    let told = first.header("set-cookie").context("it is given no cookie")?.to_owned();
    ensure!(told.starts_with("user=\"") && told.contains("; Max-Age=60; Path=/; SameSite=Lax"), "{told}");
    let says = told.split(';').next().unwrap_or_default().to_owned();
    let version = first.echo()?.version;
    for _ in 0..10 {
        let answer = session.send(get("/").header("cookie", &says), Bytes::new()).await?;
        ensure!(answer.header("set-cookie").is_none(), "it is given another one: {:?}", answer.headers);
        let reached = answer.echo()?.version;
        ensure!(reached == version, "the first request came to {version}, and one with its cookie to {reached}");
    }
    Ok(())
}

/// The window of the Service's slow start is 5 seconds.
async fn grown(suite: &Suite) -> anyhow::Result<()> {
    const FILE: &str = "30-traffic.yaml";
    let mut session = suite.client(CLIENT, "shop/growing", 80)?.session().await?;
    for _ in 0..10 {
        let echo = session.get("/").await?.echo()?;
        ensure!(echo.version == "v1", "{} was asked, which is no endpoint", echo.version);
    }
    let original = suite.original(FILE)?;
    suite.apply(FILE, &original.replace("selector: {version: v1, app: echo}", "selector: {app: echo}"))?;
    let began = async || {
        let version = session.get("/").await.and_then(|answer| answer.echo()).map_err(|error| error.to_string())?.version;
        if version == "v2" { Ok(()) } else { Err(format!("{version} answers")) }
    };
    wait::until("the new endpoint answers for the first time", PATIENCE, began).await?;
    // In a hundred requests.
    let mut seen = vec![share_of_new(&mut session).await?];
    // A tenth of the other's share is 9 of them, and half of it 33.
    ensure!(seen[0] < 33, "{} of 100 requests came to a new endpoint", seen[0]);
    let until = Instant::now() + PATIENCE;
    while seen.last().is_some_and(|share| *share < 42) {
        ensure!(Instant::now() < until, "its share does not grow: {seen:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
        seen.push(share_of_new(&mut session).await?);
    }
    println!("of 100 requests each, these came to the new endpoint: {seen:?}");
    ensure!(seen.last().is_some_and(|share| *share <= 58), "{seen:?}");
    suite.apply(FILE, &original)
}

async fn share_of_new(session: &mut Session) -> anyhow::Result<u32> {
    let mut new = 0;
    for _ in 0..100 {
        new += u32::from(session.get("/").await?.echo()?.version == "v2");
    }
    Ok(new)
}

/// v1 says that it is not well, and then that it is.
async fn checked(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, "shop/checked", 80)?.session().await?;
    let first = suite.client(CLIENT, "shop/checked-v1", 80)?;
    for (says, expected) in [("/healthz/pass", "v1 v2"), ("/healthz/fail", "v2"), ("/healthz/pass", "v1 v2")] {
        let answer = first.get(says).await?;
        ensure!(answer.status == 200, "{says}: {} {:?}", answer.status, answer.body);
        let answered = async || {
            let mut versions = BTreeSet::new();
            for _ in 0..10 {
                let answer = session.get("/").await.and_then(|answer| answer.echo()).map_err(|error| error.to_string())?;
                versions.insert(answer.version);
            }
            let versions = versions.into_iter().collect::<Vec<_>>().join(" ");
            if versions == expected { Ok(()) } else { Err(format!("{versions} answered")) }
        };
        wait::until(&format!("{expected} answers alone after {says}"), PATIENCE, answered).await?;
    }
    Ok(())
}

/// Whoever answers first is near the waypoint. It is asked again a second after it was ejected.
async fn failed_over(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, "shop/placed", 80)?.session().await?;
    let near = session.get("/").await?.echo()?.version;
    for _ in 0..20 {
        let echo = session.get("/").await?.echo()?;
        ensure!(echo.version == near, "{} was asked as well as {near}", echo.version);
    }
    let over = async || {
        for _ in 0..10 {
            let answer = session.send(get("/").header("x-fail-at", near.as_str()), Bytes::new()).await;
            let answer = answer.map_err(|error| error.to_string())?;
            if answer.status == 500 {
                return Err(format!("{near} was asked"));
            }
        }
        Ok(())
    };
    wait::until("the endpoint of the other zone takes over", PATIENCE, over).await?;
    let back = async || {
        for _ in 0..10 {
            let echo = session.get("/").await.and_then(|answer| answer.echo()).map_err(|error| error.to_string())?;
            if echo.version != near {
                return Err(format!("{} was asked", echo.version));
            }
        }
        Ok(())
    };
    wait::until("the one nearby is asked alone again", PATIENCE, back).await.map(drop)
}

/// The service takes one request at once. While the pod is slow with it, another one is refused.
async fn limited(suite: &Suite) -> anyhow::Result<()> {
    const KEY: &str = "limited";
    let narrow = suite.client(CLIENT, "shop/narrow", 80)?;
    let mut first = narrow.session().await?;
    let slow = get("/slow").header("x-key", KEY).header("x-fail-first", "1000000").header("x-fail-with", "slow");
    // By another service the same pod tells what it was asked before.
    let mut around = suite.client(CLIENT, "shop/plain", 80)?.session().await?;
    let second = async {
        let arrived = async || {
            let answer = around.send(get("/around").header("x-key", KEY), Bytes::new()).await;
            let echo = answer.and_then(|answer| answer.echo()).map_err(|error| error.to_string())?;
            if echo.previous.contains("/slow") { Ok(()) } else { Err(format!("before that came {:?}", echo.previous)) }
        };
        wait::until("the first request reaches the pod", PATIENCE, arrived).await?;
        narrow.get("/second").await
    };
    let refused = tokio::select! {
        answer = first.send(slow, Bytes::new()) => anyhow::bail!("it was not slow: {answer:?}"),
        refused = second => refused?,
    };
    ensure!(refused.status == 503, "{} {:?}", refused.status, refused.body);
    ensure!(refused.header("x-served-by").is_none(), "the pod answered: {:?}", refused.headers);
    // The client of the first one has left.
    drop(first);
    let free = async || {
        let answer = narrow.get("/third").await.map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.status.to_string()) }
    };
    wait::until("there is room again", PATIENCE, free).await.map(drop)
}
