//! Faults that are put in the way of requests, and limits of how often they may come and how large they may be.

use std::time::{Duration, Instant};

use ambit_integration::{
    SharedMesh,
    client::{Answer, get},
    shared,
    suite::Suite,
};
use anyhow::ensure;
use bytes::Bytes;
use libtest_mimic::Trial;

use super::{CLIENT, ECHO, OTHER};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "what a fault is for is answered without the service, or late, and nothing else", faults),
        shared(mesh, "beyond its burst a rule refuses, however a request matches it, and others do not", limit),
        shared(mesh, "each identity and each value of a header has a limit of its own", limit_of_each),
        shared(mesh, "a body that is longer than its route lets pass is refused, and one that is just so long is not", sizes),
    ]
}

async fn ask(suite: &Suite, from: &str, path: &str, header: Option<(&str, &str)>) -> anyhow::Result<Answer> {
    let request = header.into_iter().fold(get(path), |request, (name, value)| request.header(name, value));
    suite.client(from, ECHO, 80)?.session().await?.send(request, Bytes::new()).await
}

async fn faults(suite: &Suite) -> anyhow::Result<()> {
    let broken = ask(suite, CLIENT, "/broken", Some(("x-fault", "abort"))).await?;
    ensure!(broken.status == 503 && broken.body == "fault filter abort", "{broken:?}");
    for header in [None, Some(("x-fault", "delay"))] {
        let answer = ask(suite, CLIENT, "/broken", header).await?;
        ensure!(answer.status == 200 && answer.echo().is_ok(), "{header:?}: {answer:?}");
    }
    let began = Instant::now();
    let slow = ask(suite, CLIENT, "/slow", Some(("x-fault", "wait"))).await?;
    ensure!(slow.status == 200 && slow.echo().is_ok(), "{slow:?}");
    ensure!(began.elapsed() >= Duration::from_millis(700), "it came after {:?}", began.elapsed());
    Ok(())
}

async fn sizes(suite: &Suite) -> anyhow::Result<()> {
    for (path, length, status) in [("/small", 16, 200), ("/small", 17, 413), ("/first", 17, 200)] {
        let body = Bytes::from("x".repeat(length));
        let answer = suite.client(CLIENT, ECHO, 80)?.session().await?.send(get(path).method("POST"), body).await?;
        ensure!(answer.status == status, "{path} with {length} bytes: {answer:?}");
    }
    Ok(())
}

/// How many of five requests are let through; the others must be refused as what comes too often is.
async fn passing(suite: &Suite, from: &str, path: &str, header: Option<(&str, &str)>) -> anyhow::Result<usize> {
    let mut passed = 0;
    for _ in 0..5 {
        let answer = ask(suite, from, path, header).await?;
        let refused = answer.status == 429 && answer.body == "local_rate_limited";
        ensure!(refused || answer.status == 200 && answer.echo().is_ok(), "{path} {header:?}: {answer:?}");
        let again = answer.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
        ensure!(refused == again.is_some_and(|seconds| (1..=3600).contains(&seconds)), "{path} {header:?}: {answer:?}");
        ensure!(!refused || passed > 0, "{path} {header:?}: not even the first one passed");
        passed += usize::from(!refused);
    }
    Ok(passed)
}

async fn limit(suite: &Suite) -> anyhow::Result<()> {
    let passed = passing(suite, CLIENT, "/limited", None).await?;
    ensure!(passed == 3, "{passed} of 5 passed, and 3 were to");
    for (from, path) in [(CLIENT, "/limited-too"), (OTHER, "/limited")] {
        let answer = ask(suite, from, path, None).await?;
        ensure!(answer.status == 429, "{from} {path}: {answer:?}");
    }
    let others = passing(suite, CLIENT, "/first", None).await?;
    ensure!(others == 5, "{others} of 5 passed where there is no limit");
    Ok(())
}

async fn limit_of_each(suite: &Suite) -> anyhow::Result<()> {
    for (from, path, header) in [
        (CLIENT, "/each", None),
        (OTHER, "/each", None),
        (CLIENT, "/by-header", Some(("x-user", "ann"))),
        (CLIENT, "/by-header", Some(("x-user", "bob"))),
        (CLIENT, "/by-header", None),
    ] {
        let passed = passing(suite, from, path, header).await?;
        ensure!(passed == 2, "{from} {path} {header:?}: {passed} of 5 passed, and 2 were to");
    }
    for (from, header) in [(OTHER, Some(("x-user", "ann"))), (OTHER, None)] {
        let answer = ask(suite, from, "/by-header", header).await?;
        ensure!(answer.status == 429, "{from} {header:?}: {answer:?}");
    }
    Ok(())
}
