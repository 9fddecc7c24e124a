//! The tables as Markdown, for the documentation.

use std::fmt::Write as _;

use crate::{
    document::{Comparison, Document},
    figure, goals,
    stats::Summary,
    table::{cell, number},
};

/// The tables: ratios with goals, what ours does by itself, all medians, and the notes.
#[must_use]
pub fn render(document: &Document) -> String {
    let machine = &document.machine;
    let mut out = format!(
        "`{}`: {} rounds of {} s; {} cores, {}, Linux {}{}. {}.\n",
        document.command,
        document.rounds,
        document.seconds,
        machine.cores,
        machine.processor,
        machine.kernel,
        if machine.envoy.is_empty() { String::new() } else { format!(", Envoy {}", machine.envoy) },
        document.results.quality(),
    );
    for comparison in &document.comparisons {
        ratios(&mut out, document, comparison);
    }
    alone(&mut out, document);
    medians(&mut out, document);
    for note in &document.results.notes {
        let _ = write!(out, "\n- {note}");
    }
    if !document.results.notes.is_empty() {
        out.push('\n');
    }
    out
}

fn yes(reached: bool) -> &'static str {
    if reached { "yes" } else { "**no**" }
}

fn ratios(out: &mut String, document: &Document, comparison: &Comparison) {
    let Comparison { ours, peer } = comparison;
    let _ = write!(out, "\n| {ours} ÷ {peer} | median of the rounds' ratios | range | goal | reached |\n|---|---|---|---|---|\n");
    for figure in figure::all() {
        let Some(Summary { median, min, max, .. }) = document.results.ratio(ours, peer, figure.key) else { continue };
        let (goal, reached) = match goals::find(ours, Some(peer), figure) {
            Some(goal) => (goal.text(), yes(goal.reached(median))),
            None => (String::new(), ""),
        };
        let _ = writeln!(out, "| {} | {median:.2} | {min:.2}–{max:.2} | {goal} | {reached} |", figure.title);
    }
}

fn alone(out: &mut String, document: &Document) {
    let rows: Vec<String> = goals::all()
        .into_iter()
        .filter(|goal| goal.against.is_none())
        .filter_map(|goal| {
            let summary = document.results.summary(goal.ours, goal.figure.key)?;
            let row =
                format!("| {} | {} | {} | {} |", goal.title(), cell(&summary), goal.text(), yes(goal.reached(summary.median)));
            Some(row)
        })
        .collect();
    if !rows.is_empty() {
        let _ = write!(out, "\n| ours by itself | median | goal | reached |\n|---|---|---|---|\n{}\n", rows.join("\n"));
    }
}

fn medians(out: &mut String, document: &Document) {
    let rule = "---|".repeat(document.paths.len() + 1);
    let _ = write!(out, "\n| median ± half the range | {} |\n|{rule}\n", document.paths.join(" | "));
    for figure in figure::all() {
        let cells: Vec<Option<Summary>> = document.paths.iter().map(|path| document.results.summary(path, figure.key)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let text = |summary: &Option<Summary>| match summary {
            Some(summary) if summary.rounds < 2 => number(summary.median),
            Some(summary) => cell(summary),
            None => "–".to_owned(),
        };
        let _ = writeln!(out, "| {} | {} |", figure.title, cells.iter().map(text).collect::<Vec<_>>().join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tests::document;

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_head() {
        let text = render(&document(&[210.0, 220.0]));
        assert!(text.contains("| requests/s, 16 connections | 2.15 | 2.10–2.20 | ≥ 2× | yes |"), "{text}");
        for table in text.split("\n\n").filter(|block| block.starts_with('|')) {
            let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
            assert!(cells.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
        }
    }
}
