//! `ambit ca` as a user runs it, against a control plane's page.

#![allow(missing_docs)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Command, Output},
    thread,
};

const REPORT: &str = r#"{"kept":"Secret istio-system/ambit-ca","phase":"overlapping","explanation":"the old root is believed until all certificates under it have ended, at 2026-11-23T00:05:00Z",
"due":1795392300,"certificateSeconds":86400,"issuer":{"subject":"CN=new","origin":"from Secret cacerts","root":"bb22","notAfter":1826841600},"next":null,
"roots":[{"subject":"CN=new","sha256":"bb22","notAfter":1826841600,"distributed":1795219200,"unused":null},{"subject":"CN=old","sha256":"aa11","notAfter":1826841600,"distributed":1790000000,"unused":1795305600}],
"problems":[PROBLEMS],
"refusals":[{"at":1795305600,"peer":"10.0.0.1:4711","caller":"shop/web in pod web","asked":"spiffe://cluster.local/ns/shop/sa/api","reason":"shop/web is not a node account"}]}"#;

/// Answers one question of `ambit ca` with this; returns what was asked for, and what the command said.
fn answered(status: &str, body: &str, arguments: &[&str]) -> (String, Output) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let asked = lines.next().unwrap().unwrap();
        while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        stream.write_all(answer.as_bytes()).unwrap();
        asked
    });
    let output = ambit(&[&["ca", "status", "--istiod", &url], arguments].concat());
    (server.join().unwrap(), output)
}

fn ambit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ambit"))
        .args(arguments)
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

#[test]
fn the_page_of_a_control_plane_is_shown_to_people_and_to_programs() {
    let well = REPORT.replace("PROBLEMS", "");
    let (asked, shown) = answered("200 OK", &well, &[]);
    assert_eq!(asked, "GET /debug/ca HTTP/1.1");
    let text = String::from_utf8(shown.stdout).unwrap();
    for part in [
        "state         overlapping (2 of 2): the new issuer signs, the old root is still believed",
        "issuer        CN=new, from Secret cacerts",
        "certificates  live for 24 h at most",
        "nothing is signed under it since 2026-11-22T00:00:00Z",
        "shop/web in pod web at 10.0.0.1:4711 asked for spiffe://cluster.local/ns/shop/sa/api: shop/web is not a node account",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_eq!(shown.status.code(), Some(0));
    let (_, json) = answered("200 OK", &well, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["phase"], "overlapping");
}

#[test]
fn problems_and_what_cannot_be_said_have_exit_codes_of_their_own() {
    let (_, problems) =
        answered("200 OK", &REPORT.replace("PROBLEMS", "\"Secret istio-system/cacerts, key ca-key.pem: it is missing\""), &[]);
    assert_eq!(problems.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&problems.stdout).contains("problem       Secret istio-system/cacerts, key ca-key.pem"));
    for (status, body, said) in [("404 Not Found", "", "it answered 404"), ("200 OK", "{}", "it answered something else")] {
        let (_, wrong) = answered(status, body, &[]);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&wrong.stderr).contains(said), "{wrong:?}");
    }
    for (arguments, said) in [
        (&["ca", "status", "--istiod", "https://localhost"][..], "http://HOST:PORT"),
        (&["ca", "rotate", "--kubeconfig", "/nonexistent/config"], "--kubeconfig FILE"),
    ] {
        let wrong = ambit(arguments);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&wrong.stderr).contains(said), "{wrong:?}");
    }
}
