//! Filters that answer themselves, and requests that are sent again.

use std::time::{Duration, Instant};

use ambit_integration::{SharedMesh, client::get, shared, suite::Suite, wait};
use anyhow::ensure;
use bytes::Bytes;
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CLIENT, ECHO};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "pages of other origins may do what the route says, and preflights do not reach the service", cors),
        shared(mesh, "copies of requests reach every mirror, one each, and neither delay the request nor fail it", mirrors),
        shared(mesh, "a request is sent again as often as the route says, if it may arrive twice", retry),
        shared(mesh, "a write is sent again like any other request where a policy says that it may arrive twice", retried_writes),
        shared(mesh, "the times of a route begin when the request has come whole", slow_client),
    ]
}

/// A case: method, path, the request's headers, then the status, whether the service answered, and all that is said about other origins.
type Crossing<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, bool, &'a [&'a str]);

const SHOP: (&str, &str) = ("origin", "https://shop.example");
const EVIL: (&str, &str) = ("origin", "https://evil.example");
const PUT: (&str, &str) = ("access-control-request-method", "PUT");
const TOKEN: (&str, &str) = ("access-control-request-headers", "x-token");

const CROSSINGS: [Crossing<'_>; 16] = [
    (
        "OPTIONS",
        "/cors",
        &[SHOP, PUT, TOKEN],
        200,
        false,
        &[
            "allow-credentials: true",
            "allow-headers: x-token,content-type",
            "allow-methods: GET,PUT",
            "allow-origin: https://shop.example",
            "expose-headers: x-served-by",
            "max-age: 600",
        ],
    ),
    (
        "OPTIONS",
        "/cors",
        &[EVIL, PUT],
        200,
        false,
        &["allow-credentials: true", "allow-headers: x-token,content-type", "allow-methods: GET,PUT", "max-age: 600"],
    ),
    // Not a preflight: it asks for no method, or comes from no page.
    ("OPTIONS", "/cors", &[SHOP], 200, true, &SIMPLE),
    ("OPTIONS", "/cors", &[PUT], 200, true, &[]),
    ("OPTIONS", "/cors", &[("origin", ""), PUT], 200, true, &[]),
    ("GET", "/cors", &[SHOP], 200, true, &SIMPLE),
    ("POST", "/cors", &[SHOP, PUT], 200, true, &SIMPLE),
    ("GET", "/cors", &[EVIL], 200, true, &[]),
    ("GET", "/cors", &[], 200, true, &[]),
    ("GET", "/cors", &[("origin", "https://shop.example:8443")], 200, true, &[]),
    ("GET", "/cors", &[("origin", "http://shop.example")], 200, true, &[]),
    (
        "GET",
        "/cors",
        &[("origin", "https://a.b.partner.example")],
        200,
        true,
        &["allow-credentials: true", "allow-origin: https://a.b.partner.example", "expose-headers: x-served-by"],
    ),
    (
        "OPTIONS",
        "/cors-any",
        &[EVIL, PUT, TOKEN],
        200,
        false,
        &[
            "allow-headers: x-token",
            "allow-methods: PUT",
            "allow-origin: https://evil.example",
            "expose-headers: *",
            "max-age: 5",
        ],
    ),
    ("GET", "/cors-any", &[("origin", "null")], 200, true, &["allow-origin: null", "expose-headers: *"]),
    // A page may read why it failed.
    ("GET", "/cors-away", &[SHOP], 503, false, &["allow-origin: https://shop.example"]),
    ("OPTIONS", "/first", &[SHOP, PUT], 200, true, &[]),
];

const SIMPLE: [&str; 3] = ["allow-credentials: true", "allow-origin: https://shop.example", "expose-headers: x-served-by"];

async fn cors(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, ECHO, 80)?.session().await?;
    for (method, path, headers, status, served, said) in CROSSINGS {
        let request = headers.iter().fold(get(path).method(method), |request, (name, value)| request.header(*name, *value));
        let answer = session.send(request, Bytes::new()).await?;
        let about = answer.headers.iter().filter_map(|(name, value)| {
            Some(format!("{}: {}", name.as_str().strip_prefix("access-control-")?, value.to_str().unwrap_or("?")))
        });
        let mut about: Vec<_> = about.collect();
        about.sort();
        let what = format!("{method} {path} {headers:?}");
        ensure!(answer.status == status, "{what}: {} {:?}", answer.status, answer.body);
        ensure!(answer.echo().is_ok() == served, "{what}: {:?}", answer.body);
        ensure!(about == said, "{what}: {about:?}, not {said:?}");
    }
    Ok(())
}

/// A case: method, path, what the first tries end with and how many do, then the status and how often the service was asked.
type Failing<'a> = (&'a str, &'a str, &'a str, u32, u16, u32);

const FAILING: [Failing<'_>; 11] = [
    ("GET", "/retry", "503", 2, 200, 3),
    ("GET", "/retry", "500", 9, 500, 3),
    ("PUT", "/retry", "503", 1, 200, 2),
    ("DELETE", "/retry", "503", 1, 200, 2),
    ("GET", "/retry", "502", 1, 502, 1),
    ("GET", "/retry", "reset", 1, 200, 2),
    ("GET", "/retry", "slow", 1, 200, 2),
    // What changes something each time is asked for once, whatever comes of it.
    ("POST", "/retry", "503", 1, 503, 1),
    ("PATCH", "/retry", "reset", 1, 503, 1),
    ("POST", "/retry", "slow", 1, 504, 1),
    ("GET", "/first", "503", 1, 503, 1),
];

/// The same where a RequestPolicy lets writes arrive twice.
const FAILING_WRITES: [Failing<'_>; 5] = [
    ("POST", "/twice", "503", 2, 200, 3),
    ("PATCH", "/twice", "reset", 1, 200, 2),
    ("POST", "/twice", "slow", 1, 200, 2),
    ("POST", "/twice", "502", 1, 502, 1),
    ("GET", "/twice", "503", 1, 200, 2),
];

async fn retry(suite: &Suite) -> anyhow::Result<()> {
    asked_as_often(suite, &FAILING).await
}

async fn retried_writes(suite: &Suite) -> anyhow::Result<()> {
    asked_as_often(suite, &FAILING_WRITES).await
}

async fn asked_as_often(suite: &Suite, cases: &[Failing<'_>]) -> anyhow::Result<()> {
    for (number, &(method, path, ending, first, status, tries)) in cases.iter().enumerate() {
        let what = format!("{method} {path}, {first} times {ending}");
        let key = format!("{path} {number}");
        let request = |path| get(path).method(method).header("x-key", &key);
        let failing = request(path).header("x-fail-first", first).header("x-fail-with", ending);
        let body = Bytes::from(vec![b'x'; if method == "GET" { 0 } else { 100_000 }]);
        let began = Instant::now();
        let answer = suite.client(CLIENT, ECHO, 80)?.send_with_body(failing, body.clone()).await?;
        ensure!(answer.status == status, "{what}: {} {:?}", answer.status, answer.body);
        ensure!(began.elapsed() < Duration::from_secs(5), "{what} took {:?}", began.elapsed());
        if status == 200 {
            let echo = answer.echo()?;
            ensure!(echo.count == tries && echo.body == body.len(), "{what}: {echo:?}");
        }
        // The program that the route leads to tells how many requests there were before this one.
        let counting = request(if path == "/retry" { "/exact" } else { path });
        let counted = suite.client(CLIENT, ECHO, 80)?.send(counting).await?.echo()?.count;
        ensure!(counted == tries + 1, "{what}: asked {} times", counted - 1);
    }
    Ok(())
}

/// The client takes longer than the route gives to its answer, and to each try.
async fn slow_client(suite: &Suite) -> anyhow::Result<()> {
    let ask = async |path: &str| {
        let mut stream = suite.client(CLIENT, ECHO, 80)?.connect().await?;
        let head =
            format!("PUT {path} HTTP/1.1\r\nhost: echo\r\nx-key: slow {path}\r\ncontent-length: 8\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(b"half").await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        stream.write_all(b"half").await?;
        let mut answer = Vec::new();
        // An Envoy resets the tunnel right behind the last answer in it.
        let ended = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"count\":1,"), "{path}: {answer}, {ended:?}");
        anyhow::Ok(())
    };
    let (retried, timed) = tokio::join!(ask("/retry"), ask("/deadline"));
    retried.and(timed)?;
    // The time is over all the same.
    let late = get("/deadline").header("x-key", "late").header("x-fail-first", 1).header("x-fail-with", "slow");
    let answer = suite.client(CLIENT, ECHO, 80)?.send(late).await?;
    ensure!(answer.status == 504, "{} {:?}", answer.status, answer.body);
    Ok(())
}

/// A case: method, and what happens to the first copy.
const COPIED: [(&str, &str); 3] = [("GET", "slow"), ("POST", "reset"), ("PUT", "503")];

/// A route to v1 with two mirrors that lead to v2, and others that lead nowhere.
async fn mirrors(suite: &Suite) -> anyhow::Result<()> {
    let v1 = suite.client(CLIENT, ECHO, 80)?;
    for (method, ending) in COPIED {
        let key = format!("mirror {method}");
        let body = Bytes::from(vec![b'x'; if method == "GET" { 0 } else { 100_000 }]);
        // The first request with the key goes well where it is the second.
        ensure!(v1.send(get("/first").header("x-key", &key)).await?.echo()?.count == 1);
        let request = get("/mirror?a=b").method(method).header("x-key", &key);
        let began = Instant::now();
        let answer = v1.send_with_body(request.header("x-fail-first", 1).header("x-fail-with", ending), body.clone()).await?;
        let echo = answer.echo()?;
        ensure!(echo.version == "v1" && echo.count == 2 && echo.body == body.len(), "{method}: {echo:?}");
        ensure!(began.elapsed() < Duration::from_secs(4), "{method} waited {:?} for its copies", began.elapsed());
        let copy = format!("{method} /copied?a=b echo {}", body.len());
        let (mut asked, mut known) = (0, 0);
        let both = async || {
            asked += 1;
            let ask = suite.client(CLIENT, ECHO, 80).map_err(|error| error.to_string())?;
            let seen = ask.send(get("/exact").header("x-key", &key)).await.and_then(|answer| answer.echo());
            let seen = seen.map_err(|error| error.to_string())?;
            let copies = seen.count - asked;
            if copies > known && seen.previous != copy {
                return Err(format!("the copy of {method} is {:?}, not {copy:?}", seen.previous));
            }
            known = copies;
            if copies == 2 { Ok(()) } else { Err(format!("{copies} copies of {method} arrived")) }
        };
        wait::until("two copies", Duration::from_secs(60), both).await?;
    }
    Ok(())
}
