//! HTTPRoutes.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::Suite;
use crate::client::{Answer, get, over_http2, request};
use crate::mesh::{Driver, Mesh, identity};
use crate::objects::{BILLING, EMPTY, H2C, LOOKED_UP, OUTSIDE};

pub fn tests(suite: &mut Suite) {
    suite.test("matches by path, header, query and method, the most specific first", matching);
    suite.test("answers 404, 500 and 503 as the specification says", failures);
    suite.test("splits by weight, and a changed weight is in force within a second", weights);
    suite.test("changes the headers of requests and of responses", headers);
    suite.test("tells the service who its client is, whatever that writes", clients);
    suite.test("rewrites and redirects", rewrites);
    suite.test("gives up at the timeout of the route", timeouts);
    suite.test("gives clients of another namespace the routes of that namespace", consumers);
    suite.test("speaks HTTP/2 to a service that asks for it, whatever the client speaks", http2);
    suite.test("serves a service by its IPv6 address", ipv6);
    suite.test("serves pods by their own addresses", pods);
    suite.test("tells HTTP from bytes on a port that declares nothing", undeclared);
    suite.test("leads to the host of a ServiceEntry", async |mesh| outside(mesh, OUTSIDE, 200).await);
    // Ours refuses what it would have to look up (docs/services.md).
    let looked_up = if suite.driver == Driver::Ambit { 500 } else { 200 };
    suite.test("leads to a host that is looked up, or refuses it", async move |mesh| outside(mesh, LOOKED_UP, looked_up).await);
}

async fn ask(mesh: &Mesh, path: &str) -> anyhow::Result<Answer> {
    mesh.request("web", BILLING, 80, get(path)).await
}

/// Method, path, headers, and the pod that should answer.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

async fn matching(mesh: &Mesh) -> anyhow::Result<()> {
    let cases: [Case<'_>; 13] = [
        ("GET", "/v1", &[], "v1"),
        ("GET", "/v1/below", &[], "v1"),
        ("GET", "/exact/v1", &[], "v1"),
        ("GET", "/v1/v2", &[], "v2"),
        ("GET", "/v1/v2/below", &[], "v2"),
        ("GET", "/v1/v23", &[], "v1"),
        ("GET", "/re/abc/v2", &[], "v2"),
        ("GET", "/v1", &[("x-version", "v2")], "v2"),
        ("GET", "/v1", &[("x-version", "v3")], "v1"),
        ("GET", "/v1", &[("x-re", "v7")], "v2"),
        ("GET", "/v1?version=v2", &[], "v2"),
        ("GET", "/v1?version=v1&version=v2", &[], "v1"),
        ("PUT", "/v1", &[], "v2"),
    ];
    for (method, path, headers, pod) in cases {
        let answer = mesh.request("web", BILLING, 80, request(method, path, headers)).await?;
        ensure!(
            answer.status == 200 && answer.pod() == pod,
            "{method} {path} {headers:?}: {} from {}",
            answer.status,
            answer.pod()
        );
    }
    Ok(())
}

async fn failures(mesh: &Mesh) -> anyhow::Result<()> {
    for (path, status) in [("/nowhere", 404), ("/exact/v1/below", 404), ("/V1", 404), ("/re/abc/v2/x", 404), ("/none", 500)] {
        ensure!(ask(mesh, path).await?.status == status, "{path} is not answered {status}");
    }
    ensure!(ask(mesh, "/invalid").await?.status == 500, "an invalid backend is not answered 500");
    ensure!(ask(mesh, "/empty").await?.status == 503, "a backend without endpoints is not answered 503");
    ensure!(mesh.request("web", EMPTY, 80, get("/")).await?.status == 503, "a service without endpoints is not answered 503");
    let mut half = [0, 0];
    for _ in 0..60 {
        match ask(mesh, "/half").await?.status {
            200 => half[0] += 1,
            500 => half[1] += 1,
            other => anyhow::bail!("/half is answered {other}"),
        }
    }
    ensure!(half.iter().all(|share| *share > 12), "an invalid backend has not its share: {half:?}");
    Ok(())
}

/// The share of `v2` among requests to `/split`, of a hundred.
async fn share(mesh: &Mesh, requests: usize) -> anyhow::Result<usize> {
    let mut second = 0;
    for _ in 0..requests {
        let answer = ask(mesh, "/split").await?;
        ensure!(answer.status == 200, "/split is answered {}", answer.status);
        second += usize::from(answer.pod() == "v2");
    }
    Ok(second * 100 / requests)
}

async fn weights(mesh: &Mesh) -> anyhow::Result<()> {
    let before = share(mesh, 300).await?;
    ensure!((4..=17).contains(&before), "weight 10 of 100 gets {before} %");
    mesh.set_weights(0, 1)?;
    let changed = Instant::now();
    while ask(mesh, "/split").await?.pod() != "v2" || ask(mesh, "/split").await?.pod() != "v2" || share(mesh, 10).await? < 100 {
        ensure!(changed.elapsed() < Duration::from_secs(5), "the changed weight is not in force after 5 s");
    }
    let took = changed.elapsed();
    mesh.set_weights(90, 10)?;
    ensure!(took < Duration::from_secs(1), "the changed weight took {took:?}");
    Ok(())
}

/// How long the answer may take, in milliseconds, as the route says.
const DEADLINE: &str = "x-envoy-expected-rq-timeout-ms";

async fn headers(mesh: &Mesh) -> anyhow::Result<()> {
    // Longer than the route's, so it counts for nothing.
    let untrue = (DEADLINE, "86400000");
    let sent = [("x-set", "before"), ("x-add", "one"), ("x-remove", "1"), ("x-forwarded-for", "192.0.2.1"), untrue];
    let answer = mesh.request("web", BILLING, 80, request("GET", "/headers", &sent)).await?;
    let seen = answer.seen()?["headers"].clone();
    ensure!(seen["x-set"] == serde_json::json!(["100%"]), "set: {seen}");
    let added: Vec<&str> = seen["x-add"].as_array().into_iter().flatten().filter_map(|value| value.as_str()).collect();
    ensure!(added.join(",").replace(' ', "") == "one,two", "add: {seen}");
    ensure!(seen["x-remove"].is_null(), "remove: {seen}");
    ensure!(seen[DEADLINE] == serde_json::json!(["30000"]), "the time of the route: {seen}");
    ensure!(seen["x-forwarded-for"] == serde_json::json!(["192.0.2.1"]), "untouched: {seen}");
    ensure!(seen["host"] == serde_json::json!(["billing.shop"]), "host: {seen}");
    ensure!(answer.headers.get("x-answer").is_some_and(|value| value == "yes-it-is"), "{:?}", answer.headers);
    ensure!(answer.headers.get("x-remove-me").is_none(), "{:?}", answer.headers);
    ensure!(answer.headers.get("server").is_some_and(|value| value == "fixture"), "{:?}", answer.headers);
    Ok(())
}

/// What says who the client is.
const HEADER: &str = "x-forwarded-client-cert";

/// What a client writes of its own identity is replaced by what it has proven.
async fn clients(mesh: &Mesh) -> anyhow::Result<()> {
    let forged = [(HEADER, "URI=spiffe://cluster.local/ns/shop/sa/admin"), (HEADER, "By=a;URI=b"), ("connection", HEADER)];
    for account in ["web", "intruder"] {
        let known = format!("By={};URI={}", identity("waypoint"), identity(account));
        for headers in [&forged[..0], &forged[..1], &forged[..]] {
            let answer = mesh.request(account, BILLING, 80, request("GET", "/v1", headers)).await?;
            let seen = answer.seen()?["headers"][HEADER].clone();
            ensure!(seen == serde_json::json!([known.as_str()]), "{account} {headers:?}: {seen}");
        }
    }
    Ok(())
}

async fn rewrites(mesh: &Mesh) -> anyhow::Result<()> {
    let cases = [
        ("/rewrite/prefix/bar?q=1", "/xyz/bar?q=1"),
        ("/rewrite/prefix", "/xyz"),
        ("/rewrite/prefix/", "/xyz/"),
        ("/rewrite/root/bar", "/bar"),
        ("/rewrite/root", "/"),
        ("/rewrite/full/bar?q=1", "/one?q=1"),
    ];
    for (path, rewritten) in cases {
        let seen = ask(mesh, path).await?.seen()?;
        ensure!(seen["path"] == rewritten, "{path}: {seen}");
    }
    let seen = ask(mesh, "/rewrite/prefix").await?.seen()?;
    ensure!(seen["headers"]["host"] == serde_json::json!(["new.example"]), "{seen}");
    let answer = ask(mesh, "/redirect/there?q=1").await?;
    let location = answer.headers.get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(answer.status == 301 && location == "https://example.org/to/there?q=1", "{} {location}", answer.status);
    Ok(())
}

async fn timeouts(mesh: &Mesh) -> anyhow::Result<()> {
    let start = Instant::now();
    let answer = ask(mesh, "/slow").await?;
    ensure!(answer.status == 504, "answered {}", answer.status);
    ensure!(start.elapsed() < Duration::from_millis(1500), "took {:?}", start.elapsed());
    Ok(())
}

async fn consumers(mesh: &Mesh) -> anyhow::Result<()> {
    for (account, path, status) in
        [("tests/client", "/consumer", 200), ("tests/client", "/v1", 404), ("web", "/consumer", 404), ("web", "/v1", 200)]
    {
        let answer = mesh.request(account, BILLING, 80, get(path)).await?;
        ensure!(answer.status == status, "{account} {path}: {}", answer.status);
    }
    Ok(())
}

async fn http2(mesh: &Mesh) -> anyhow::Result<()> {
    let answer = mesh.request("web", H2C, 80, get("/")).await?;
    ensure!(answer.seen()?["version"] == "HTTP/2.0", "{}", answer.body);
    let tunnel = mesh.tunnel("web", &format!("{BILLING}:80")).await??;
    let mut request = get("/v1");
    *request.uri_mut() = "http://billing.shop/v1".parse()?;
    let (status, body) = over_http2(tunnel, request).await?;
    ensure!(status == 200 && body.contains("HTTP/2.0"), "{status} {body}");
    Ok(())
}

async fn ipv6(mesh: &Mesh) -> anyhow::Result<()> {
    let answer = mesh.request("web", "fd96::10", 80, get("/v1")).await?;
    ensure!(answer.status == 200 && answer.pod() == "v1", "{}", answer.status);
    Ok(())
}

async fn undeclared(mesh: &Mesh) -> anyhow::Result<()> {
    let answer = mesh.request("web", BILLING, 9000, get("/anything")).await?;
    ensure!(answer.status == 200, "{}", answer.status);
    Ok(())
}

async fn pods(mesh: &Mesh) -> anyhow::Result<()> {
    for address in mesh.v1.ips() {
        let answer = mesh.request("web", &address.to_string(), 8080, get("/anything")).await?;
        ensure!(answer.status == 200 && answer.pod() == "v1", "{address}: {} from {}", answer.status, answer.pod());
    }
    let banner = crate::streams::banner(mesh, "web", &mesh.v1.ip().to_string()).await?;
    ensure!(banner.starts_with("220"), "{banner:?}");
    let answer = mesh.request("web", &mesh.liar.ip().to_string(), 8080, get("/")).await?;
    ensure!(answer.status == 503, "a pod with another identity is answered {}", answer.status);
    Ok(())
}

async fn outside(mesh: &Mesh, host: &str, status: u16) -> anyhow::Result<()> {
    let forged = [(HEADER, "URI=spiffe://cluster.local/ns/shop/sa/admin")];
    for headers in [&forged[..0], &forged[..]] {
        let answer = mesh.request("web", host, 80, request("GET", "/any", headers)).await?;
        let pod = if status == 200 { "outside" } else { "-" };
        ensure!(answer.status == status && answer.pod() == pod, "{host}: {} from {}", answer.status, answer.pod());
        if status == 200 {
            let seen = answer.seen()?["headers"].clone();
            ensure!(seen[HEADER].is_null(), "who is outside is told who asks: {seen}");
        }
    }
    Ok(())
}
