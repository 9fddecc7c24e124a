//! Requests that two readers could take for different ones: each is refused, or exactly one arrives, in a form that can be read in one way only.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    PATIENCE,
    backend::{self, Got},
    frames::{self, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM},
    support::{
        Mesh, WEB,
        client::tunnel,
        resources::{Ep, Service},
    },
};

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// 400, and nothing arrives.
    Refused,
    /// It arrives once, with this body.
    Once(&'static str),
    /// Its body is wrong when its head has been passed on: it never arrives whole, and the client is not told that it did.
    Broken,
}

use Want::{Broken, Once, Refused};

/// What must never arrive as a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: b\r\n\r\n";
const CHUNKED: &str = "transfer-encoding: chunked";
const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";
const LENGTH: &str = "content-length: 5";

/// `PATH` stands for the case's own path.
fn post(fields: &str, body: &str) -> String {
    format!("POST PATH HTTP/1.1\r\nhost: billing.shop\r\n{fields}\r\n\r\n{body}")
}

fn head(text: &str) -> String {
    format!("{text}\r\n\r\n")
}

/// Two lengths, or none that is one.
fn lengths() -> Vec<(String, Want)> {
    let tail = format!("0\r\n\r\n{SMUGGLED}");
    let in_chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    let length = |value: &str| post(&format!("content-length:{value}"), "hello");
    let coding = |line: &str| post(line, HELLO);
    vec![
        (post(LENGTH, "hello"), Once("hello")),
        (post(CHUNKED, HELLO), Once("hello")),
        (post(&format!("content-length: {}\r\n{CHUNKED}", tail.len()), &tail), Refused),
        (post(&format!("{CHUNKED}\r\ncontent-length: {}", tail.len()), &tail), Refused),
        (post(&format!("{CHUNKED}\r\ncontent-length: 4"), &in_chunk), Refused),
        (post(&format!("content-length: 4\r\n{CHUNKED}"), &in_chunk), Refused),
        (post("content-length: 5\r\ncontent-length: 6", "hello"), Refused),
        (post("content-length: 0\r\ncontent-length: 5", "hello"), Refused),
        (post(&format!("content-length: 0\r\n{CHUNKED}"), &tail), Refused),
        // Envoy does not take the same one twice either.
        (post("content-length: 5\r\ncontent-length: 5", "hello"), Refused),
        (post("content-length: 5\r\nx-a: b\r\nContent-Length: 5", "hello"), Refused),
        (length(" 5, 5"), Refused),
        (length(" +5"), Refused),
        (length(" -5"), Refused),
        (length(" 0x5"), Refused),
        (length(" 5.0"), Refused),
        (length(" 5 5"), Refused),
        (length(" five"), Refused),
        (length(""), Refused),
        (length("5 \t"), Once("hello")),
        (length(" 18446744073709551621"), Refused),
        (length(" 99999999999999999999999999"), Refused),
        (coding("transfer-encoding: identity"), Refused),
        (coding("transfer-encoding: xchunked"), Refused),
        (coding("transfer-encoding: \"chunked\""), Refused),
        (coding("transfer-encoding: chunked;q=1"), Refused),
        (coding("transfer-encoding: chunked, identity"), Refused),
        (coding("transfer-encoding: chunked, chunked"), Refused),
        (coding("transfer-encoding: gzip, chunked"), Refused),
        (coding("transfer-encoding: gzip\r\ntransfer-encoding: chunked"), Refused),
        (coding("transfer-encoding: chunked\r\nx-a: b\r\nTransfer-Encoding: chunked"), Refused),
        (coding("transfer-encoding: chunked\r\ntransfer-encoding: identity"), Refused),
        (coding("transfer-encoding: \u{a0}chunked"), Refused),
        (coding("transfer-encoding: \x0bchunked"), Refused),
        (coding("transfer-encoding : chunked"), Refused),
        (coding("transfer-encoding\t: chunked"), Refused),
        (coding(" transfer-encoding: chunked"), Refused),
        (coding("x-a: b\r\n transfer-encoding: chunked"), Refused),
        (coding("transfer-encoding:\r\n chunked"), Refused),
        (coding("x-a: b\rtransfer-encoding: chunked"), Refused),
        (coding("Transfer-Encoding: ChUnKeD"), Once("hello")),
        // Named as of this hop alone they are not passed on, and the body is not lost either.
        (post("connection: content-length\r\ncontent-length: 5", "hello"), Once("hello")),
        (coding("connection: transfer-encoding\r\ntransfer-encoding: chunked"), Once("hello")),
        (post(LENGTH, "hello").replacen("POST", "GET", 1), Once("hello")),
        (coding(CHUNKED).replacen("POST", "GET", 1), Once("hello")),
        (coding(CHUNKED).replacen("HTTP/1.1", "HTTP/1.0", 1), Refused),
    ]
}

/// Chunks that are none.
fn chunks() -> Vec<(String, Want)> {
    let chunk = |body: &str| post(CHUNKED, body);
    vec![
        (chunk("5;name=value\r\nhello\r\n0\r\n\r\n"), Once("hello")),
        (chunk("5 \r\nhello\r\n0\r\n\r\n"), Once("hello")),
        (chunk("00000005\r\nhello\r\n0\r\n\r\n"), Once("hello")),
        (chunk("5\r\nhello\r\n0\r\ncontent-length: 99\r\n\r\n"), Once("hello")),
        (chunk("5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n"), Once("hello")),
        (chunk("5;name\nhello\r\n0\r\n\r\n"), Broken),
        (chunk("5\nhello\n0\n\n"), Broken),
        (chunk("5\r\nhello\n0\r\n\r\n"), Broken),
        (chunk("5\r\nhello\r\n0\r\nx-a: b\n\r\n"), Broken),
        (chunk("5\r\nhello\r\n0\r\n\n"), Broken),
        (chunk("0x5\r\nhello\r\n0\r\n\r\n"), Broken),
        (chunk("+5\r\nhello\r\n0\r\n\r\n"), Broken),
        (chunk("-5\r\nhello\r\n0\r\n\r\n"), Broken),
        (chunk("g\r\nhello\r\n0\r\n\r\n"), Broken),
        (chunk("5\r\nhelloX\r\n0\r\n\r\n"), Broken),
        (chunk("4\r\nhello\r\n0\r\n\r\n"), Broken),
        (chunk("10000000000000005\r\nhello\r\n0\r\n\r\n"), Broken),
        (chunk("fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), Broken),
        (chunk(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(40 << 10))), Broken),
    ]
}

/// Lines that are none.
fn lines() -> Vec<(String, Want)> {
    let get = |fields: &str| head(&format!("GET PATH HTTP/1.1\r\nhost: billing.shop\r\n{fields}"));
    vec![
        (head("GET PATH HTTP/1.1\r\nhost: billing.shop"), Once("")),
        ("GET PATH HTTP/1.1\nhost: billing.shop\n\n".to_owned(), Refused),
        ("GET PATH HTTP/1.1\nhost: billing.shop\r\n\r\n".to_owned(), Refused),
        ("GET PATH HTTP/1.1\r\nhost: billing.shop\n\r\n".to_owned(), Refused),
        ("GET PATH HTTP/1.1\r\nhost: billing.shop\r\n\n".to_owned(), Refused),
        ("\nGET PATH HTTP/1.1\r\nhost: billing.shop\r\n\r\n".to_owned(), Refused),
        // Empty lines before a request are none of it (RFC 9112, section 2.2).
        ("\r\n\r\nGET PATH HTTP/1.1\r\nhost: billing.shop\r\n\r\n".to_owned(), Once("")),
        (get("x-a: b\nx-c: d"), Refused),
        (get("x-a: b\0c"), Refused),
        (get("x-a\0: b"), Refused),
        (get("x-a: b\x07"), Refused),
        (get("x-a: b\x7f"), Refused),
        (get("x a: b"), Refused),
        (get("x-a"), Refused),
        (get(": b"), Refused),
        (get("x-a: b\r\n\tc"), Refused),
        (get("x-a: b\rx-c: d"), Refused),
        (get("host: billing.shop"), Refused),
        (get("host: other.shop"), Refused),
        (get("Host : other.shop"), Refused),
        (head("GET PATH HTTP/1.1"), Refused),
        (head("GET PATH HTTP/1.1\rhost: billing.shop"), Refused),
        (head("GET PATH HTTP/1.1 \r\nhost: billing.shop"), Refused),
        (head("GET PATH x HTTP/1.1\r\nhost: billing.shop"), Refused),
        (head("GET PATH\0 HTTP/1.1\r\nhost: billing.shop"), Refused),
        (head("GET\tPATH\tHTTP/1.1\r\nhost: billing.shop"), Refused),
        (head("GET PATH HTTP/1.2\r\nhost: billing.shop"), Refused),
        (head("GET PATH HTTP/2.0\r\nhost: billing.shop"), Refused),
        (head("GET PATH http/1.1\r\nhost: billing.shop"), Refused),
        (head("GET PATH"), Refused),
        (head("G(T PATH HTTP/1.1\r\nhost: billing.shop"), Refused),
        // The target has the host that counts (RFC 9112, section 3.2.2).
        (head("GET http://billing.shopPATH HTTP/1.1\r\nhost: other.shop"), Once("")),
    ]
}

/// All that comes back to a request, to where its connection ends.
async fn answer(mesh: &Mesh, service: &Service, request: &[u8]) -> Vec<u8> {
    let mut stream = tunnel(mesh, WEB, service.vip).await.unwrap();
    let mut answer = Vec::new();
    let asking = async {
        // What is refused at its head need not be read to its end.
        let _sent = stream.write_all(request).await;
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..count]);
            // The connection of what is refused may stay open for another request.
            let refused = answer.starts_with(b"HTTP/1.1 4") && answer.windows(4).any(|end| end == b"\r\n\r\n");
            if refused || answer.ends_with(b"\r\n\r\nok") {
                break;
            }
        }
        let _ended = stream.shutdown().await;
        // What else comes would be for a request that nobody made.
        let _ended = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("no end: {}", String::from_utf8_lossy(request)));
    answer
}

/// What is wrong with how it went, if anything.
fn wrong(want: Want, answer: &[u8], arrived: &[Got]) -> Option<String> {
    let text = String::from_utf8_lossy(answer);
    let (status, answers) = (text.get(9..12).unwrap_or("none"), text.matches("HTTP/1.1 ").count());
    let bodies: Vec<_> = arrived.iter().map(|got| String::from_utf8_lossy(&got.body).into_owned()).collect();
    let good = match want {
        Refused => status == "400" && bodies.is_empty(),
        Once(body) => status == "200" && bodies == [body],
        Broken => !status.starts_with('2') && bodies.is_empty(),
    };
    let hosts = arrived.iter().all(|got| got.values("host") == ["billing.shop"]);
    (!good || !hosts || answers > 1).then(|| format!("{want:?}, but the answer is {text:?} and {arrived:?} arrived"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_could_be_read_in_two_ways_arrives_once_or_not_at_all() {
    let mesh = Mesh::start(162).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let backend = backend::start(mesh.socket(1, 8080)).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, 8080))]);
    let mut answers = Vec::new();
    for (number, (request, want)) in [lengths(), chunks(), lines()].concat().into_iter().enumerate() {
        let path = format!("/case/{number}");
        let request = request.replacen("PATH", &path, 1);
        let answer = answer(&mesh, &service, request.as_bytes()).await;
        answers.push((path, request, want, answer));
    }
    // What was sent on after the others would have arrived before this.
    let last = answer(&mesh, &service, post(LENGTH, "hello").replacen("PATH", "/last", 1).as_bytes()).await;
    assert!(last.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&last));
    let got = backend.got.lock().unwrap().clone();
    let mut all_wrong = Vec::new();
    for (path, request, want, answer) in &answers {
        let arrived: Vec<_> = got.iter().filter(|got| got.is_for(path)).cloned().collect();
        let shown: String = request.chars().take(200).collect();
        all_wrong.extend(wrong(*want, answer, &arrived).map(|wrong| format!("{shown:?}: {wrong}")));
    }
    assert!(all_wrong.is_empty(), "{} of {}: {all_wrong:#?}", all_wrong.len(), answers.len());
    let asked_for = |got: &Got| got.is_for("/last") || answers.iter().any(|(path, ..)| got.is_for(path));
    let smuggled: Vec<_> = got.iter().filter(|got| !asked_for(got)).collect();
    assert!(smuggled.is_empty(), "{smuggled:#?}");
    let odd = backend.odd.lock().unwrap().clone();
    assert!(odd.is_empty(), "{odd:#?}");
}

/// All that comes back until the waypoint itself closes the connection.
async fn to_the_end(mesh: &Mesh, service: &Service, pieces: [&str; 2]) -> String {
    let mut stream = tunnel(mesh, WEB, service.vip).await.unwrap();
    let mut answer = Vec::new();
    let asking = async {
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            // So that it is read before there is more.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _ended = stream.read_to_end(&mut answer).await;
    };
    let over = tokio::time::timeout(PATIENCE, asking).await.is_ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(over, "{pieces:?} leave it open: {answer:?}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_a_connection_is_looked_at_and_the_one_that_is_refused_ends_it() {
    let mesh = Mesh::start(169).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let backend = backend::start(mesh.socket(1, 8080)).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, 8080))]);
    let before = [
        String::new(),
        head("GET PATH HTTP/1.1\r\nhost: billing.shop"),
        post(LENGTH, "hello"),
        post(CHUNKED, "5;a=b\r\nhello\r\n0\r\nx-a: b\r\n\r\n"),
    ];
    let bad = [
        post(&format!("content-length: 5\r\n{CHUNKED}"), HELLO),
        post(&format!("{CHUNKED}\r\ncontent-length: 5"), HELLO),
        post("content-length: 5\r\ncontent-length: 5", "hello"),
        post("x-a: b\nx-c: d", ""),
        post("x-a: b\r\n c", ""),
    ];
    let mut good = Vec::new();
    for (number, (before, bad)) in before.iter().flat_map(|before| bad.iter().map(move |bad| (before, bad))).enumerate() {
        let bad = bad.replacen("PATH", "/bad", 1);
        for way in ["whole", "in-pieces"] {
            let path = format!("/good/{number}/{way}");
            let before = before.replacen("PATH", &path, 1);
            let bytes = format!("{before}{bad}{SMUGGLED}");
            // In a line before the one that is wrong.
            let cut = if way == "whole" { 0 } else { before.len() + "POST /bad HTTP/1.1\r\nhost: bil".len() };
            let answer = to_the_end(&mesh, &service, bytes.split_at(cut).into()).await;
            let lines = answer.lines().filter_map(|line| line.split_once("HTTP/1.1 "));
            let statuses: Vec<_> = lines.map(|(_, status)| status.get(..3).unwrap_or_default()).collect();
            let wanted: &[&str] = if before.is_empty() { &["400"] } else { &["200", "400"] };
            assert_eq!(statuses, wanted, "{bytes:?}: {answer:?}");
            good.extend((!before.is_empty()).then_some(path));
        }
    }
    let got = backend.got.lock().unwrap().clone();
    let mut paths: Vec<_> = got.iter().map(|got| got.head[0].split(' ').nth(1).unwrap_or_default()).collect();
    paths.sort_unstable();
    good.sort_unstable();
    assert_eq!(paths, good);
    let odd = backend.odd.lock().unwrap().clone();
    assert!(odd.is_empty(), "{odd:#?}");
}

/// It may be of a protocol that was asked for: nothing is put in its place, and nobody is told that the protocol has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_before_another_protocol_has_begun_ends_the_connection() {
    let mesh = Mesh::start(199).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let backend = backend::start(mesh.socket(1, 8080)).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, 8080))]);
    let early = head("GET /early HTTP/1.1\r\nhost: billing.shop\r\nconnection: upgrade\r\nupgrade: websocket") + "x\ny";
    assert_eq!(to_the_end(&mesh, &service, [early.as_str(), ""]).await, "");
    let odd = backend.odd.lock().unwrap().clone();
    assert!(odd.is_empty(), "{odd:#?}");
}

/// Headers of HTTP/2 that would be others in HTTP/1.1, and which a body goes with.
fn downgraded() -> Vec<(Vec<(&'static str, &'static str)>, &'static str)> {
    let with = |name, value| [frames::request("POST", "/bad"), vec![(name, value)]].concat();
    let instead = |name: &str, value: &'static str| -> Vec<(&'static str, &'static str)> {
        let fields = frames::request("POST", "/bad").into_iter();
        fields.map(|(key, before)| (key, if key == name { value } else { before })).collect()
    };
    vec![
        (with("x-a", "b\r\ntransfer-encoding: chunked"), "hello"),
        (with("x-a", "b\nx-c: d"), "hello"),
        (with("x-a", "b\rx-c: d"), "hello"),
        (with("x-a", "b\0c"), "hello"),
        (with("x-a: b\r\nx-c", "d"), "hello"),
        (with("x-a:", "d"), "hello"),
        (with("x a", "b"), "hello"),
        (with("X-A", "b"), "hello"),
        (with("", "b"), "hello"),
        (with("transfer-encoding", "chunked"), HELLO),
        (with("connection", "transfer-encoding"), "hello"),
        (with("keep-alive", "5"), "hello"),
        (with("upgrade", "websocket"), "hello"),
        (with("te", "gzip"), "hello"),
        (with("content-length", "3"), "hello"),
        (with("content-length", "10"), "hello"),
        (with("content-length", "0"), "GET /smuggled HTTP/1.1\r\n\r\n"),
        (with("content-length", "+5"), "hello"),
        (with("content-length", "5, 5"), "hello"),
        ([with("content-length", "5"), vec![("content-length", "6")]].concat(), "hello"),
        (with("content-length", "5"), ""),
        (with(":path", "/second"), "hello"),
        (with(":unknown", "b"), "hello"),
        (instead(":path", "/a b"), "hello"),
        (instead(":path", "/a HTTP/1.1\r\nx-c: d"), "hello"),
        (instead(":path", ""), "hello"),
        (instead(":method", "GET /smuggled HTTP/1.1\r\n\r\nGET"), "hello"),
        (instead(":method", "G T"), "hello"),
        (instead(":authority", "a b"), "hello"),
        (instead(":authority", "a\r\nx-c: d"), "hello"),
        (instead(":authority", "billing.shop@other"), "hello"),
    ]
}

/// One request on a connection of its own; whether it was answered with 200.
async fn ask(mesh: &Mesh, service: &Service, fields: &[(&str, &str)], body: &str) -> bool {
    let mut stream = tunnel(mesh, WEB, service.vip).await.unwrap();
    frames::begin(&mut stream).await.unwrap();
    let flags = if body.is_empty() { END_HEADERS | END_STREAM } else { END_HEADERS };
    let mut request = frames::frame(HEADERS, flags, 1, &frames::block(fields));
    if !body.is_empty() {
        request.extend(frames::frame(DATA, END_STREAM, 1, body.as_bytes()));
    }
    // It may have been refused before all of it was sent.
    let _sent = stream.write_all(&request).await;
    let answering = async {
        loop {
            match frames::next(&mut stream).await {
                // `:status: 200` of the static table.
                Some(came) if came.kind == HEADERS && came.id == 1 => return came.payload.first() == Some(&0x88),
                Some(came) if (came.kind, came.id) == (RST_STREAM, 1) || came.kind == GOAWAY => return false,
                Some(_) => {}
                None => return false,
            }
        }
    };
    tokio::time::timeout(PATIENCE, answering).await.unwrap_or_else(|_| panic!("no answer to {fields:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_another_request_in_http1_is_refused_in_http2() {
    let mesh = Mesh::start(163).await;
    let service = Service { protocol: "http1", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    let backend = backend::start(mesh.socket(1, 8080)).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, 8080))]);
    for (fields, body) in downgraded() {
        assert!(!ask(&mesh, &service, &fields, body).await, "{fields:?} is answered with 200");
    }
    let got = backend.got.lock().unwrap().clone();
    assert!(got.is_empty(), "{got:#?}");
    let good = |method, extra: &[(&'static str, &'static str)]| [frames::request(method, "/good"), extra.to_vec()].concat();
    for fields in [
        good("POST", &[]),
        good("POST", &[("content-length", "5")]),
        good("GET", &[]),
        good("GET", &[("content-length", "5")]),
        good("POST", &[("host", "other.shop")]),
    ] {
        assert!(ask(&mesh, &service, &fields, "hello").await, "{fields:?}");
        let got = backend.got.lock().unwrap().pop().unwrap();
        assert_eq!((got.values("host"), &got.body[..]), (vec!["billing.shop"], &b"hello"[..]), "{fields:?}: {got:?}");
    }
    let odd = backend.odd.lock().unwrap().clone();
    assert!(odd.is_empty(), "{odd:#?}");
}
