use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::chain::{Plugin, came_of, chained, unchained, used};
use super::node::{Look, Node, remove_state};

fn plugin() -> Plugin {
    Plugin { socket: "/run/a.sock".to_owned(), timeout_seconds: 30, exclude_namespaces: vec!["kube-system".to_owned()] }
}

/// As people write them: the order of keys and the spaces must come back.
const LIST: &str = r#"{"cniVersion":"1.0.0", "name":"pods",
  "plugins":[ {"type":"bridge","ipam":{"type":"host-local"}}, {"type":"portmap"} ] }
"#;
const ONE: &str = r#"{ "cniVersion": "0.3.1", "name": "net", "type": "bridge", "mtu": 1400 }"#;

fn types(text: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(text).unwrap();
    value["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

fn node() -> (tempfile::TempDir, Node) {
    let root = tempfile::tempdir().unwrap();
    let node = Node { conf: root.path().join("net.d"), bin: root.path().join("bin"), keep_program: false };
    fs::create_dir(&node.conf).unwrap();
    fs::create_dir(&node.bin).unwrap();
    (root, node)
}

#[test]
fn the_plugin_comes_last_once_and_with_its_present_settings() {
    let first = chained(LIST, &plugin()).unwrap().unwrap();
    assert_eq!(types(&first), ["bridge", "portmap", "ambit-cni"]);
    assert_eq!(chained(&first, &plugin()).unwrap(), None, "nothing is to be done twice");
    let other = Plugin { timeout_seconds: 5, ..plugin() };
    let second = chained(&first, &other).unwrap().unwrap();
    assert_eq!(types(&second), ["bridge", "portmap", "ambit-cni"]);
    assert!(second.contains("\"timeoutSeconds\": 5"));
    let not_last = first.replace("\"portmap\"", "\"ambit-cni\"");
    assert_eq!(types(&chained(&not_last, &plugin()).unwrap().unwrap()), ["bridge", "ambit-cni"]);
    assert!(came_of(&second, LIST) && !came_of(&second, ONE));
}

#[test]
fn what_is_no_network_configuration_is_refused_and_never_written() {
    for text in ["", "[]", "{}", r#"{"plugins":7}"#, r#"{"plugins":[]}"#, r#"{"plugins":[{"type":"ambit-cni"}]}"#] {
        assert!(chained(text, &plugin()).is_err(), "{text}");
    }
    assert_eq!(unchained(LIST).unwrap(), None);
}

#[test]
fn the_file_is_the_one_that_runtimes_use() {
    assert_eq!(used(["20-b.conflist", "10-a.conf", "05.txt", ".01.conf", "09.conflist.before-ambit"]), Some("10-a.conf"));
    assert_eq!(used(["README"]), None);
}

#[test]
fn what_the_node_proxy_kept_is_removed_and_nothing_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let (state, beside) = (root.path().join("state"), root.path().join("beside"));
    fs::create_dir(&state).unwrap();
    for file in [&beside, &state.join("mesh-state"), &state.join("mesh-state.lock")] {
        fs::write(file, "x").unwrap();
    }
    remove_state(&state).unwrap();
    assert!(!state.exists() && beside.exists());
    remove_state(&state).expect("nothing is left to do");
    assert!(remove_state(&beside).is_err(), "it is no directory");
}

#[test]
fn a_list_is_chained_and_given_back_byte_for_byte() {
    let (root, node) = node();
    let program = root.path().join("plugin");
    fs::write(&program, "program").unwrap();
    fs::write(node.conf.join("10-pods.conflist"), LIST).unwrap();
    fs::set_permissions(node.conf.join("10-pods.conflist"), fs::Permissions::from_mode(0o622)).unwrap();
    assert!(node.copy(&program).unwrap() && !node.copy(&program).unwrap());
    fs::write(node.conf.join(".10-pods.conflist.part"), "of one that was killed").unwrap();
    assert_eq!(node.chain(&plugin()).unwrap(), Look::Put("10-pods.conflist".to_owned()));
    assert_eq!(node.chain(&plugin()).unwrap(), Look::Chained("10-pods.conflist".to_owned()));
    for file in ["10-pods.conflist", "10-pods.conflist.before-ambit"] {
        let mode = fs::metadata(node.conf.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o622, "{file} has the rights that the first one had");
    }
    assert_eq!(node.restore().unwrap(), ["10-pods.conflist"]);
    assert_eq!(fs::read_to_string(node.conf.join("10-pods.conflist")).unwrap(), LIST);
    assert_eq!(fs::read_dir(&node.conf).unwrap().count(), 1, "nothing is left");
    assert_eq!(fs::read_dir(&node.bin).unwrap().count(), 0, "nothing is left");
    assert!(node.restore().unwrap().is_empty(), "once more it does nothing");
}

/// Runtimes read `.conf` and `.json` as one plugin, and only `.conflist` as a list.
#[test]
fn a_single_plugin_becomes_a_list_and_a_single_one_again() {
    for single in ["10-net.conf", "10-net.json"] {
        let (_root, node) = node();
        fs::write(node.conf.join(single), ONE).unwrap();
        assert_eq!(node.chain(&plugin()).unwrap(), Look::Put("10-net.conflist".to_owned()));
        let text = fs::read_to_string(node.conf.join("10-net.conflist")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["cniVersion"], &value["name"]), (&json!("0.3.1"), &json!("net")));
        assert_eq!(value["plugins"][0], json!({"type": "bridge", "mtu": 1400}));
        assert!(!node.conf.join(single).exists(), "the runtime would use it if it came first");
        assert_eq!(node.chain(&plugin()).unwrap(), Look::Chained("10-net.conflist".to_owned()));
        node.restore().unwrap();
        assert_eq!(fs::read_to_string(node.conf.join(single)).unwrap(), ONE);
        assert_eq!(fs::read_dir(&node.conf).unwrap().count(), 1, "nothing is left");
    }
}

#[test]
fn a_list_of_the_name_that_a_single_plugin_would_get_is_not_overwritten() {
    let (_root, node) = node();
    fs::write(node.conf.join("10-net.conf"), ONE).unwrap();
    fs::write(node.conf.join("10-net.conflist"), LIST).unwrap();
    let error = node.chain(&plugin()).unwrap_err().to_string();
    assert!(error.contains("10-net.conf: it would become 10-net.conflist"), "{error}");
    assert_eq!(fs::read_to_string(node.conf.join("10-net.conflist")).unwrap(), LIST);
}

#[test]
fn a_list_that_the_runtime_does_not_read_is_left_alone() {
    for name in ["10-net.conf", "10-net.json"] {
        let (_root, node) = node();
        fs::write(node.conf.join(name), LIST).unwrap();
        let error = node.chain(&plugin()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("rename it to 10-net.conflist"), "{error}");
        assert_eq!(fs::read_to_string(node.conf.join(name)).unwrap(), LIST);
    }
}

#[test]
fn what_another_tool_writes_is_chained_again_and_is_what_stays() {
    let (_root, node) = node();
    let path = node.conf.join("05-cilium.conflist");
    fs::write(&path, LIST).unwrap();
    node.chain(&plugin()).unwrap();
    let other = LIST.replace("portmap", "bandwidth");
    fs::write(&path, &other).unwrap();
    assert_eq!(node.chain(&plugin()).unwrap(), Look::Put("05-cilium.conflist".to_owned()));
    node.restore().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), other);

    // Changed with our plugin in it: only the plugin goes.
    node.chain(&plugin()).unwrap();
    let edited = fs::read_to_string(&path).unwrap().replace("bandwidth", "tuning");
    fs::write(&path, edited).unwrap();
    node.restore().unwrap();
    assert_eq!(types(&fs::read_to_string(&path).unwrap()), ["bridge", "tuning"]);
}

#[test]
fn a_file_that_comes_before_takes_the_chain_over() {
    let (_root, node) = node();
    fs::write(node.conf.join("10-pods.conflist"), LIST).unwrap();
    node.chain(&plugin()).unwrap();
    fs::write(node.conf.join("05-new.conflist"), LIST).unwrap();
    assert_eq!(node.chain(&plugin()).unwrap(), Look::Put("05-new.conflist".to_owned()));
    assert_eq!(node.restore().unwrap(), ["05-new.conflist", "10-pods.conflist"], "it is taken out of both");
}

/// CRI-O ends a pod by the chain by which it started it: without the program it could not.
#[test]
fn the_program_stays_where_pods_are_ended_with_it() {
    let (root, node) = node();
    let node = Node { keep_program: true, ..node };
    let program = root.path().join("plugin");
    fs::write(&program, "program").unwrap();
    fs::write(node.conf.join("10-pods.conflist"), LIST).unwrap();
    node.copy(&program).unwrap();
    node.chain(&plugin()).unwrap();
    node.restore().unwrap();
    assert_eq!(fs::read_to_string(node.conf.join("10-pods.conflist")).unwrap(), LIST);
    assert_eq!(fs::read_to_string(node.bin.join("ambit-cni")).unwrap(), "program");
}

#[test]
fn what_could_not_be_given_back_is_kept_until_it_can() {
    let (_root, node) = node();
    fs::write(node.conf.join("10-pods.conflist"), LIST).unwrap();
    node.chain(&plugin()).unwrap();
    let chained = fs::read(node.conf.join("10-pods.conflist")).unwrap();
    // Larger than a configuration can be, so that it is not read.
    fs::write(node.conf.join("10-pods.conflist"), vec![b' '; 2 << 20]).unwrap();
    assert!(node.restore().is_err());
    fs::write(node.conf.join("10-pods.conflist"), chained).unwrap();
    node.restore().unwrap();
    assert_eq!(fs::read_to_string(node.conf.join("10-pods.conflist")).unwrap(), LIST);
    assert_eq!(fs::read_dir(&node.conf).unwrap().count(), 1, "nothing is left");
}

#[test]
fn a_broken_file_is_left_alone() {
    let (_root, node) = node();
    let path = node.conf.join("10-pods.conflist");
    fs::write(&path, "{\"cniVersion\":").unwrap();
    assert!(node.chain(&plugin()).is_err());
    assert!(node.restore().unwrap().is_empty());
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"cniVersion\":");
    assert!(node.chain(&plugin()).unwrap_err().to_string().contains("10-pods.conflist"));
}

#[test]
fn to_read_a_file_does_not_bring_about_the_next_look() {
    use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
    let reading = [AccessKind::Open(AccessMode::Any), AccessKind::Read, AccessKind::Close(AccessMode::Read)];
    assert!(reading.into_iter().all(|access| !super::changes(EventKind::Access(access))));
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    assert!([written, EventKind::Create(CreateKind::File), EventKind::Modify(ModifyKind::Any)].into_iter().all(super::changes));
}
