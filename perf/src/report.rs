//! The table a person reads and the JSON a program keeps.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    figure::Figure,
    stats::{Summary, ratio},
};

/// Two paths that carry the same traffic, ours first.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// The path that is judged.
    pub ours: &'static str,
    /// The path it is held against.
    pub peer: &'static str,
}

/// All samples of a run: path, figure, one value a round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Results {
    samples: BTreeMap<String, BTreeMap<Figure, Vec<f64>>>,
    /// What went wrong or was repeated, in words.
    pub notes: Vec<String>,
}

impl Results {
    /// Adds one round's value.
    pub fn add(&mut self, path: &str, figure: Figure, value: f64) {
        self.samples.entry(path.to_owned()).or_default().entry(figure).or_default().push(value);
    }

    fn of(&self, path: &str, figure: Figure) -> &[f64] {
        self.samples.get(path).and_then(|figures| figures.get(&figure)).map_or(&[], Vec::as_slice)
    }

    /// The table: ratios first, then each path's medians.
    #[must_use]
    pub fn table(&self, comparisons: &[Comparison], paths: &[&str]) -> String {
        let mut out = String::new();
        for comparison in comparisons {
            let _ = writeln!(out, "\n{} ÷ {} (median of the rounds' ratios, range)", comparison.ours, comparison.peer);
            for figure in Figure::ALL {
                let Some(ratio) = ratio(self.of(comparison.ours, figure), self.of(comparison.peer, figure)) else { continue };
                let wish = if figure.more_is_better() { "more is better" } else { "less is better" };
                let _ =
                    writeln!(out, "  {:38} {:6.2}×   {:.2}–{:.2}   {wish}", figure.title(), ratio.median, ratio.min, ratio.max);
            }
        }
        let _ = write!(out, "\n{:40}", "median ± half the range");
        for path in paths {
            let _ = write!(out, "{path:>20}");
        }
        out.push('\n');
        for figure in Figure::ALL {
            let _ = write!(out, "{:40}", figure.title());
            for path in paths {
                let cell = Summary::of(self.of(path, figure)).map_or_else(|| "–".to_owned(), |summary| cell(&summary));
                let _ = write!(out, "{cell:>20}");
            }
            out.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }

    /// The document: ratios, medians, and every sample.
    #[must_use]
    pub fn json(&self, comparisons: &[Comparison]) -> Value {
        let ratios: Vec<Value> = comparisons
            .iter()
            .map(|comparison| {
                let figures: BTreeMap<_, _> = Figure::ALL
                    .into_iter()
                    .filter_map(|figure| {
                        Some((figure, ratio(self.of(comparison.ours, figure), self.of(comparison.peer, figure))?))
                    })
                    .collect();
                json!({"path": comparison.ours, "against": comparison.peer, "figures": figures})
            })
            .collect();
        let medians: BTreeMap<_, BTreeMap<_, _>> = self
            .samples
            .iter()
            .map(|(path, figures)| {
                let summaries = figures.iter().filter_map(|(figure, values)| Some((*figure, Summary::of(values)?)));
                (path.clone(), summaries.collect())
            })
            .collect();
        json!({"ratios": ratios, "paths": medians, "samples": self.samples, "notes": self.notes})
    }
}

fn cell(summary: &Summary) -> String {
    let digits = if summary.median >= 100.0 { 0 } else { 2 };
    format!("{:.digits$} ±{:.0}%", summary.median, summary.spread() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_come_first_and_a_figure_without_a_peer_is_left_out() {
        let mut results = Results::default();
        for (ours, peer) in [(200.0, 100.0), (300.0, 100.0), (100.0, 100.0)] {
            results.add("ours", Figure::Requests16, ours);
            results.add("peer", Figure::Requests16, peer);
        }
        results.add("ours", Figure::Bulk1, 5.0);
        let comparison = [Comparison { ours: "ours", peer: "peer" }];
        let table = results.table(&comparison, &["ours", "peer"]);
        let ratio_line = table.lines().position(|line| line.contains("2.00×")).unwrap();
        let median_line = table.lines().position(|line| line.starts_with("median ±")).unwrap();
        assert!(ratio_line < median_line, "{table}");
        assert_eq!(table.matches("Gbit/s, 1 stream").count(), 1, "{table}");
        let json = results.json(&comparison);
        assert_eq!(json["ratios"][0]["figures"]["requests16"]["median"], 2.0);
        assert_eq!(json["samples"]["peer"]["requests16"][2], 100.0);
    }
}
