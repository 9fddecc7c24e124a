//! The table a person reads in a terminal: ratios first.

use std::fmt::Write as _;

use crate::{
    document::{Comparison, Document},
    figure::{self, Figure},
    goals,
    results::Results,
    stats::Summary,
};

/// Width of the column of titles.
const TITLES: usize = 58;

/// The same where a title may begin with the path.
const PATHS_TITLES: usize = 70;

/// The whole table.
#[must_use]
pub fn render(document: &Document) -> String {
    let mut out = String::new();
    for comparison in &document.comparisons {
        ratios(&mut out, &document.results, comparison);
    }
    absolute_goals(&mut out, &document.results);
    medians(&mut out, document);
    split(&mut out, &document.results);
    let met = document.goals.iter().filter(|goal| goal.reached).count();
    if !document.goals.is_empty() {
        let _ = writeln!(out, "\n{met} of {} goals reached", document.goals.len());
    }
    let _ = writeln!(out, "{}", document.results.quality());
    for note in &document.results.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn judged(ours: &str, peer: Option<&str>, figure: Figure, value: f64) -> String {
    let Some(goal) = goals::find(ours, peer, figure) else {
        return if figure.more_is_better { "more is better" } else { "less is better" }.to_owned();
    };
    format!("goal {:8} {}", goal.text(), if goal.reached(value) { "reached" } else { "NOT reached" })
}

fn ratios(out: &mut String, results: &Results, comparison: &Comparison) {
    let Comparison { ours, peer } = comparison;
    let _ = writeln!(out, "\n{ours} ÷ {peer} (median of the rounds' ratios, range)");
    for figure in figure::all() {
        let Some(ratio) = results.ratio(ours, peer, figure.key) else { continue };
        let goal = judged(ours, Some(peer), figure, ratio.median);
        let Summary { median, min, max, .. } = ratio;
        let _ = writeln!(out, "  {:TITLES$} {median:6.2}×   {min:.2}–{max:.2}   {goal}", figure.title);
    }
}

fn absolute_goals(out: &mut String, results: &Results) {
    let judged: Vec<_> = goals::all().into_iter().filter(|goal| goal.against.is_none()).collect();
    let lines: Vec<String> = judged
        .iter()
        .filter_map(|goal| {
            let summary = results.summary(goal.ours, goal.figure.key)?;
            let word = if goal.reached(summary.median) { "reached" } else { "NOT reached" };
            Some(format!("  {:PATHS_TITLES$} {:>22}   goal {:8} {word}", goal.title(), cell(&summary), goal.text()))
        })
        .collect();
    if !lines.is_empty() {
        let _ = writeln!(out, "\nours by itself (median ± half the range)\n{}", lines.join("\n"));
    }
}

fn medians(out: &mut String, document: &Document) {
    let _ = write!(out, "\n{:TITLES$}", "median ± half the range");
    for path in &document.paths {
        let _ = write!(out, "{path:>16}");
    }
    out.push('\n');
    for figure in figure::all() {
        let cells: Vec<Option<Summary>> = document.paths.iter().map(|path| document.results.summary(path, figure.key)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(out, "{:TITLES$}", figure.title);
        for summary in cells {
            let text = summary.as_ref().map_or_else(|| "–".to_owned(), cell);
            let _ = write!(out, "{text:>16}");
        }
        out.push('\n');
    }
}

/// Where the CPU time goes, by process: in the program and in the kernel.
fn split(out: &mut String, results: &Results) {
    let [_, _, many] = figure::REQUESTS;
    let [_, streams] = figure::BULK;
    if results.parts.is_empty() {
        return;
    }
    let _ =
        writeln!(out, "\n{:TITLES$}{:>24}{:>24}", "CPU-s in the program + in the kernel", "10k requests at 64", "GB, 8 streams");
    for (path, processes) in &results.parts {
        for process in processes.keys() {
            let part = |figure: Figure, what: &str| results.part(path, process, &format!("{}_{what}", figure.key));
            let cell = |figure| match (part(figure, "user"), part(figure, "system")) {
                (Some(user), Some(system)) => format!("{:.3} + {:.3}", user.median, system.median),
                _ => "–".to_owned(),
            };
            let _ = writeln!(out, "  {:56}{:>24}{:>24}", format!("{path}: {process}"), cell(many.cpu), cell(streams.cpu));
        }
    }
}

/// A median and how far the rounds were apart.
#[must_use]
pub fn cell(summary: &Summary) -> String {
    let number = number(summary.median);
    if summary.rounds < 2 { number } else { format!("{number} ±{:.0}%", summary.spread() * 100.0) }
}

/// A number with as many digits as mean something.
#[must_use]
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tests::document;

    #[test]
    fn ratios_come_first_with_the_goal_and_whether_it_is_reached() {
        let table = render(&document(&[200.0, 300.0, 100.0]));
        let line = |words: &str| table.lines().position(|line| line.contains(words)).unwrap();
        assert!(line("2.00×") < line("median ± half the range"), "{table}");
        assert!(table.lines().nth(line("2.00×")).unwrap().ends_with("goal ≥ 2×     reached"), "{table}");
        assert!(table.contains("1 of 1 goals reached"), "{table}");
        assert!(render(&document(&[150.0])).contains("NOT reached"));
        assert!(!table.contains("Gbit/s"), "what was not measured has no line: {table}");
    }
}
