//! Two runs side by side: which figures changed by more than the rounds of each run differ among themselves.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use anyhow::bail;
use clap::Args;

use crate::{document::Document, stats::Summary, table::cell};

/// A change of the median by less than this share is none.
const LEAST: f64 = 0.05;

/// With fewer rounds than this in either run there is no range to speak of, and only a change by [`LEAST_ALONE`] is one.
const ENOUGH_ROUNDS: usize = 3;

/// See [`ENOUGH_ROUNDS`].
const LEAST_ALONE: f64 = 0.25;

/// Two documents.
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// The earlier run, as `--json` wrote it.
    #[arg(value_name = "A.json")]
    pub before: PathBuf,
    /// The later run.
    #[arg(value_name = "B.json")]
    pub after: PathBuf,
    /// Ends with an error when a ratio got worse.
    #[arg(long)]
    pub fail: bool,
}

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that could be told from noise.
    Same,
    /// It changed for the better.
    Better,
    /// It changed for the worse.
    Worse,
}

/// Whether a figure changed: the ranges of the rounds do not overlap, and the medians differ by more than 5 %. With fewer than three
/// rounds in either run: by more than 25 %.
#[must_use]
pub fn verdict(before: &Summary, after: &Summary, more_is_better: bool) -> Verdict {
    let difference = (after.median - before.median) / before.median.abs().max(f64::MIN_POSITIVE);
    let enough = before.rounds >= ENOUGH_ROUNDS && after.rounds >= ENOUGH_ROUNDS;
    let apart = after.min > before.max || after.max < before.min;
    let changed = difference.abs() > if enough { LEAST } else { LEAST_ALONE };
    match changed && (apart || !enough) {
        false => Verdict::Same,
        true if (difference > 0.0) == more_is_better => Verdict::Better,
        true => Verdict::Worse,
    }
}

/// What two runs say of one group of figures.
#[derive(Debug, Default)]
struct Tally {
    lines: Vec<String>,
    same: usize,
    worse: usize,
    missing: Vec<String>,
}

type Figures = BTreeMap<String, BTreeMap<String, Summary>>;

fn tally(after: &Document, [old, new]: [&Figures; 2]) -> Tally {
    let mut tally = Tally::default();
    let none = BTreeMap::new();
    for (subject, figures) in old {
        let now = new.get(subject).unwrap_or(&none);
        for (key, before) in figures {
            let title = format!("{subject}: {}", after.title(key));
            let Some(present) = now.get(key) else {
                tally.missing.push(title);
                continue;
            };
            let more_is_better = after.captions.get(key).is_some_and(|caption| caption.more_is_better);
            let word = match verdict(before, present, more_is_better) {
                Verdict::Same => {
                    tally.same += 1;
                    continue;
                }
                Verdict::Better => "better",
                Verdict::Worse => "WORSE",
            };
            tally.worse += usize::from(word == "WORSE");
            let change = (present.median / before.median - 1.0) * 100.0;
            tally.lines.push(format!("  {word:6} {title:72} {:>14} → {:>14}  {change:+.0} %", cell(before), cell(present)));
        }
    }
    let new_ones = new.iter().flat_map(|(subject, figures)| figures.keys().map(move |key| (subject, key)));
    let absent = |(subject, key): &(&String, &String)| old.get(*subject).is_none_or(|figures| !figures.contains_key(*key));
    tally.missing.extend(new_ones.filter(absent).map(|(subject, key)| format!("{subject}: {}", after.title(key))));
    tally
}

/// The comparison as text, and how many ratios got worse.
#[must_use]
pub fn render(before: &Document, after: &Document) -> (String, usize) {
    let mut out = String::new();
    if before.machine != after.machine {
        out.push_str("the runs are of different machines or Envoys: only the ratios mean something\n");
    }
    let ratios = tally(after, [&before.ratios, &after.ratios]);
    let figures = tally(after, [&before.medians, &after.medians]);
    for (what, tally) in [("ratios", &ratios), ("figures", &figures)] {
        let _ = writeln!(out, "\n{what} that changed: {}; {} did not", tally.lines.len(), tally.same);
        for line in &tally.lines {
            let _ = writeln!(out, "{line}");
        }
        if !tally.missing.is_empty() {
            let _ = writeln!(out, "  in one of the runs only: {}", tally.missing.join(", "));
        }
    }
    for goal in &after.goals {
        let then = before
            .goals
            .iter()
            .find(|then| (&then.ours, &then.against, &then.figure) == (&goal.ours, &goal.against, &goal.figure));
        let word = match then {
            Some(then) if then.reached && !goal.reached => "lost",
            Some(then) if !then.reached && goal.reached => "won",
            _ => continue,
        };
        let _ = writeln!(out, "goal {word}: {} {}", goal.ours, after.title(&goal.figure));
    }
    let _ = writeln!(
        out,
        "\nA figure changed when the ranges of its rounds do not overlap and the medians differ by more than {:.0} %;\n\
         with fewer than {ENOUGH_ROUNDS} rounds in either run, by more than {:.0} %.",
        LEAST * 100.0,
        LEAST_ALONE * 100.0
    );
    (out, ratios.worse)
}

/// Prints the comparison.
///
/// # Errors
/// When a document cannot be read; with `--fail` also when a ratio got worse.
pub fn run(compare: &Compare) -> anyhow::Result<()> {
    let (text, worse) = render(&Document::load(&compare.before)?, &Document::load(&compare.after)?);
    print!("{text}");
    if compare.fail && worse > 0 {
        bail!("{worse} ratios got worse");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tests::document;

    fn check(before: &[f64], after: &[f64], more_is_better: bool, expected: Verdict) {
        let summary = |values: &[f64]| Summary::of(&values.iter().copied().map(Some).collect::<Vec<_>>()).unwrap();
        assert_eq!(verdict(&summary(before), &summary(after), more_is_better), expected, "{before:?} {after:?}");
    }

    #[test]
    fn ranges_that_overlap_are_noise_however_far_apart_the_medians_are() {
        check(&[90.0, 100.0, 140.0], &[130.0, 150.0, 160.0], true, Verdict::Same);
        check(&[90.0, 100.0, 110.0], &[130.0, 150.0, 160.0], true, Verdict::Better);
        check(&[90.0, 100.0, 110.0], &[130.0, 150.0, 160.0], false, Verdict::Worse);
        check(&[130.0, 150.0, 160.0], &[90.0, 100.0, 110.0], true, Verdict::Worse);
    }

    #[test]
    fn a_change_below_five_percent_is_none_however_steady_the_rounds_are() {
        check(&[100.0, 100.1, 100.2], &[104.0, 104.1, 104.2], true, Verdict::Same);
        check(&[100.0, 100.1, 100.2], &[106.0, 106.1, 106.2], true, Verdict::Better);
    }

    #[test]
    fn figures_taken_once_must_differ_by_a_quarter() {
        check(&[100.0], &[120.0], false, Verdict::Same);
        check(&[100.0], &[130.0], false, Verdict::Worse);
        check(&[100.0, 90.0, 80.0], &[60.0], false, Verdict::Better);
    }

    #[test]
    fn a_ratio_that_got_worse_is_told_and_counted_and_a_lost_goal_too() {
        let (text, worse) = render(&document(&[210.0, 220.0, 230.0]), &document(&[150.0, 160.0, 170.0]));
        assert_eq!(worse, 1);
        assert!(text.contains("WORSE  ztunnel/envoy-tcp: requests/s, 16 connections"), "{text}");
        assert!(text.contains("goal lost: ztunnel requests/s, 16 connections"), "{text}");
        let (text, worse) = render(&document(&[210.0, 220.0, 230.0]), &document(&[211.0, 219.0, 231.0]));
        assert!(worse == 0 && text.contains("ratios that changed: 0; 1 did not"), "{text}");
    }
}
