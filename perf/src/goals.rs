//! What the node path and the L7 path are to reach, and whether it does.

use serde::{Deserialize, Serialize};

use crate::{
    figure::{self, BULK, Figure, REQUESTS},
    results::Results,
    stats::Summary,
};

/// A line that a figure is held against.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// The path that is judged.
    pub ours: &'static str,
    /// The path that its figure is divided by; the figure itself counts if there is none.
    pub against: Option<&'static str>,
    /// What is judged.
    pub figure: Figure,
    /// The least that is enough where more is better, else the most.
    pub limit: f64,
}

/// How a goal came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The path that was judged.
    pub ours: String,
    /// The path that its figure was divided by.
    pub against: Option<String>,
    /// The figure's name.
    pub figure: String,
    /// The line.
    pub limit: f64,
    /// What was measured.
    pub value: f64,
    /// Whether that is enough.
    pub reached: bool,
}

/// All goals of the node path and of the L7 path.
#[must_use]
pub fn all() -> Vec<Goal> {
    let envoy = |figure, limit| Goal { ours: "ztunnel", against: Some("envoy-tcp"), figure, limit };
    let local = |figure, limit| Goal { ours: "same-node", against: Some("no-mesh-local"), figure, limit };
    let alone = |figure, limit| Goal { ours: "ztunnel", against: None, figure, limit };
    let near = |figure, limit| Goal { ours: "same-node", against: None, figure, limit };
    let l7 = |figure, limit| Goal { ours: "waypoint", against: Some("envoy-waypoint"), figure, limit };
    let hop = |figure, limit| Goal { ours: "hop", against: Some("envoy-hop"), figure, limit };
    let waypoint = |figure, limit| Goal { ours: "waypoint", against: None, figure, limit };
    let [one, sixteen, many] = REQUESTS;
    let [stream, streams] = BULK;
    vec![
        envoy(one.rate, 1.3),
        envoy(sixteen.rate, 2.0),
        envoy(many.rate, 2.0),
        envoy(figure::PACED_P50, 0.7),
        envoy(figure::PACED_P99, 0.7),
        envoy(stream.rate, 1.4),
        envoy(streams.rate, 1.8),
        envoy(figure::CONNECTIONS, 5.0),
        envoy(sixteen.cpu, 0.45),
        envoy(many.cpu, 0.45),
        envoy(stream.cpu, 0.7),
        envoy(streams.cpu, 0.7),
        envoy(figure::MEMORY_IDLE, 0.15),
        envoy(figure::MEMORY_HELD, 0.15),
        envoy(figure::MEMORY_PEAK, 0.4),
        local(one.rate, 0.8),
        local(sixteen.rate, 0.8),
        local(many.rate, 0.8),
        local(stream.rate, 0.6),
        local(streams.rate, 0.6),
        alone(figure::RSS_IDLE, 10.0),
        alone(figure::RSS_HELD, 14.0),
        alone(figure::RSS_PEAK, 40.0),
        alone(figure::START, 50.0),
        alone(figure::FAIR_FULL, 2.0),
        alone(figure::FAIR_PACED, 2.0),
        near(figure::FAIR_FULL, 2.0),
        near(figure::FAIR_PACED, 2.0),
        alone(figure::GROWTH_CONNECTIONS, 1.3),
        alone(figure::GROWTH_IDLE, 1.3),
        alone(figure::GROWTH_WORKLOADS, 1.3),
        alone(figure::GROWTH_WORKLOADS_NEW, 1.3),
        alone(figure::GROWTH_POLICIES, 1.3),
        alone(figure::GROWTH_POLICIES_NEW, 1.3),
        alone(figure::GROWTH_PODS, 1.3),
        alone(figure::GROWTH_PODS_NEW, 1.3),
        alone(figure::STORM_GROWTH, 1.1),
        alone(figure::STORM_ERRORS, 0.0),
        l7(sixteen.rate, 2.0),
        l7(many.rate, 2.0),
        l7(figure::PACED_P99, 0.5),
        l7(sixteen.cpu, 0.5),
        l7(many.cpu, 0.5),
        l7(figure::MEMORY_IDLE, 0.2),
        l7(figure::ROUTES_MEMORY, 0.1),
        hop(sixteen.rate, 1.5),
        hop(many.rate, 1.5),
        waypoint(figure::ROUTES_CPU, 1.3),
        waypoint(figure::ROUTE_CHANGE_P99, 50.0),
        waypoint(figure::ROUTE_CHANGE_ERRORS, 0.0),
    ]
}

/// The goal of a figure, if it has one.
#[must_use]
pub fn find(ours: &str, against: Option<&str>, figure: Figure) -> Option<Goal> {
    all().into_iter().find(|goal| goal.ours == ours && goal.against == against && goal.figure == figure)
}

impl Goal {
    /// How it is written: `≥ 2` or `≤ 0.7`.
    #[must_use]
    pub fn text(&self) -> String {
        let sign = if self.figure.more_is_better { '≥' } else { '≤' };
        let unit = if self.against.is_some() { "×" } else { "" };
        format!("{sign} {}{unit}", self.limit)
    }

    /// What it is called in a table of more than one path: the figure's title, after the path where that is not the node path.
    #[must_use]
    pub fn title(&self) -> String {
        match self.ours {
            "ztunnel" => self.figure.title.to_owned(),
            other => format!("{other}: {}", self.figure.title),
        }
    }

    /// Whether `value` is enough.
    #[must_use]
    pub fn reached(&self, value: f64) -> bool {
        if self.figure.more_is_better { value >= self.limit } else { value <= self.limit }
    }

    fn outcome(&self, results: &Results) -> Option<Outcome> {
        let summary: Summary = match self.against {
            Some(peer) => results.ratio(self.ours, peer, self.figure.key)?,
            None => results.summary(self.ours, self.figure.key)?,
        };
        Some(Outcome {
            ours: self.ours.to_owned(),
            against: self.against.map(str::to_owned),
            figure: self.figure.key.to_owned(),
            limit: self.limit,
            value: summary.median,
            reached: self.reached(summary.median),
        })
    }
}

/// How the goals came out of which something was measured.
#[must_use]
pub fn judge(results: &Results) -> Vec<Outcome> {
    all().iter().filter_map(|goal| goal.outcome(results)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_goal_is_judged_by_the_median_of_the_rounds_ratios() {
        let mut results = Results::default();
        for (round, (ours, peer)) in [(210.0, 100.0), (90.0, 100.0), (300.0, 100.0)].into_iter().enumerate() {
            results.set("ztunnel", REQUESTS[2].rate, round, ours);
            results.set("envoy-tcp", REQUESTS[2].rate, round, peer);
            results.set("ztunnel", figure::START, round, 60.0);
        }
        let outcomes = judge(&results);
        let outcome = |key: &str| outcomes.iter().find(|outcome| outcome.figure == key).unwrap();
        assert!(outcome("requests_64").reached && (outcome("requests_64").value - 2.1).abs() < 1e-9);
        assert!(!outcome("start_ready").reached);
        assert_eq!(outcomes.len(), 2);
    }

    #[test]
    fn small_requests_beside_an_elephant_are_judged_between_nodes_and_on_one() {
        let mut results = Results::default();
        results.set("ztunnel", figure::FAIR_FULL, 0, 1.9);
        results.set("same-node", figure::FAIR_FULL, 0, 2.1);
        let outcomes: Vec<_> = judge(&results).into_iter().map(|outcome| (outcome.ours, outcome.reached)).collect();
        assert_eq!(outcomes, [("ztunnel".to_owned(), true), ("same-node".to_owned(), false)]);
        let goals = all();
        let lines: BTreeSet<(Option<&str>, String)> =
            goals.iter().map(|goal| (goal.against, format!("{} {}", goal.ours, goal.title()))).collect();
        assert_eq!(lines.len(), goals.len(), "no two goals are told by the same line");
    }
}
