//! The benchmark of the node path as a person runs it, in a few seconds: its order, its figures, its page, and its comparison with itself.

#![allow(missing_docs)]

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use perf::document::Document;

/// All of it takes less, also where the machine is busy and the program is not optimised.
const LIMIT: Duration = Duration::from_secs(120);

/// The program to its end, with what it said; `perf node` puts itself into namespaces of its own.
fn run(arguments: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perf"));
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let [said, told] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "perf {arguments:?}: {}\n{said}\n{told}", output.status);
    (said, told)
}

/// Which paths were measured in the rounds of `what`, in order, as the program tells while it goes on.
fn order<'a>(told: &'a str, what: &str) -> Vec<&'a str> {
    told.lines().filter_map(|line| line.strip_prefix(what)?.strip_prefix(", round ")).collect()
}

fn check_figures(run: &Document) {
    let everywhere = ["requests_1", "requests_16", "requests_64", "paced_p50", "paced_p99", "bulk_1", "bulk_8", "connections"];
    let fair = ["fair_full", "fair_paced"];
    let of_proxies = [
        "cpu_requests_1",
        "cpu_requests_16",
        "cpu_requests_64",
        "cpu_bulk_1",
        "cpu_bulk_8",
        "cpu_connections",
        "switches_1",
        "memory_idle",
        "memory_held",
        "memory_rest",
        "memory_peak",
        "rss_idle",
        "start_ready",
    ];
    let has = |path: &str, key: &str| {
        let rounds = run.results.rounds(path, key);
        let whole = rounds.iter().flatten().filter(|value| value.is_finite() && **value >= 0.0).count();
        assert!(!rounds.is_empty() && whole == rounds.len(), "{path} {key}: {rounds:?}");
        rounds.len()
    };
    for path in ["no-mesh", "ztunnel"] {
        for key in everywhere.iter().chain(&fair) {
            assert_eq!(has(path, key), 2, "{path} {key}");
            assert!(run.medians[path][*key].median > 0.0, "{path} {key}");
        }
        assert_eq!(run.results.latency[path].len(), 2, "{path}: a distribution of latency each round");
    }
    for key in of_proxies {
        // Memory before any load is looked at once.
        assert!(has("ztunnel", key) <= 2, "{key}");
        assert!(run.results.rounds("no-mesh", key).is_empty(), "nothing lies between, and {key} is said of it");
    }
    let parts = &run.results.parts["ztunnel"];
    assert!(["ztunnel/node-1", "ztunnel/node-2"].iter().all(|proxy| parts.contains_key(*proxy)), "{:?}", parts.keys());
    let ratio = &run.ratios["ztunnel/no-mesh"]["requests_64"];
    assert!(ratio.rounds == 2 && ratio.median > 0.0, "{ratio:?}");
    assert!(run.goals.iter().any(|goal| goal.ours == "ztunnel" && goal.figure == "start_ready"), "{:?}", run.goals);
    assert!(!run.results.notes.iter().any(|note| note.contains("not everything was measured")), "{:?}", run.results.notes);
}

fn check_page(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"), "it is not whole");
    for title in
        ["Requests a second by connections", "Latency", "CPU-seconds of the proxies for 10,000 requests", "Memory of the proxies"]
    {
        assert!(page.contains(&format!("<figure><h2>{title}")), "there is no plot `{title}`");
    }
    assert!(page.matches("<svg").count() >= 5, "throughput, latency, two splits, memory");
    assert_eq!(page.matches("<figure>").count(), page.matches("</figure>").count());
    for foreign in ["http://", "https://", "<script", "<link", "@import", "url(", "src=", "NaN"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

fn check_comparison(file: &Path) {
    let file = file.to_str().unwrap();
    let (said, _) = run(&["compare", file, file, "--fail"]);
    assert!(said.contains("ratios that changed: 0; ") && said.contains("figures that changed: 0; "), "{said}");
    for word in ["better", "WORSE", "goal lost", "goal won", "in one of the runs only", "different machines"] {
        assert!(!said.contains(word), "a run differs from itself: {said}");
    }
}

#[test]
fn two_rounds_of_the_node_path_are_measured_in_turns_told_and_compared() {
    let directory = tempfile::tempdir().unwrap();
    let (json, html) = (directory.path().join("run.json"), directory.path().join("run.html"));
    let (json_name, html_name) = (json.to_str().unwrap(), html.to_str().unwrap());
    let began = Instant::now();
    // What it says of the machine is not looked at, so nothing is taken again and the proxies need not rest.
    let quick = ["--rounds", "2", "--seconds", "0.1", "--rest", "0.5", "--noise", "1"];
    let wanted = ["node", "--only", "no-mesh,ztunnel", "--json", json_name, "--html", html_name];
    let (said, told) = run(&[&wanted[..], &quick[..]].concat());
    assert!(began.elapsed() < LIMIT, "{:?}: {told}", began.elapsed());
    for what in ["idle connections", "load", "fairness"] {
        assert_eq!(order(&told, what), ["1 of 2: no-mesh", "1 of 2: ztunnel", "2 of 2: ztunnel", "2 of 2: no-mesh"], "{told}");
    }
    assert!(said.contains("ztunnel ÷ no-mesh") && said.contains("goals reached"), "{said}");
    let document = Document::load(&json).unwrap();
    assert_eq!((document.rounds, &document.paths[..]), (2, &["no-mesh".to_owned(), "ztunnel".to_owned()][..]));
    check_figures(&document);
    check_page(&std::fs::read_to_string(&html).unwrap());
    check_comparison(&json);
}
