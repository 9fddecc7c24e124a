//! Which rule takes a request.

use ambit_integration::{SharedMesh, client::get, shared, suite::Suite};
use anyhow::ensure;
use libtest_mimic::Trial;

use super::{CLIENT, ECHO};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "a path matches exactly, by prefix of whole elements, or by expression", paths),
        shared(mesh, "a header matches exactly or by expression, its name in any case", headers),
        shared(mesh, "a query parameter matches exactly, the first of its name", queries),
        shared(mesh, "a method matches", methods),
        shared(mesh, "an exact path wins over a prefix, a longer prefix over a shorter", precedence),
        shared(mesh, "the destination's address decides, not the host header", host_header),
        shared(mesh, "a service without a route forwards as it is", default_route),
        shared(mesh, "the same holds over IPv6", ipv6),
    ]
}

/// Sends each request and compares who answered; `-` stands for a 404.
async fn check(suite: &Suite, table: &[(http::request::Builder, &str)]) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    for (request, expected) in table {
        let built = clone(request)?;
        let what = format!("{request:?}");
        let answer = client.send(built).await?;
        let got = if answer.status == 404 { "-".to_owned() } else { answer.echo()?.version };
        ensure!(got == *expected, "{what}: answered by {got:?} ({}), not by {expected:?}", answer.status);
    }
    Ok(())
}

fn clone(request: &http::request::Builder) -> anyhow::Result<http::request::Builder> {
    let mut copy = http::Request::builder();
    copy = copy.method(request.method_ref().cloned().unwrap_or_default());
    copy = copy.uri(request.uri_ref().cloned().unwrap_or_default());
    for (name, value) in request.headers_ref().into_iter().flatten() {
        copy = copy.header(name, value);
    }
    Ok(copy)
}

async fn paths(suite: &Suite) -> anyhow::Result<()> {
    let table = [
        (get("/first"), "v1"),
        (get("/exact"), "v2"),
        (get("/exact?with=query"), "v2"),
        (get("/exact/"), "-"),
        (get("/Exact"), "-"),
        (get("/prefix"), "v2"),
        (get("/prefix/"), "v2"),
        (get("/prefix/deeper"), "v2"),
        (get("/prefixed"), "-"),
        (get("/re/42"), "v2"),
        (get("/re/x"), "-"),
        (get("/re/42/more"), "-"),
        (get("/"), "-"),
    ];
    check(suite, &table).await
}

async fn headers(suite: &Suite) -> anyhow::Result<()> {
    let table = [
        (get("/by").header("x-version", "two"), "v2"),
        (get("/by").header("X-Version", "two"), "v2"),
        (get("/by").header("x-version", "TWO"), "v1"),
        (get("/by").header("x-version", "three"), "v1"),
        (get("/by").header("x-pattern", "aaab"), "v2"),
        (get("/by").header("x-pattern", "aaabc"), "v1"),
        (get("/by"), "v1"),
    ];
    check(suite, &table).await
}

async fn queries(suite: &Suite) -> anyhow::Result<()> {
    let table = [
        (get("/by?version=two"), "v2"),
        (get("/by?a=b&version=two"), "v2"),
        (get("/by?version=two&version=one"), "v2"),
        (get("/by?Version=two"), "v1"),
        (get("/by?version=twofold"), "v1"),
        (get("/by?x=version=two"), "v1"),
    ];
    check(suite, &table).await
}

async fn methods(suite: &Suite) -> anyhow::Result<()> {
    let table = [(get("/by").method("DELETE"), "v2"), (get("/by").method("POST"), "v1"), (get("/by").method("PUT"), "v1")];
    check(suite, &table).await
}

async fn precedence(suite: &Suite) -> anyhow::Result<()> {
    let table = [
        (get("/prefix/exact"), "v1"),
        (get("/prefix/exact/more"), "v2"),
        (get("/prefix/longer"), "v1"),
        (get("/prefix/longer/still"), "v1"),
        (get("/prefix/longe"), "v2"),
    ];
    check(suite, &table).await
}

async fn host_header(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client(CLIENT, ECHO, 80)?;
    for host in ["plain.shop.svc.cluster.local", "example.org:8443", "echo", "10.96.0.99:80", "[fd96::99]", "[fd96::99]:80"] {
        let request = http::Request::builder().uri("/exact").header("host", host);
        let echo = client.send(request).await?.echo()?;
        ensure!(echo.version == "v2", "{host}: answered by {}", echo.version);
        ensure!(echo.headers.get("host").is_some_and(|seen| seen == host), "{host} became {:?}", echo.headers.get("host"));
    }
    Ok(())
}

async fn default_route(suite: &Suite) -> anyhow::Result<()> {
    let echo = suite.client(CLIENT, "shop/plain", 80)?.get("/any/path?with=query").await?.echo()?;
    ensure!(echo.version == "v1" && echo.path == "/any/path?with=query", "{echo:?}");
    Ok(())
}

async fn ipv6(suite: &Suite) -> anyhow::Result<()> {
    let client = suite.client_v6(CLIENT, ECHO, 80)?;
    ensure!(client.get("/exact").await?.echo()?.version == "v2");
    ensure!(client.get("/first").await?.echo()?.version == "v1");
    ensure!(client.get("/nowhere").await?.status == 404);
    Ok(())
}
