//! What a disturbance did: requests, failures with their reasons, bytes in clear, bytes astray.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ambit::local::access::AccessLine;
use anyhow::ensure;

use crate::{
    load::Outcome,
    world::{PATIENCE, SECOND, World},
};

/// Failures that need no reason of a proxy: there is none to give it.
const WITHOUT: [&str; 3] = ["refused", "reset", "ended"];
/// So many failures are told in full.
const FIRST: usize = 5;
/// By then the line of a connection is read that has ended.
const LATE: Duration = Duration::from_millis(400);

static TABLE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Prints what all disturbances did, as a table of Markdown.
pub fn print_table() {
    let table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if !table.is_empty() {
        println!(
            "\n| disturbance | requests | failed | reasons | bytes in clear | bytes misdelivered |\n|---|---|---|---|---|---|"
        );
        table.iter().for_each(|row| println!("{row}"));
    }
}

/// A disturbance under way.
pub struct Phase {
    name: String,
    from: Instant,
    clear: u64,
    astray: u64,
}

impl Phase {
    /// Has the row tell this too.
    pub fn note(&mut self, what: &str) {
        self.name = format!("{}; {what}", self.name);
    }
}

/// What became of it.
#[derive(Debug)]
pub struct Row {
    pub requests: usize,
    /// By reason: of the proxy's record, else what the program saw.
    pub reasons: BTreeMap<String, usize>,
    /// Failures between pods that stay as they are.
    pub steady: usize,
    /// The first few failures, with what the caller's proxy recorded.
    pub first: Vec<String>,
}

impl World {
    /// Waits until a second passes in which the steady load works.
    pub async fn settled(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let from = Instant::now();
            tokio::time::sleep(SECOND).await;
            let (well, badly) = self.load.counts(from, |outcome| outcome.steady);
            if well > 20 && badly == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "the load does not work: {well} well, {badly} badly, {:?}\n{}",
                self.bad(from),
                self.logs()
            );
        }
    }

    /// The newest failures of the steady load.
    fn bad(&self, from: Instant) -> Vec<Outcome> {
        let bad = self.load.since(from).into_iter().filter(|outcome| outcome.failure.is_some() && outcome.steady);
        bad.take(5).collect()
    }

    /// How long after `from` the first request of this node's pods that began since then ended well.
    pub async fn first_well(&self, node: usize, from: Instant) -> anyhow::Result<Duration> {
        let until = Instant::now() + PATIENCE;
        loop {
            let outcomes = self.load.since(from);
            let well = |outcome: &&Outcome| outcome.node == node && outcome.begun >= from && outcome.failure.is_none();
            if let Some(first) = outcomes.iter().filter(well).map(|outcome| outcome.ended).min() {
                return Ok(first - from);
            }
            ensure!(Instant::now() < until, "nothing works any more\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn clear(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for capture in &self.captures {
            let report = capture.report();
            ensure!(report.dropped == 0, "{} packets were not looked at", report.dropped);
            bytes += report.markers.iter().map(|seen| seen.bytes).sum::<u64>();
        }
        Ok(bytes)
    }

    /// The first packets in clear of each node.
    fn in_clear(&self) -> String {
        let seen = self.captures.iter().flat_map(|capture| capture.report().markers);
        seen.flat_map(|seen| seen.examples).collect::<Vec<_>>().join("\n")
    }

    /// Begins to count, once the load works.
    pub async fn begin(&self, name: &'static str) -> anyhow::Result<Phase> {
        self.settled().await?;
        Ok(Phase { name: name.to_owned(), from: Instant::now(), clear: self.clear()?, astray: self.astray.bytes() })
    }

    /// The load works again: counts, prints, and asserts what holds whatever the disturbance is.
    pub async fn end(&self, phase: Phase) -> anyhow::Result<Row> {
        let settled = self.settled().await;
        let to = Instant::now();
        tokio::time::sleep(LATE).await;
        let outcomes: Vec<Outcome> = self.load.since(phase.from).into_iter().filter(|outcome| outcome.ended <= to).collect();
        let mut row = Row { requests: outcomes.len(), reasons: BTreeMap::new(), steady: 0, first: Vec::new() };
        let mut unexplained = Vec::new();
        {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let lines = by_ends(&lines, phase.from);
            for outcome in &outcomes {
                let line = outcome
                    .ends
                    .and_then(|(from, to)| first_since(lines.get(&(from.to_string(), to.to_string()))?, outcome.begun));
                let Some(failure) = &outcome.failure else {
                    self.identified(outcome, line);
                    continue;
                };
                let logged = line.map(AccessLine::reason).filter(|reason| *reason != "ok");
                if row.first.len() < FIRST {
                    row.first.push(format!(
                        "{:?} after the begin: {outcome:?}, recorded as {line:?}",
                        outcome.begun.saturating_duration_since(phase.from)
                    ));
                }
                if logged.is_none() && !WITHOUT.contains(&failure.as_str()) {
                    unexplained.push(outcome.clone());
                }
                *row.reasons.entry(logged.unwrap_or(failure).to_owned()).or_default() += 1;
                row.steady += usize::from(outcome.steady);
            }
        }
        let (clear, astray) = (self.clear()? - phase.clear, self.astray.bytes() - phase.astray);
        row.print(&phase.name, clear, astray);
        settled?;
        ensure!(row.requests > 50, "hardly any load");
        ensure!(astray == 0, "misdelivered: {}", self.astray.told());
        ensure!(
            unexplained.is_empty(),
            "failures without a reason: {:?}\n{}",
            &unexplained[..unexplained.len().min(5)],
            self.logs()
        );
        ensure!(clear == 0, "{clear} bytes in clear:\n{}", self.in_clear());
        Ok(row)
    }

    /// The proxy says the same of both ends as they do themselves.
    fn identified(&self, outcome: &Outcome, line: Option<&AccessLine>) {
        for (field, account) in [("src.identity", &outcome.account), ("dst.identity", &outcome.wanted)] {
            let logged = line.and_then(|line| line.get(field));
            if logged.is_some_and(|logged| logged.rsplit('/').next() != Some(&**account)) {
                self.astray.note(1, format!("{field} of {outcome:?} was {logged:?}"));
            }
        }
    }
}

impl Row {
    pub fn failed(&self) -> usize {
        self.reasons.values().sum()
    }

    fn print(&self, name: &str, clear: u64, astray: u64) {
        let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let row = format!("| {name} | {} | {} | {} | {clear} | {astray} |", self.requests, self.failed(), reasons.join(", "));
        println!("{row}");
        TABLE.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }
}

/// What the callers' proxies recorded since `from`, by both ends as the caller knows them.
fn by_ends(lines: &[(Instant, AccessLine)], from: Instant) -> HashMap<(String, String), Vec<&(Instant, AccessLine)>> {
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for entry in lines.iter().filter(|(at, line)| *at >= from && line.get("direction") == Some("outbound")) {
        if let (Some(source), Some(destination)) = (entry.1.get("src.addr"), entry.1.get("dst.addr")) {
            found.entry((source.to_owned(), destination.to_owned())).or_default().push(entry);
        }
    }
    found
}

/// The record of a connection on which a request began at `begun`: the first that came since.
fn first_since<'a>(lines: &[&'a (Instant, AccessLine)], begun: Instant) -> Option<&'a AccessLine> {
    lines.iter().find(|(at, _)| *at >= begun).map(|(_, line)| line)
}
