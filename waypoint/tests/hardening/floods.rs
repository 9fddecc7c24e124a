//! Peers that send more than they want answered.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    ALONE, PATIENCE,
    frames::{self, CANCEL, CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM},
    resident,
    support::{
        BILLING, Limits, Mesh, WEB,
        client::{get, once, tunnel},
        endpoint::{self, HTTP},
        resources::{Ep, Service},
    },
};

/// Requests that are taken back at once (CVE-2023-44487), on each of `CONNECTIONS`.
const RESETS: u32 = 2000;
const CONNECTIONS: u32 = 2;
/// Fewer than are taken back altogether, and more than may be under way on those connections at once: what is taken back has to be let go.
const REQUESTS: usize = 2500;
/// More memory than any of this may take, in KiB.
const MEMORY: u64 = 96 << 10;
/// Frames of a list of headers that never ends (CVE-2024-27316).
const ENDLESS: usize = 4000;

async fn mesh(number: u8) -> (Mesh, Service) {
    let mesh = Mesh::start_with(number, Limits { requests: REQUESTS, ..Limits::default() }).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);
    (mesh, service)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_taken_back_at_once_leave_nothing_behind_and_others_are_served() {
    let _alone = ALONE.lock().await;
    let (mesh, service) = mesh(164).await;
    let before = resident();
    for _ in 0..CONNECTIONS {
        let stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        let (mut from, mut to) = tokio::io::split(stream);
        frames::begin(&mut to).await.unwrap();
        let told = tokio::spawn(async move {
            while let Some(came) = frames::next(&mut from).await {
                if came.kind == GOAWAY {
                    return came.payload.get(4..8).map(<[u8]>::to_vec);
                }
            }
            None
        });
        let block = frames::block(&frames::request("GET", "/held"));
        let mut sent = 0;
        for number in 0..RESETS {
            let id = 2 * number + 1;
            let pair = [
                frames::frame(HEADERS, END_HEADERS | END_STREAM, id, &block),
                frames::frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes()),
            ];
            if to.write_all(&pair.concat()).await.is_err() {
                break;
            }
            sent += 1;
            if number % 500 == 0 {
                assert_eq!(once(&mesh, WEB, service.vip, get("/others")).await.0, 200, "after {sent}");
            }
        }
        let _ended = to.shutdown().await;
        let told = tokio::time::timeout(PATIENCE, told).await.expect("the connection does not end").unwrap();
        println!("{sent} requests were sent and taken back; told: {told:?}");
    }
    assert_eq!(once(&mesh, WEB, service.vip, get("/afterwards")).await.0, 200);
    let grown = resident().saturating_sub(before);
    println!("{grown} KiB more than before");
    assert!(grown < MEMORY, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_headers_without_end_ends_its_connection() {
    let _alone = ALONE.lock().await;
    let (mesh, service) = mesh(165).await;
    let before = resident();
    // Fields that fill a frame, small ones, and none at all.
    let long = "a".repeat(100);
    let large = frames::block(&[("x-large", long.as_str())]).repeat(140);
    let small = frames::block(&[("x-a", "b")]);
    for payload in [&large[..], &small[..], &[][..]] {
        let stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        let (mut from, mut to) = tokio::io::split(stream);
        frames::begin(&mut to).await.unwrap();
        let ended = tokio::spawn(async move {
            while let Some(came) = frames::next(&mut from).await {
                if came.kind == GOAWAY {
                    return;
                }
            }
        });
        let block = frames::block(&frames::request("GET", "/"));
        to.write_all(&frames::frame(HEADERS, END_STREAM, 1, &block)).await.unwrap();
        let mut sent = 0;
        while sent < ENDLESS && !ended.is_finished() {
            if to.write_all(&frames::frame(CONTINUATION, 0, 1, payload)).await.is_err() {
                break;
            }
            sent += 1;
            // What was written is to be read before there is more of it than matters.
            tokio::task::yield_now().await;
        }
        let length = payload.len();
        tokio::time::timeout(PATIENCE, ended)
            .await
            .unwrap_or_else(|_| panic!("{ENDLESS} frames of {length} bytes are taken"))
            .unwrap();
        println!("ended after {sent} frames of {length} bytes or fewer");
    }
    assert_eq!(once(&mesh, WEB, service.vip, get("/afterwards")).await.0, 200);
    let grown = resident().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_has_an_end_to_what_it_reads_of_a_head_too() {
    let (mesh, service) = mesh(166).await;
    let line = "GET / HTTP/1.1\r\nhost: billing.shop\r\n";
    let many: String = (0..200).map(|number| format!("x-{number}: a\r\n")).collect();
    let heads = [
        ("one long field", format!("{line}x-long: {}", "a".repeat(1 << 20))),
        ("many fields", format!("{line}{many}\r\n")),
        ("a long target", format!("GET /{} HTTP/1.1\r\n", "a".repeat(1 << 20))),
    ];
    for (what, head) in heads {
        let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        let mut answer = Vec::new();
        let asking = async {
            let _sent = stream.write_all(head.as_bytes()).await;
            stream.read_to_end(&mut answer).await
        };
        // It may be reset with what it has not read.
        let _ended = tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what} may go on for ever"));
        let status = String::from_utf8_lossy(&answer).get(9..12).unwrap_or_default().to_owned();
        assert!(["", "414", "431"].contains(&&*status), "{what}: {status}");
    }
    assert_eq!(once(&mesh, WEB, service.vip, get("/afterwards")).await.0, 200);
}
