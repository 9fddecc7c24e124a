//! What VirtualServices say of requests.

use ambit_integration::{SharedMesh, client::get, shared, suite::Suite};
use anyhow::ensure;
use bytes::Bytes;
use libtest_mimic::Trial;

use super::CLIENT;

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "a VirtualService routes requests in the order of its rules, and what it cannot say is refused", routed),
        shared(mesh, "a call has as much time as its client, no more than its route gives, and its backend is told", deadline),
        shared(mesh, "a VirtualService leads to the endpoints of a subset alone", subset),
    ]
}

/// Of both pods that the Service has; without the subset they would take turns.
async fn subset(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, "shop/virtual", 80)?.session().await?;
    for turn in 0..10 {
        let echo = session.get("/subset").await?.echo()?;
        ensure!(echo.version == "v2", "request {turn}: {echo:?}");
    }
    Ok(())
}

/// Ours counts from when the call came, so that it may be told a little less.
async fn deadline(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, "shop/virtual", 80)?.session().await?;
    for (said, most) in [(Some("5S"), 5000), (Some("1H"), 10_000), (Some("never"), 10_000), (None, 10_000)] {
        let call = get("/v1/call").header("content-type", "application/grpc").header("te", "trailers");
        let call = said.iter().fold(call, |call, said| call.header("grpc-timeout", *said));
        let echo = session.send(call, Bytes::new()).await?.echo()?;
        let told = echo.headers.get("grpc-timeout").and_then(|told| told.strip_suffix('m')?.parse::<u64>().ok());
        ensure!(told.is_some_and(|told| told <= most), "{said:?}: {echo:?}");
        ensure!(most == 5000 || told == Some(most), "the time of the rule: {echo:?}");
    }
    let call = get("/v1/call").header("grpc-timeout", "1n");
    let echo = session.send(call, Bytes::new()).await?.echo()?;
    ensure!(echo.headers.get("grpc-timeout").is_some_and(|told| told == "1n"), "it is no call: {echo:?}");
    Ok(())
}

async fn routed(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, "shop/virtual", 80)?.session().await?;
    let answer = session.get("/v1/a?who=jim").await?;
    let echo = answer.echo()?;
    ensure!((echo.version.as_str(), echo.path.as_str()) == ("v1", "/new/a?who=jim"), "{echo:?}");
    let header = |name: &str| echo.headers.get(name).map(String::as_str);
    ensure!((header("host"), header("x-set")) == (Some("rewritten.example"), Some("virtual")), "{echo:?}");
    ensure!(answer.header("x-added") == Some("virtual"), "{:?}", answer.headers);
    ensure!(header("x-envoy-expected-rq-timeout-ms") == Some("10000"), "the time of the rule: {echo:?}");

    let answer = session.send(get("/v1/b?who=jim").header("x-skip", "yes"), Bytes::new()).await?;
    let echo = answer.echo()?;
    ensure!((echo.version.as_str(), echo.path.as_str()) == ("v2", "/v1/b?who=jim"), "{echo:?}");

    let answer = session.get("/moved?a=b").await?;
    let location = answer.header("location").unwrap_or_default().to_owned();
    ensure!(answer.status == 307 && location.starts_with("http://other.example/there"), "{} {location}", answer.status);
    for (path, status, body) in
        [("/closed", 418, "no coffee"), ("/fails/x", 509, ""), ("/lost", 500, ""), ("/not", 500, ""), ("/elsewhere", 404, "")]
    {
        let answer = session.get(path).await?;
        ensure!(answer.status == status, "{path}: {} and not {status}", answer.status);
        ensure!(answer.header("x-served-by").is_none(), "{path}: a pod answered: {:?}", answer.headers);
        ensure!(body.is_empty() || answer.body == body.as_bytes(), "{path}: {:?}", answer.body);
    }
    Ok(())
}
