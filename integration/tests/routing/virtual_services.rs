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
        shared(mesh, "a call is sent again after the statuses that a VirtualService names where it may arrive twice", calls),
    ]
}

/// A case: Service, method, how the first tries end and how many do, then the status of the call, if its answer's head has one, and how often the
/// service was asked.
type Call<'a> = (&'a str, &'a str, &'a str, u32, Option<&'a str>, u32);

const CALLS: [Call<'_>; 8] = [
    ("shop/calls", "POST", "grpc-14", 1, None, 2),
    ("shop/calls", "POST", "grpc-1", 2, None, 3),
    ("shop/calls", "POST", "grpc-14", 9, Some("14"), 3),
    ("shop/calls", "POST", "grpc-13", 1, Some("13"), 1),
    ("shop/calls", "GET", "grpc-14", 1, None, 2),
    // That it was answered so does not say that nothing was done.
    ("shop/virtual", "POST", "grpc-14", 1, Some("14"), 1),
    ("shop/virtual", "GET", "grpc-14", 1, None, 2),
    ("shop/virtual", "GET", "grpc-13", 1, Some("13"), 1),
];

async fn calls(suite: &Suite) -> anyhow::Result<()> {
    for (number, &(service, method, ending, first, status, tries)) in CALLS.iter().enumerate() {
        let what = format!("{method} of {service}, {first} times {ending}");
        let key = format!("calls {number}");
        let request = || get("/calls").header("x-key", &key);
        let call = request().method(method).header("content-type", "application/grpc").header("te", "trailers");
        let call = call.header("x-fail-first", first).header("x-fail-with", ending);
        let answer = suite.client(CLIENT, service, 80)?.send(call).await?;
        ensure!(answer.status == 200 && answer.header("grpc-status") == status, "{what}: {answer:?}");
        if status.is_none() {
            ensure!(answer.echo()?.count == tries, "{what}: {answer:?}");
        }
        let counted = suite.client(CLIENT, service, 80)?.send(request()).await?.echo()?.count;
        ensure!(counted == tries + 1, "{what}: asked {} times", counted - 1);
    }
    Ok(())
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
