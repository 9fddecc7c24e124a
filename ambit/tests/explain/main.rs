//! `ambit explain connection` as a user runs it, on the demonstration's files; requests beside it.

mod request;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Demo(tempfile::TempDir);

impl Demo {
    fn new() -> Self {
        let demo = Self(tempfile::tempdir().unwrap());
        for entry in manifests().read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                std::fs::copy(&path, demo.0.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        demo
    }

    /// Renames one of the files that are off.
    fn switch_on(&self, name: &str) {
        std::fs::copy(manifests().join(format!("{name}.off")), self.0.path().join(name)).unwrap();
    }

    fn explain(&self, from: &str, to: &str, more: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
        command.args(["explain", "connection", "--from", from, "--to", to, "--dir"]).arg(self.0.path()).args(more);
        run(command)
    }
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo")
}

fn run(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_connection_that_is_allowed_is_told_step_by_step() {
    let (code, said, _) = Demo::new().explain("shop/web-1", "api:8080", &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("shop/web-1 -> api:8080\nALLOWED\n"), "{said}");
    for part in [
        "shop/web-1 is captured, as spiffe://cluster.local/ns/shop/sa/web",
        "the service api.shop.svc.cluster.local",
        "because no ALLOW policy applies",
        "assumed: ",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
}

#[test]
fn a_refusal_names_the_policy_and_its_rule_and_is_the_exit_code() {
    let demo = Demo::new();
    demo.switch_on("deny-web.yaml");
    let (code, said, _) = demo.explain("shop/web-1", "api:8080", &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("REFUSED (policy_denied_explicit)\n"), "{said}");
    assert!(said.contains("because A DENY policy matched (shop/no-web, rules[0])"), "{said}");
    let (code, said, _) = demo.explain("shop/web-1", "api:8080", &["--json"]);
    let read: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &read["verdict"], &read["reason"]), (1, &"refused".into(), &"policy_denied_explicit".into()), "{said}");
    assert_eq!(read["ways"][0]["policy"], "shop/no-web", "{said}");
}

#[test]
fn a_service_with_a_waypoint_goes_through_it() {
    let (code, said, _) = Demo::new().explain("shop/api-1", "billing.billing:8080", &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("through the waypoint billing/waypoint"), "{said}");
    assert!(said.contains("assumed: the waypoint billing/waypoint runs and is ready"), "{said}");
}

#[test]
fn what_cannot_be_said_is_neither_allowed_nor_refused() {
    let demo = Demo::new();
    let (code, said, error) = demo.explain("shop/wbe-1", "api:8080", &[]);
    assert_eq!((code, said.as_str()), (2, ""), "{error}");
    assert!(error.contains("there is no pod shop/wbe-1; near are shop/web-1"), "{error}");
    std::fs::write(demo.0.path().join("broken.yaml"), "kind: Pod\napiVersion: v1\nmetadata: {name: [}\n").unwrap();
    let (code, said, error) = demo.explain("shop/web-1", "api:8080", &[]);
    assert_eq!((code, said.as_str()), (2, ""), "{error}");
    assert!(error.contains("broken.yaml"), "{error}");
}

#[test]
fn a_proxy_that_is_not_there_is_said_with_its_address() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
    // Nobody listens on the discard port.
    command.args(["explain", "connection", "--from", "a/b", "--to", "c:80", "--ztunnel", "http://127.0.0.1:9"]);
    let (code, _, error) = run(command);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("asking the node proxy at http://127.0.0.1:9"), "{error}");
}

/// With all commands: they print in the same way.
#[test]
fn that_nobody_reads_an_answer_is_no_fault_and_that_the_disk_is_full_is_one() {
    let demo = Demo::new();
    let printing = |form: &[&str], to: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
        command.args(["explain", "connection", "--from", "shop/web-1", "--to", "api:8080", "--dir"]).arg(demo.0.path());
        command.args(form).stdout(to);
        let (code, _, error) = run(command);
        (code, error)
    };
    for form in [&[][..], &["--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(printing(form, writer.into()), (0, String::new()));
        let (code, error) = printing(form, File::options().write(true).open("/dev/full").unwrap().into());
        assert!(code == 1 && error.starts_with("ambit: printing: No space left"), "{code} {error}");
    }
}
