//! What a rule does with a request that it takes.

use ambit_integration::{SharedMesh, client::get, shared, suite::Suite};
use anyhow::ensure;
use bytes::Bytes;
use libtest_mimic::Trial;

use super::{CLIENT, ECHO};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "request and response headers are set, added and removed", headers),
        shared(mesh, "a matched prefix is replaced", rewrite),
        shared(mesh, "a redirect answers without asking a backend", redirect),
        shared(mesh, "a rule without backends answers 500", async |suite: &Suite| status(suite, "/no-backend", 500).await),
        shared(mesh, "a rule whose backend does not exist answers 500", async |suite: &Suite| {
            status(suite, "/missing-backend", 500).await
        }),
        shared(mesh, "a backend without endpoints answers 503", async |suite: &Suite| status(suite, "/empty", 503).await),
        shared(mesh, "a service without endpoints answers 503", empty_service),
        shared(mesh, "a backend that does not exist takes its share of the weight with it", half_missing),
        shared(mesh, "a backend of weight zero takes nothing", weight_zero),
        shared(mesh, "a split of 95 to 5 is kept within 5 points", split),
    ]
}

async fn headers(suite: &Suite) -> anyhow::Result<()> {
    let request = get("/modified").header("x-set", "theirs").header("x-add", "first").header("x-remove", "gone");
    let answer = suite.client(CLIENT, ECHO, 80)?.send(request).await?;
    let echo = answer.echo()?;
    let seen = |name: &str| echo.headers.get(name).map(String::as_str);
    ensure!(seen("x-set") == Some("ours"), "{echo:?}");
    ensure!(seen("x-add") == Some("first,more"), "{echo:?}");
    ensure!(seen("x-remove").is_none(), "{echo:?}");
    ensure!(answer.header("x-served-by") == Some("mesh") && answer.header("x-answer") == Some("added"), "{:?}", answer.headers);
    Ok(())
}

async fn rewrite(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    for (path, expected) in [("/rewrite", "/inner"), ("/rewrite/a/b?c=d", "/inner/a/b?c=d"), ("/rewrite/", "/inner/")] {
        let echo = client.get(path).await?.echo()?;
        ensure!(echo.path == expected, "{path} became {}, not {expected}", echo.path);
    }
    Ok(())
}

async fn redirect(suite: &Suite) -> anyhow::Result<()> {
    let answer = suite.client(CLIENT, ECHO, 80)?.get("/redirect/x").await?;
    ensure!(answer.status == 301, "{}", answer.status);
    let location = answer.header("location").unwrap_or_default();
    ensure!(location.starts_with("http://echo") && location.ends_with("/elsewhere"), "location: {location}");
    for host in ["[fd96::99]", "[fd96::99]:80"] {
        let request = http::Request::builder().uri("/redirect/x").header("host", host);
        let answer = suite.client(CLIENT, ECHO, 80)?.send(request).await?;
        let location = answer.header("location").unwrap_or_default();
        ensure!(location.starts_with("http://[fd96::99]") && location.ends_with("/elsewhere"), "{host}: {location}");
    }
    Ok(())
}

async fn status(suite: &Suite, path: &str, expected: u16) -> anyhow::Result<()> {
    let answer = suite.client(CLIENT, ECHO, 80)?.get(path).await?;
    ensure!(answer.status == expected, "{path}: {} {:?}", answer.status, answer.body);
    Ok(())
}

async fn empty_service(suite: &Suite) -> anyhow::Result<()> {
    let answer = suite.client(CLIENT, "shop/empty", 80)?.get("/").await?;
    ensure!(answer.status == 503, "{}", answer.status);
    Ok(())
}

async fn half_missing(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, ECHO, 80)?.session().await?;
    let mut failed = 0;
    for _ in 0..400 {
        let answer = session.get("/half-missing").await?;
        match answer.status.as_u16() {
            500 => failed += 1,
            200 => ensure!(answer.echo()?.version == "v1"),
            other => anyhow::bail!("{other}"),
        }
    }
    // Six standard deviations of 400 fair coins are 60.
    ensure!((140..=260).contains(&failed), "{failed} of 400 failed");
    Ok(())
}

async fn weight_zero(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, ECHO, 80)?.session().await?;
    for _ in 0..100 {
        let echo = session.send(get("/weight-zero"), Bytes::new()).await?.echo()?;
        ensure!(echo.version == "v2", "{}", echo.version);
    }
    Ok(())
}

async fn split(suite: &Suite) -> anyhow::Result<()> {
    let share = super::change::share_of_v2(suite, 2000).await?;
    ensure!((0.0..=10.0).contains(&share), "{share} % went to v2, not 5");
    ensure!(share > 0.5, "nothing went to v2");
    Ok(())
}
