//! docs/wire-contract.md has a line for every field that a node proxy can receive, and the tests that it names are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// What a node proxy sends and never receives.
const SENT: [&str; 5] = ["ZdsHello", "WorkloadResponse", "Ack", "SnapshotSent", "IstioCertificateRequest"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The lines of the tables: what they are about, and the tests that they name.
fn table() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(root().join("docs/wire-contract.md")).unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let lines = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---") && !line.starts_with("| field"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [field, _, tests] = cells[..] else { panic!("three cells: {line}") };
            (field.trim_matches('`').to_owned(), quoted(tests))
        })
        .collect()
}

/// `Message.field` of every field of a schema, with the package before it where another schema has a message of that name.
fn fields() -> BTreeSet<String> {
    let mut found = Vec::new();
    for schema in ["authorization", "ca", "workload", "zds"] {
        let text = std::fs::read_to_string(root().join(format!("api/proto/{schema}.proto"))).unwrap();
        read(&text, &mut found);
    }
    let mut packages: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (package, message, _) in &found {
        packages.entry(message).or_default().insert(package);
    }
    let received = found.iter().filter(|(_, message, _)| !SENT.contains(&message.as_str()));
    let name = |(package, message, field): &(String, String, String)| match packages[message.as_str()].len() {
        1 => format!("{message}.{field}"),
        _ => format!("{package}.{message}.{field}"),
    };
    received.map(name).collect()
}

/// Package, message and field of each field: `type name = number;` within `message … {`.
fn read(text: &str, found: &mut Vec<(String, String, String)>) {
    let mut package = "";
    let mut blocks: Vec<(&str, &str)> = Vec::new();
    for line in text.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["package", name] => package = name.trim_end_matches(';'),
            [kind, name, "{"] => blocks.push((kind, name)),
            ["}"] => drop(blocks.pop()),
            ["reserved", ..] | [.., "{}"] => {}
            [.., name, "=", _] if line.ends_with(';') => {
                let message = blocks.iter().rev().find(|(kind, _)| *kind != "oneof");
                if let Some(("message", message)) = message {
                    found.push((package.to_owned(), (*message).to_owned(), name.to_owned()));
                }
            }
            _ => {}
        }
    }
    assert!(blocks.is_empty(), "{blocks:?}");
}

#[test]
fn every_field_that_a_node_proxy_can_receive_has_a_line() {
    let lines: Vec<String> = table().into_iter().map(|(field, _)| field).collect();
    let listed: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(listed.len(), lines.len(), "a field has two lines");
    let fields = fields();
    assert!(fields.len() > 100, "{} fields", fields.len());
    let missing: Vec<&String> = fields.iter().filter(|field| !listed.contains(field.as_str())).collect();
    assert!(missing.is_empty(), "no line for {missing:?}");
    let messages: BTreeSet<&str> = fields.iter().filter_map(|field| field.rsplit_once('.')).map(|(message, _)| message).collect();
    let of_ours = |field: &str| field.rsplit_once('.').is_some_and(|(message, _)| messages.contains(message));
    let gone: Vec<&str> = listed.into_iter().filter(|field| of_ours(field) && !fields.contains(*field)).collect();
    assert!(gone.is_empty(), "no such fields: {gone:?}");
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let mut sources = String::new();
    for part in ["api", "core", "ztunnel", "integration"] {
        collect(&root().join(part), &mut sources);
    }
    let there = |test: &str| {
        // A function of the standard harness, or a name that a suite on namespaces gives, perhaps after a mode.
        [format!("fn {test}("), format!("\"{test}\""), format!(": {test}\"")].iter().any(|form| sources.contains(form))
    };
    for (field, tests) in table() {
        assert!(!tests.is_empty(), "{field} names no test");
        let gone: Vec<&String> = tests.iter().filter(|test| !there(test)).collect();
        assert!(gone.is_empty(), "{field} names {gone:?}");
    }
}

fn collect(dir: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
