use super::*;
use crate::{document::tests::document, figure::REQUESTS, results::Results};

fn full() -> Document {
    let mut results = Results::default();
    let paths = ["no-mesh", "ztunnel", "envoy-tcp", "no-mesh-local", "same-node"];
    for (at, path) in paths.iter().enumerate() {
        for round in 0..5 {
            let value = 1.0 + at as f64 + f64::from(round) / 10.0;
            for figure in figure::all() {
                results.set(path, figure, round as usize, value);
            }
            for (what, share) in [("user", 0.3), ("system", 0.7)] {
                results.set_part(path, "proxy <1>", REQUESTS[2].cpu, what, round as usize, value * share);
                results.set_part(path, "proxy <1>", figure::BULK[1].cpu, what, round as usize, value * share);
            }
            let curve = [0.0, 0.5, 0.9, 0.99, 0.999, 1.0].map(|share| [share, value * (1.0 + share)]);
            results.latency.entry((*path).to_owned()).or_default().push(curve.to_vec());
        }
    }
    results.series.insert("storm".to_owned(), (0..60).map(|at| [f64::from(at) / 2.0, 20.0]).collect());
    results.notes.push("a note with <tags> & \"quotes\"".to_owned());
    let comparisons = [Comparison::new("ztunnel", "envoy-tcp"), Comparison::new("same-node", "no-mesh-local")];
    Document::new(results, crate::document::Machine::default(), &paths, &comparisons, 5, 2.0)
}

/// Every element that is opened is closed in order.
fn check_structure(page: &str) {
    const VOID: [&str; 3] = ["meta", "br", "!doctype"];
    let mut open: Vec<&str> = Vec::new();
    let body = page.split_once("</style>").map_or(page, |(_, body)| body);
    for tag in body.split('<').skip(1) {
        let tag = tag.split_once('>').map_or(tag, |(tag, _)| tag);
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap_or_default();
        if tag.ends_with('/') || VOID.contains(&name) {
            continue;
        }
        if tag.starts_with('/') {
            assert!(["head", "html"].contains(&name) || open.pop() == Some(name), "</{name}> closes {open:?}");
        } else {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
}

#[test]
fn the_page_is_whole_and_needs_nothing_from_elsewhere() {
    let page = render(&full());
    check_structure(&page);
    for foreign in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<figure>").count(), 6, "throughput, latency, two splits, memory, the storm");
    assert!(!page.contains("NaN") && !page.contains("inf\""), "every number is one");
    assert!(page.contains("a note with &lt;tags&gt; &amp; &quot;quotes&quot;") && page.contains("proxy &lt;1&gt;"));
}

#[test]
fn what_was_not_measured_has_no_plot() {
    let page = render(&document(&[150.0, 160.0]));
    check_structure(&page);
    assert_eq!(page.matches("<figure>").count(), 1, "throughput alone");
}

#[test]
fn every_path_has_a_colour_in_light_and_dark() {
    for path in crate::paths::Path::NODE.iter().chain(&crate::paths::Path::QUICK) {
        let name = path.name();
        assert_eq!(STYLE.matches(&format!("--{name}: #")).count(), 2, "{name}");
        assert!(STYLE.contains(&format!(".path-{name} {{ --c: var(--{name}); }}")), "{name}");
    }
}
