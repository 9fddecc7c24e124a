//! The run as one page that a person can open: tables and plots, no network, no script.

mod figures;
pub mod plot;
pub mod scale;

use std::fmt::Write as _;

use crate::{
    document::{Comparison, Document},
    figure, goals,
    stats::Summary,
    table::cell,
};
use plot::escape;

/// The page's style.
const STYLE: &str = include_str!("page.css");

/// The page.
#[must_use]
pub fn render(document: &Document) -> String {
    let machine = &document.machine;
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>What the mesh costs</title><style>{STYLE}</style></head><body>\n<h1>What the mesh costs</h1>\n\
         <p class=\"faint\"><code>{}</code><br>{} rounds of {} s · {} cores · {} · Linux {}{} · {}</p>\n",
        escape(&document.command),
        document.rounds,
        document.seconds,
        machine.cores,
        escape(&machine.processor),
        escape(&machine.kernel),
        if machine.envoy.is_empty() { String::new() } else { format!(" · Envoy {}", escape(&machine.envoy)) },
        escape(&document.results.quality()),
    );
    for comparison in &document.comparisons {
        ratios(&mut out, document, comparison);
    }
    alone(&mut out, document);
    let _ = write!(out, "<div class=\"plots\">{}</div>", figures::all(document));
    medians(&mut out, document);
    if !document.results.notes.is_empty() {
        out.push_str("<section><h2>Notes</h2><ul>");
        for note in &document.results.notes {
            let _ = write!(out, "<li>{}</li>", escape(note));
        }
        out.push_str("</ul></section>");
    }
    out.push_str("</body></html>\n");
    out
}

fn word(reached: bool) -> &'static str {
    if reached { "<td class=\"yes\">reached</td>" } else { "<td class=\"no\">not reached</td>" }
}

fn ratios(out: &mut String, document: &Document, comparison: &Comparison) {
    let Comparison { ours, peer } = comparison;
    let (title, peer_title) = (escape(ours), escape(peer));
    let _ = write!(
        out,
        "<section><h2>{title} ÷ {peer_title}</h2><table><tr><th></th><th>median of the rounds' ratios</th><th>range</th><th>goal</th><th></th></tr>"
    );
    for figure in figure::all() {
        let Some(Summary { median, min, max, .. }) = document.results.ratio(ours, peer, figure.key) else { continue };
        let goal = goals::find(ours, Some(peer), figure);
        let judged = goal.map_or_else(|| "<td></td>".to_owned(), |goal| word(goal.reached(median)).to_owned());
        let line = goal.map(|goal| goal.text()).unwrap_or_default();
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{median:.2}</td><td>{min:.2}–{max:.2}</td><td>{line}</td>{judged}</tr>",
            escape(figure.title)
        );
    }
    out.push_str("</table></section>\n");
}

fn alone(out: &mut String, document: &Document) {
    let mut rows = String::new();
    for goal in goals::all().iter().filter(|goal| goal.against.is_none()) {
        let Some(summary) = document.results.summary(goal.ours, goal.figure.key) else { continue };
        let (title, value, line) = (escape(&goal.title()), cell(&summary), goal.text());
        let _ = write!(rows, "<tr><td>{title}</td><td>{value}</td><td>{line}</td>{}</tr>", word(goal.reached(summary.median)));
    }
    if !rows.is_empty() {
        let _ = writeln!(
            out,
            "<section><h2>Ours by itself</h2><table><tr><th></th><th>median ± half the range</th><th>goal</th><th></th></tr>{rows}</table></section>"
        );
    }
}

fn medians(out: &mut String, document: &Document) {
    let heads: String = document.paths.iter().map(|path| format!("<th>{}</th>", escape(path))).collect();
    let _ = write!(out, "<section><h2>Medians ± half the range</h2><table><tr><th></th>{heads}</tr>");
    for figure in figure::all() {
        let cells: Vec<Option<Summary>> = document.paths.iter().map(|path| document.results.summary(path, figure.key)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let cells: String =
            cells.iter().map(|summary| format!("<td>{}</td>", summary.as_ref().map_or_else(|| "–".to_owned(), cell))).collect();
        let _ = write!(out, "<tr><td>{}</td>{cells}</tr>", escape(figure.title));
    }
    out.push_str("</table></section>\n");
}

#[cfg(test)]
mod tests;
