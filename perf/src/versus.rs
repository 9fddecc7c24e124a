//! An earlier build of this program and this one, in turns: what the machine does to one of them it does to the other.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use clap::Args;

use crate::{
    document::Document,
    session::progress,
    stats::{Summary, ratio},
};

/// Two programs, and what both run.
#[derive(Debug, Clone, Args)]
pub struct Versus {
    /// The earlier build of this program.
    #[arg(value_name = "PROGRAM")]
    pub old: PathBuf,
    /// How often each of them runs; which goes first changes from pair to pair.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub pairs: u16,
    /// By how much a figure may be worse, as a share.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub worse: f64,
    /// Ends with an error when a figure is worse.
    #[arg(long)]
    pub fail: bool,
    /// Keeps the documents of all runs in this directory, for `perf compare` and `perf report`.
    #[arg(long, value_name = "DIRECTORY")]
    pub keep: Option<PathBuf>,
    /// What both run.
    #[arg(last = true, value_name = "ARGUMENT", default_values = ["quick", "--rounds", "1", "--seconds", "0.5"])]
    pub run: Vec<String>,
}

/// A run of the earlier program and one of this, one right after the other.
pub struct Pair {
    /// What the earlier program measured.
    pub old: Document,
    /// What this program measured.
    pub new: Document,
}

/// Whether a figure is worse: its median ratio is so by more than `most`, and three of four pairs agree that it is worse at all.
fn is_worse(ratios: &[Option<f64>], median: f64, more_is_better: bool, most: f64) -> bool {
    let worse_by = |ratio: f64| if more_is_better { 1.0 - ratio } else { ratio - 1.0 };
    let known = ratios.iter().flatten();
    let agree = known.clone().filter(|ratio| worse_by(**ratio) > 0.0).count();
    worse_by(median) > most && agree * 4 >= known.count() * 3
}

/// The table, and how many figures are worse by more than `most`.
#[must_use]
pub fn render(pairs: &[Pair], most: f64) -> (String, usize) {
    let (mut out, mut worse) = (String::new(), 0);
    let Some(newest) = pairs.last().map(|pair| &pair.new) else { return (out, worse) };
    let value = |document: &Document, path: &str, key: &str| document.medians.get(path)?.get(key).map(|summary| summary.median);
    for path in &newest.paths {
        let _ = writeln!(out, "\n{path}: new ÷ old (median of {} pairs, range; medians of both)", pairs.len());
        for (key, caption) in &newest.captions {
            let of = |document: fn(&Pair) -> &Document| -> Vec<Option<f64>> {
                pairs.iter().map(|pair| value(document(pair), path, key)).collect()
            };
            let (old, new) = (of(|pair| &pair.old), of(|pair| &pair.new));
            let (Some(ratios), Some(before), Some(after)) = (ratio(&new, &old), Summary::of(&old), Summary::of(&new)) else {
                continue;
            };
            let each: Vec<Option<f64>> = new.iter().zip(&old).map(|(new, old)| Some((*new)? / (*old)?)).collect();
            let is_worse = is_worse(&each, ratios.median, caption.more_is_better, most);
            worse += usize::from(is_worse);
            let verdict = if is_worse { "WORSE" } else { "" };
            let _ = writeln!(
                out,
                "  {:58} {:6.2}×   {:.2}–{:.2}   {:>10.4} → {:<10.4} {verdict}",
                caption.title, ratios.median, ratios.min, ratios.max, before.median, after.median
            );
        }
    }
    let _ = writeln!(
        out,
        "\nWorse is a figure whose median ratio is so by more than {:.0} %, if three of four pairs agree that it is worse at all.",
        most * 100.0
    );
    (out, worse)
}

/// Runs `program` to its end and reads what it measured.
fn measure(program: &Path, arguments: &[String], document: &Path) -> anyhow::Result<Document> {
    let status = Command::new(program).args(arguments).arg("--json").arg(document).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("{} cannot be started", program.display()))?;
    ensure!(status.success(), "{} {}: {status}", program.display(), arguments.join(" "));
    Document::load(document)
}

/// Runs both in turns and prints the table.
///
/// # Errors
/// When a program fails; with `--fail` also when a figure is worse.
pub fn run(versus: &Versus) -> anyhow::Result<()> {
    let new = std::env::current_exe()?;
    let own = tempfile::tempdir()?;
    let directory = versus.keep.as_deref().unwrap_or(own.path());
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let mut pairs = Vec::new();
    for turn in 1..=versus.pairs {
        let one = |name: &str, program: &Path| {
            progress(&format!("pair {turn} of {}: the {name} program", versus.pairs));
            measure(program, &versus.run, &directory.join(format!("{name}-{turn}.json")))
        };
        let (old, new) = if turn % 2 == 1 {
            let old = one("old", &versus.old)?;
            (old, one("new", &new)?)
        } else {
            let new = one("new", &new)?;
            (one("old", &versus.old)?, new)
        };
        pairs.push(Pair { old, new });
    }
    let (text, worse) = render(&pairs, versus.worse);
    print!("{text}");
    ensure!(!versus.fail || worse == 0, "{worse} figures are worse");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tests::document;

    fn check(ratios: &[f64], more_is_better: bool, expected: bool) {
        let each: Vec<Option<f64>> = ratios.iter().copied().map(Some).collect();
        let median = Summary::of(&each).unwrap().median;
        assert_eq!(is_worse(&each, median, more_is_better, 0.05), expected, "{ratios:?}");
    }

    #[test]
    fn a_figure_is_worse_when_its_median_is_and_three_of_four_pairs_agree() {
        check(&[0.9, 0.9, 0.9, 1.1], true, true);
        check(&[0.9, 0.9, 1.01, 1.1], true, false);
        check(&[0.96, 0.96, 0.96], true, false);
        check(&[1.1, 1.2, 1.06], false, true);
        check(&[1.1, 1.2, 1.06], true, false);
    }

    #[test]
    fn each_figure_is_compared_within_its_pair() {
        let pair = |old: f64, new: f64| Pair { old: document(&[old]), new: document(&[new]) };
        let (text, worse) = render(&[pair(100.0, 200.0), pair(10.0, 20.0), pair(50.0, 100.0)], 0.05);
        assert_eq!(worse, 0, "{text}");
        assert!(text.contains("2.00×   2.00–2.00"), "{text}");
        let (text, worse) = render(&[pair(100.0, 80.0), pair(10.0, 8.0), pair(50.0, 40.0)], 0.05);
        assert_eq!(worse, 1, "{text}");
        assert!(text.contains("WORSE"), "{text}");
    }
}
