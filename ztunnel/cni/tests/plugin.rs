//! The plugin as a runtime runs it: a program with an environment, a configuration on its standard input, and an agent at a socket.

use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
};

use serde_json::{Value, json};

/// An agent that gives one answer to everything, and what it was asked.
fn agent(socket: &Path, answer: &'static str) -> mpsc::Receiver<String> {
    let listener = UnixListener::bind(socket).unwrap();
    let (asked, asks) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            // Up to the end of the JSON body, or of a head without one.
            while !request.ends_with(b"}\n") && !request.ends_with(b"content-length: 0\r\n\r\n") {
                if stream.read(&mut byte).unwrap() == 0 {
                    break;
                }
                request.push(byte[0]);
                let text = String::from_utf8_lossy(&request);
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                    if body.len() >= length.parse().unwrap() {
                        break;
                    }
                }
            }
            stream.write_all(answer.as_bytes()).unwrap();
            if asked.send(String::from_utf8(request).unwrap()).is_err() {
                return;
            }
        }
    });
    asks
}

/// The program, beside the directory of this test.
fn plugin() -> std::path::PathBuf {
    let here = std::env::current_exe().unwrap();
    here.parent().unwrap().parent().unwrap().join("ambit-cni")
}

/// Runs the plugin; what it printed and whether the runtime may go on.
fn run(command: &str, socket: &Path) -> (Value, bool) {
    let configuration = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "ambit-cni", "agentSocket": socket, "timeoutSeconds": 2,
        "prevResult": { "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0" }], "ips": [{ "address": "10.0.0.5/24" }], "own": 1 },
    });
    let mut child = Command::new(plugin())
        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")])
        .env("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(configuration.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() };
    (printed, output.status.success())
}

#[test]
fn a_pod_that_the_agent_takes_starts_with_the_result_of_the_plugins_before() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cni.sock");
    let asks = agent(&socket, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let (printed, started) = run("ADD", &socket);
    assert!(started && printed["own"] == 1 && printed["ips"][0]["address"] == "10.0.0.5/24", "{printed}");
    let asked = asks.recv().unwrap();
    assert!(asked.starts_with("POST /cmdadd ") && asked.contains(r#""PodName":"web""#) && asked.contains("c1"), "{asked}");
}

#[test]
fn a_pod_that_the_agent_refuses_does_not_start_and_the_reason_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cni.sock");
    let _asks = agent(&socket, "HTTP/1.1 500 Internal Server Error\r\n\r\ncapture rules: no packet filter works here");
    let (printed, started) = run("ADD", &socket);
    assert!(!started && printed["code"] == 100 && printed["cniVersion"] == "1.0.0", "{printed}");
    assert_eq!(printed["msg"], "capture rules: no packet filter works here");
}

#[test]
fn without_an_agent_no_pod_starts_and_every_pod_may_end() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nobody.sock");
    let (printed, started) = run("ADD", &socket);
    assert!(!started && printed["code"] == 11 && printed["msg"].as_str().unwrap().contains("nobody.sock"), "{printed}");
    assert_eq!(run("DEL", &socket), (Value::Null, true));
    let (printed, available) = run("STATUS", &socket);
    assert!(!available && printed["code"] == 50, "{printed}");
}

#[test]
fn it_tells_which_versions_it_speaks_without_an_agent() {
    let (printed, well) = run("VERSION", Path::new("/nowhere"));
    assert!(well && printed["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")), "{printed}");
}
