//! The live table: one line for each edge of the mesh.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::local::Wire;
use crate::local::edges::Edge;

/// Width from which an edge fits on one line.
const WIDE: usize = 130;

/// What one drawing of the table shows.
pub struct Scene<'a> {
    /// Edges with the counts of the window.
    pub edges: &'a [Edge],
    /// Length of the window.
    pub window: Duration,
    /// Time since everything was ready.
    pub running: Duration,
    /// Traffic between the nodes, where it is watched.
    pub wire: Option<Wire>,
    /// What is wrong with the directory, what was left out, which program died.
    pub notices: &'a [String],
    /// The watched directory.
    pub directory: &'a Path,
    /// Whether that is the demonstration.
    pub demo: bool,
    /// How to kill the control plane, from another terminal.
    pub kill_control_plane: String,
}

impl Scene<'_> {
    /// The drawing, no line longer than `width`.
    pub fn draw(&self, width: usize) -> String {
        let mut text = String::new();
        let seconds = self.running.as_secs();
        let wire = self.wire.map_or_else(String::new, |wire| {
            let plain = if wire.plaintext_marker_seen { "PLAINTEXT SEEN" } else { "no plaintext seen" };
            format!(" · between the nodes: {} packets, {:.1} MB, {plain}", wire.packets, wire.bytes as f64 / 1e6)
        });
        line(&mut text, width, &format!("Ambit · {:02}:{:02}{wire}", seconds / 60, seconds % 60));
        line(&mut text, width, "");
        self.edges(&mut text, width);
        self.refusals(&mut text, width);
        if !self.notices.is_empty() {
            line(&mut text, width, "");
            self.notices.iter().for_each(|notice| notice.lines().for_each(|part| line(&mut text, width, &format!("! {part}"))));
        }
        self.hints(&mut text, width);
        text
    }

    fn edges(&self, text: &mut String, width: usize) {
        let names: Vec<String> = self.edges.iter().map(|edge| format!("{} → {}", short(edge), edge.destination)).collect();
        let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(4);
        line(
            text,
            width,
            &format!(
                "{:<widest$}  {:<5} {:>6} {:>8} {:>8} {:>8}  {:<9}  {}",
                "edge", "kind", "req/s", "success", "p50 ms", "p99 ms", "encrypted", "identities · versions"
            ),
        );
        for (edge, name) in self.edges.iter().zip(&names) {
            let rate = edge.requests as f64 / self.window.as_secs_f64().max(0.001);
            let success = match edge.requests {
                0 => "-".to_owned(),
                requests => format!("{:.1} %", 100.0 * (requests - edge.errors.min(requests)) as f64 / requests as f64),
            };
            let millis = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
            let encrypted = match edge.encrypted {
                true => "yes",
                // Nothing got through that could have been read.
                false if edge.requests <= edge.errors => "-",
                false => "NO",
            };
            let numbers = format!(
                "{name:<widest$}  {:<5} {rate:>6.1} {success:>8} {:>8} {:>8}  {encrypted:<9}",
                edge.protocol,
                millis(edge.p50_ms),
                millis(edge.p99_ms),
            );
            // A narrow terminal has room for the rest only below.
            if width < WIDE {
                line(text, width, &numbers);
                line(text, width, &format!("    {}", story(edge)));
            } else {
                line(text, width, &format!("{numbers}  {}", story(edge)));
            }
        }
    }

    fn refusals(&self, text: &mut String, width: usize) {
        let refused: Vec<&Edge> = self.edges.iter().filter(|edge| edge.refusal.is_some()).collect();
        if refused.is_empty() {
            return;
        }
        line(text, width, "");
        line(text, width, "last refusals");
        for edge in refused {
            let Some(refusal) = &edge.refusal else { continue };
            let policy = refusal.policy.as_deref().map(|policy| format!(" by policy {policy}")).unwrap_or_default();
            let time = refusal.at.get(11..19).unwrap_or(&refusal.at);
            let detail = refusal.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
            let (source, destination, reason) = (&edge.source, &edge.destination, &refusal.reason);
            let seen_by = refusal.seen_by.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
            line(text, width, &format!("  {time} {source} → {destination}: {reason}{policy} (logged by {seen_by}){detail}"));
        }
    }

    fn hints(&self, text: &mut String, width: usize) {
        let directory = self.directory.display();
        line(text, width, "");
        line(text, width, &format!("try, in another terminal (the files in {directory} are watched):"));
        if self.demo {
            line(
                text,
                width,
                &format!(
                    "  sed -i 's/weight: 95/weight: 50/; s/weight: 5$/weight: 50/' {directory}/40-billing-route.yaml   # billing half and half"
                ),
            );
            line(
                text,
                width,
                &format!(
                    "  mv {directory}/deny-web.yaml.off {directory}/deny-web.yaml   # the api refuses the web pages (rename back to allow)"
                ),
            );
            line(
                text,
                width,
                &format!("  mv {directory}/deny-billing.yaml.off {directory}/deny-billing.yaml   # the waypoint answers 403"),
            );
        }
        line(
            text,
            width,
            &format!("  {}   # kill the control plane: traffic goes on, it comes back by itself", self.kill_control_plane),
        );
        line(text, width, "Ctrl-C stops everything.");
    }
}

fn short(edge: &Edge) -> &str {
    &edge.source
}

/// Both identities, the waypoint in between, and which versions answered.
fn story(edge: &Edge) -> String {
    let name = |identity: &Option<String>| match identity.as_deref().and_then(|id| id.split_once("/ns/")) {
        Some((_, path)) => path.replace("/sa/", "/"),
        None => identity.clone().unwrap_or_else(|| "?".to_owned()),
    };
    let mut text = format!("{} ⇒ {}", name(&edge.source_identity), name(&edge.destination_identity));
    if let Some(waypoint) = &edge.via {
        let _never = write!(text, " via {waypoint}");
    }
    let total: u64 = edge.versions.values().sum();
    if edge.versions.len() > 1 {
        let shares =
            edge.versions.iter().map(|(version, count)| format!("{version} {:.0} %", 100.0 * *count as f64 / total as f64));
        let _never = write!(text, " · {}", shares.collect::<Vec<_>>().join(", "));
    }
    if let (true, Some(error)) = (edge.errors > 0, &edge.last_error) {
        let _never = write!(text, " · {error}");
    }
    text
}

/// Adds a line, cut at the width of the terminal.
fn line(text: &mut String, width: usize, content: &str) {
    text.extend(content.chars().take(width));
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::local::edges::RefusalSeen;

    fn edge() -> Edge {
        Edge {
            source: "shop/api".into(),
            destination: "billing/billing".into(),
            protocol: "http".into(),
            requests: 100,
            errors: 1,
            p50_ms: Some(1.25),
            p99_ms: Some(3.5),
            encrypted: true,
            source_identity: Some("spiffe://cluster.local/ns/shop/sa/api".into()),
            destination_identity: Some("spiffe://cluster.local/ns/billing/sa/billing".into()),
            via: Some("billing/waypoint".into()),
            versions: BTreeMap::from([("v1".into(), 95), ("v2".into(), 5)]),
            refusal: Some(RefusalSeen {
                reason: "rbac_denied".into(),
                policy: Some("billing/no-invoices".into()),
                by: "waypoint/billing/waypoint".into(),
                seen_by: ["waypoint/billing/waypoint".to_owned(), "ztunnel/node-1".to_owned()].into(),
                detail: None,
                at: "2026-01-01T10:11:12.000Z".into(),
                read: std::time::Instant::now(),
            }),
            last_error: None,
        }
    }

    fn draw(width: usize) -> String {
        draw_of(&[edge()], width)
    }

    fn draw_of(edges: &[Edge], width: usize) -> String {
        let scene = Scene {
            edges,
            window: Duration::from_secs(5),
            running: Duration::from_secs(65),
            wire: Some(Wire { packets: 1, bytes: 2_000_000, plaintext_marker_seen: false, unseen: 0 }),
            notices: &["a notice".to_owned()],
            directory: Path::new("demo"),
            demo: true,
            kill_control_plane: "kill -9 7".into(),
        };
        scene.draw(width)
    }

    #[test]
    fn an_edge_shows_rate_success_latency_identities_and_versions() {
        let text = draw(400);
        let row = text.lines().find(|line| line.starts_with("shop/api")).unwrap();
        for part in ["20.0", "99.0 %", "1.2", "3.5", "yes", "shop/api ⇒ billing/billing via billing/waypoint", "v1 95 %, v2 5 %"]
        {
            assert!(row.contains(part), "{part} in {row}");
        }
        assert!(text.contains(
            "10:11:12 shop/api → billing/billing: rbac_denied by policy billing/no-invoices \
             (logged by waypoint/billing/waypoint and ztunnel/node-1)"
        ));
        assert!(text.contains("! a notice") && text.contains("kill -9 7"), "{text}");
    }

    #[test]
    fn an_edge_is_called_not_encrypted_only_when_something_got_through() {
        for (encrypted, errors, shown) in [(true, 0, "yes"), (true, 100, "yes"), (false, 100, "-"), (false, 99, "NO")] {
            let text = draw_of(&[Edge { encrypted, errors, ..edge() }], 400);
            let row = text.lines().find(|line| line.starts_with("shop/api")).unwrap();
            assert!(row.contains(&format!(" {shown:<9} ")), "{shown} in {row}");
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        assert!(draw(60).lines().all(|line| line.chars().count() <= 60));
    }
}
