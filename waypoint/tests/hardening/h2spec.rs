//! The HTTP/2 that a waypoint speaks with clients against h2spec, a test suite for it (RFC 9113, RFC 7541) of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Stdio,
    sync::Arc,
};

use tokio::process::Command;

use super::{
    PATIENCE, front,
    support::{
        WEB, billing,
        client::{get, once},
    },
};

/// What does not go as h2spec wishes, and the clause by which it need not.
const BY_DESIGN: [(&str, &str, &str); 0] = [];
/// What goes either way, and why.
const EITHER_WAY: [(&str, &str, &str); 2] = [
    (
        "http2/5.1.2",
        "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
        "of 1,001 requests that are answered at once there need not be 1,001 under way at any time",
    ),
    (
        "http2/3.5",
        "Sends invalid connection preface",
        "what does not begin as HTTP/2 is taken for HTTP/1, and its connection ends with 400; h2spec sees frames or an end, as they come",
    ),
];
/// Cases that it has; strict ones too.
const CASES: usize = 146;
/// How long one case may wait for an answer, seconds. What fails is tried again with more of it.
const WAITS: [&str; 3] = ["1", "3", "8"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_inside_of_tunnels_is_http2_as_the_rfc_has_it() {
    ambit_runtime::sys::raise_open_files().unwrap();
    let (mesh, service, _) = billing(160).await;
    let mesh = Arc::new(mesh);
    let port = front(&mesh, service.vip).await;
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = BTreeSet::new();
    for wait in WAITS {
        let found = run(port, directory.path(), wait).await;
        assert_eq!(found.len(), CASES, "another version of h2spec?");
        wrong = differing(&found);
        if wrong.is_empty() {
            break;
        }
        // A machine that is busy lets an answer come late.
        println!("within {wait} seconds: {wrong:#?}");
    }
    assert!(wrong.is_empty(), "not as expected, and not for want of time: {wrong:#?}");
    assert_eq!(once(&mesh, WEB, service.vip, get("/afterwards")).await.0, 200);
}

/// Cases that fail and should not, and those that should and do not.
fn differing(found: &BTreeMap<(String, String), bool>) -> BTreeSet<String> {
    let listed = |list: &[(&str, &str, &str)], case: &(String, String)| {
        list.iter().any(|(section, title, _)| (*section, *title) == (&*case.0, &*case.1))
    };
    let all = found.iter().filter(|(case, _)| !listed(&EITHER_WAY, case));
    let differ = all.filter(|(case, passed)| **passed == listed(&BY_DESIGN, case));
    differ.map(|(case, passed)| format!("{} {:?} {}", case.0, case.1, if *passed { "passes" } else { "fails" })).collect()
}

/// All cases by section and title, and whether they pass.
async fn run(port: u16, directory: &Path, wait: &str) -> BTreeMap<(String, String), bool> {
    let report = directory.join(format!("h2spec-{wait}.xml"));
    let mut command = Command::new("h2spec");
    command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--strict", "--timeout", wait, "--junit-report"]);
    command.arg(&report).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    // It says by its status whether all has passed.
    let running = tokio::time::timeout(5 * PATIENCE, command.status()).await.expect("h2spec does not end");
    running.expect("h2spec cannot be started: integration/programs.sh h2spec builds it, in target/test-tools/bin");
    let text = std::fs::read_to_string(&report).expect("a report");
    let mut found = BTreeMap::new();
    for case in text.split("<testcase ").skip(1) {
        let attribute = |name: &str| {
            let value = case.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
            let value = value.unwrap_or_else(|| panic!("no {name} in {case}")).0;
            value.replace("&#34;", "\"").replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">")
        };
        let (section, mut title) = (attribute("package"), attribute("classname"));
        let passed = !case.contains("<error") && !case.contains("<failure") && !case.contains("<skipped");
        // Some sections ask the same twice.
        while found.contains_key(&(section.clone(), title.clone())) {
            title.push_str(" (again)");
        }
        found.insert((section, title), passed);
    }
    found
}
