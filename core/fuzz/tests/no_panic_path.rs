//! The crates that read what a peer sends deny what panics, and nothing in them allows it again.

#![allow(missing_docs)]

use std::path::{Path, PathBuf};

const CRATES: [&str; 6] = ["core/identity", "core/model", "core/hbone", "core/xds", "core/tls", "ztunnel/zds"];
const DENIED: [&str; 8] =
    ["unwrap_used", "expect_used", "indexing_slicing", "string_slice", "panic", "unreachable", "todo", "unimplemented"];
/// Functions that run when they are compiled: what panics there is an error of the compiler.
const ALLOWED: [&str; 1] = ["core/hbone/src/hpack/huffman.rs"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn crates_that_read_what_a_peer_sends_deny_what_panics() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for name in CRATES {
        let root = std::fs::read_to_string(workspace.join(name).join("src/lib.rs")).unwrap();
        let denied =
            root.split_once("#![cfg_attr(\n    not(test),\n    deny(").and_then(|(_, rest)| rest.split_once("    )\n)]"));
        let denied = denied.unwrap_or_else(|| panic!("{name} denies nothing")).0;
        for lint in DENIED {
            assert!(denied.contains(&format!("clippy::{lint}")), "{name} does not deny {lint}");
        }
        assert!(root.contains("#![forbid(unsafe_code)]"), "{name}");
        let mut files = Vec::new();
        sources(&workspace.join(name).join("src"), &mut files);
        assert!(!files.is_empty());
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let path = file.to_string_lossy().split_once("/../../").unwrap().1.to_owned();
            for opened in text.lines().filter(|line| line.contains("allow(") || line.contains("expect(clippy")) {
                let panics = DENIED.iter().any(|lint| opened.contains(&format!("clippy::{lint}")));
                assert!(!panics || ALLOWED.contains(&path.as_str()) && opened.contains("reason ="), "{path}: {opened}");
            }
        }
    }
}
