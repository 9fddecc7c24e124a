//! The HBONE port against h2spec, a test suite for HTTP/2 (RFC 9113, RFC 7541) of others.
//!
//! It knows nothing of client certificates, and asks with GET and POST what is to be tried with tunnels. So it talks to a proxy of this
//! test, which makes a mutual TLS connection for each of its own, and a CONNECT to an application of each plain GET or POST. What it asks
//! in another way goes through as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use ambit_testbed::{Command, Output, Pod};
use anyhow::{Context, bail, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
};

use crate::{
    hostile,
    mesh::{Mesh, PATIENCE, call_until_it_works, echo},
    test,
};

/// What does not go as h2spec wishes, and the clause by which it need not.
const BY_DESIGN: [(&str, &str, &str); 5] = [
    (
        "http2/4.2",
        "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
        "it takes 16,384 bytes for the largest frame; ours is 1 MiB, as our SETTINGS say (RFC 9113, section 6.5.2). The list is beyond what \
         is accepted, and answered with 431 (section 10.5.1)",
    ),
    (
        "http2/5.3.1",
        "Sends HEADERS frame that depend on itself",
        "the priorities of RFC 7540 are deprecated, and what they say is ignored (RFC 9113, section 5.3.2)",
    ),
    (
        "http2/5.3.1",
        "Sends PRIORITY frame that depend on itself",
        "the priorities of RFC 7540 are deprecated, and what they say is ignored (RFC 9113, section 5.3.2)",
    ),
    (
        "http2/8.1.2.6",
        "Sends a HEADERS frame with the \"content-length\" header field which does not equal the DATA frame payload length",
        "DATA of a CONNECT is of its tunnel and no content, which a content-length could be about (RFC 9113, section 8.5; RFC 9110, section 9.3.6)",
    ),
    (
        "http2/8.1.2.6",
        "Sends a HEADERS frame with the \"content-length\" header field which does not equal the sum of the multiple DATA frames payload length",
        "DATA of a CONNECT is of its tunnel and no content, which a content-length could be about (RFC 9113, section 8.5; RFC 9110, section 9.3.6)",
    ),
];
/// What goes either way, for it depends on how fast the tunnels end that it opens: 201 of them, each ended at once.
const EITHER_WAY: (&str, &str) =
    ("http2/5.1.2", "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded");
/// Cases that it has; strict ones too.
const CASES: usize = 146;
/// How long one case may wait for an answer, seconds. What fails is tried again with more of it.
const WAITS: [&str; 3] = ["2", "4", "8"];
const PORT: u16 = 7540;

pub fn tests() -> Vec<Trial> {
    vec![test("the_tunnel_port_speaks_http2_as_the_rfc_has_it", conforms)]
}

async fn conforms() -> anyhow::Result<()> {
    let mesh = Arc::new(Mesh::start().await?);
    let (peer, server, client) = (mesh.outsider(0, "peer", false).await?, mesh.pod(1, "api").await?, mesh.pod(0, "web").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, 2 * PATIENCE).await?;
    let proxy = tokio::spawn(serve(Arc::clone(&mesh), peer.clone(), server.clone()));
    let mut wrong = BTreeSet::new();
    for wait in WAITS {
        let found = run(&peer, wait).await?;
        ensure!(found.len() == CASES, "h2spec has {} cases, not {CASES}: another version?", found.len());
        wrong = differing(&found);
        if wrong.is_empty() {
            break;
        }
        // A machine that is busy lets an answer come late.
        println!("within {wait} seconds: {wrong:#?}");
    }
    ensure!(wrong.is_empty(), "not as expected, and not for want of time: {wrong:#?}");
    call_until_it_works(&client, to, PATIENCE).await.context("afterwards")?;
    proxy.abort();
    mesh.bed.shutdown().await;
    Ok(())
}

/// Cases that fail and should not, and those that should and do not.
fn differing(found: &BTreeMap<(String, String), bool>) -> BTreeSet<String> {
    let by_design =
        |case: &(String, String)| BY_DESIGN.iter().any(|(section, title, _)| (*section, *title) == (&*case.0, &*case.1));
    let either_way = |case: &(String, String)| (&*case.0, &*case.1) == EITHER_WAY;
    let differs = |(case, passed): (&(String, String), &bool)| *passed == by_design(case) && !either_way(case);
    let told = |(case, passed): (&(String, String), &bool)| {
        format!("{} {:?} {}", case.0, case.1, if *passed { "passes" } else { "fails" })
    };
    let missing =
        BY_DESIGN.iter().filter(|(section, title, _)| !found.contains_key(&((*section).to_owned(), (*title).to_owned())));
    let missing = missing.map(|(section, title, _)| format!("{section} {title:?} was not tried"));
    found.iter().filter(|one| differs(*one)).map(told).chain(missing).collect()
}

/// All cases by section and title, and whether they pass.
async fn run(pod: &Pod, wait: &str) -> anyhow::Result<BTreeMap<(String, String), bool>> {
    let report = pod.dir().join(format!("h2spec-{wait}.xml"));
    let command = Command::new("h2spec")
        .args(["--host", "127.0.0.1", "--port", &PORT.to_string(), "--strict", "--timeout", wait, "--junit-report"])
        .arg(&report)
        .output(Output::File(pod.dir().join("h2spec.log")));
    let running =
        pod.spawn(command).context("h2spec cannot be started: integration/test.sh installs it, for which it needs Go")?;
    // It says by its status whether all has passed.
    tokio::time::timeout(Duration::from_secs(300), running.wait()).await.context("h2spec does not end")?;
    let text = std::fs::read_to_string(&report).context("h2spec wrote no report")?;
    let cases: Vec<&str> = text.split("<testcase ").skip(1).collect();
    let mut found = BTreeMap::new();
    for case in &cases {
        let attribute = |name: &str| {
            let value = case.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
            value.map(|(value, _)| value.replace("&#34;", "\"").replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">"))
        };
        let (Some(section), Some(mut title)) = (attribute("package"), attribute("classname")) else { bail!("{case}") };
        let passed = !case.contains("<error") && !case.contains("<failure") && !case.contains("<skipped");
        // Some sections ask the same twice.
        while found.contains_key(&(section.clone(), title.clone())) {
            title.push_str(" (again)");
        }
        found.insert((section, title), passed);
    }
    Ok(found)
}

/// Takes connections of h2spec, each of which becomes one of a peer of the mesh.
async fn serve(mesh: Arc<Mesh>, peer: Pod, server: Pod) -> anyhow::Result<()> {
    let listener = peer.listen(SocketAddr::from(([127, 0, 0, 1], PORT)))?;
    let target = SocketAddr::new(server.ip(), 8080).to_string();
    loop {
        let (tcp, _) = listener.accept().await?;
        let (mesh, peer, server, target) = (Arc::clone(&mesh), peer.clone(), server.clone(), target.clone());
        tokio::spawn(async move { carry(&mesh, &peer, &server, tcp, &target).await });
    }
}

async fn carry(mesh: &Mesh, peer: &Pod, server: &Pod, tcp: TcpStream, target: &str) -> anyhow::Result<()> {
    let (mut from_server, mut to_server) = tokio::io::split(hostile::tls(mesh, peer, server).await?);
    let (mut from_client, mut to_client) = tcp.into_split();
    let up = async {
        let _ended = ask(&mut from_client, &mut to_server, target).await;
        to_server.shutdown().await
    };
    let down = async {
        let _ended = tokio::io::copy(&mut from_server, &mut to_client).await;
        to_client.shutdown().await
    };
    let _ended = tokio::join!(up, down);
    Ok(())
}

/// Passes on what h2spec sends, frame by frame once HTTP/2 has begun.
async fn ask(from: &mut OwnedReadHalf, to: &mut (impl AsyncWriteExt + Unpin), target: &str) -> anyhow::Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const HEADERS: u8 = 1;
    let mut preface = Vec::new();
    while preface.len() < PREFACE.len() && PREFACE.starts_with(&preface) {
        preface.push(from.read_u8().await?);
    }
    to.write_all(&preface).await?;
    if preface != PREFACE {
        tokio::io::copy(from, to).await?;
        return Ok(());
    }
    loop {
        let mut head = [0; 9];
        read_or_pass_on(from, to, &mut head, &[]).await?;
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        if head[3] != HEADERS {
            to.write_all(&head).await?;
            tokio::io::copy(&mut from.take(length), to).await?;
            continue;
        }
        let mut payload = vec![0; usize::try_from(length)?];
        read_or_pass_on(from, to, &mut payload, &head).await?;
        let payload = tunnelled(head[4], &payload, target);
        let length = u32::try_from(payload.len())?.to_be_bytes();
        to.write_all(&[&length[1..], &head[3..], &payload].concat()).await?;
    }
}

/// Fills `buffer`; when it ends before, what there is goes on after `before`.
async fn read_or_pass_on(
    from: &mut OwnedReadHalf,
    to: &mut (impl AsyncWriteExt + Unpin),
    buffer: &mut [u8],
    before: &[u8],
) -> anyhow::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]).await? {
            0 => {
                to.write_all(&[before, &buffer[..filled]].concat()).await?;
                bail!("it ended");
            }
            count => filled += count,
        }
    }
    Ok(())
}

/// A plain GET or POST (RFC 7541, appendix A: method, scheme and path by their indices) as a CONNECT. The authority stays one that is put into the
/// table, so that the indices of what follows are right.
fn tunnelled(flags: u8, payload: &[u8], target: &str) -> Vec<u8> {
    const PADDED: u8 = 8;
    const PRIORITY: u8 = 0x20;
    const NEW_AUTHORITY: u8 = 0x41;
    let before = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let (Some(head), Some(block)) = (payload.get(..before), payload.get(before..)) else { return payload.to_vec() };
    let [0x82 | 0x83, 0x86, 0x84, rest @ ..] = block else { return payload.to_vec() };
    let mut rest = rest.to_vec();
    if let [NEW_AUTHORITY, length, ..] = rest[..] {
        let end = 2 + usize::from(length & 0x7f);
        let length = u8::try_from(target.len()).expect("an address");
        // A block in pieces keeps its own, and is refused for it.
        if end <= rest.len() {
            rest.splice(..end, [&[NEW_AUTHORITY, length], target.as_bytes()].concat());
        }
    }
    [head, b"\x02\x07CONNECT", &rest].concat()
}
