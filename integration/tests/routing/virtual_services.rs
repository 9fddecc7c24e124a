//! What VirtualServices say of requests.

use ambit_integration::{SharedMesh, client::get, shared, suite::Suite};
use anyhow::ensure;
use bytes::Bytes;
use libtest_mimic::Trial;

use super::CLIENT;

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "a VirtualService routes requests in the order of its rules, and what it cannot say is refused", routed),
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
