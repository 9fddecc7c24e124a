//! Everything a run measured, round by round.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    figure::Figure,
    stats::{Summary, ratio},
};

/// One value a round; none where the round did not give one.
pub type Rounds = Vec<Option<f64>>;

/// A distribution of latency: shares of the requests and the milliseconds within which they were answered.
pub type Curve = Vec<[f64; 2]>;

/// All samples of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// By path and figure.
    pub samples: BTreeMap<String, BTreeMap<String, Rounds>>,
    /// By path, process and figure: what each proxy had its part in.
    #[serde(default)]
    pub parts: BTreeMap<String, BTreeMap<String, BTreeMap<String, Rounds>>>,
    /// By path: the latency of the paced requests, one curve a round.
    #[serde(default)]
    pub latency: BTreeMap<String, Vec<Curve>>,
    /// What was watched over time: seconds and value.
    #[serde(default)]
    pub series: BTreeMap<String, Vec<[f64; 2]>>,
    /// How many samples were taken.
    #[serde(default)]
    pub taken: usize,
    /// How many of them were taken again because other processes were busy.
    #[serde(default)]
    pub repeated: usize,
    /// The samples during which other processes were busy even when measured again, and the share of the machine that those used.
    #[serde(default)]
    pub noisy: Vec<(String, f64)>,
    /// What went wrong, in words.
    #[serde(default)]
    pub notes: Vec<String>,
}

fn put(rounds: &mut Rounds, round: usize, value: f64) {
    if rounds.len() <= round {
        rounds.resize(round + 1, None);
    }
    rounds[round] = Some(value).filter(|value| value.is_finite());
}

impl Results {
    /// Sets a path's value of a round.
    pub fn set(&mut self, path: &str, figure: Figure, round: usize, value: f64) {
        let figures = self.samples.entry(path.to_owned()).or_default();
        put(figures.entry(figure.key.to_owned()).or_default(), round, value);
    }

    /// Sets what one process of a path had its part in; `what` is `user` or `system`.
    pub fn set_part(&mut self, path: &str, process: &str, figure: Figure, what: &str, round: usize, value: f64) {
        let figures = self.parts.entry(path.to_owned()).or_default().entry(process.to_owned()).or_default();
        put(figures.entry(format!("{}_{what}", figure.key)).or_default(), round, value);
    }

    /// How the samples were taken, in a sentence.
    #[must_use]
    pub fn quality(&self) -> String {
        let mut text = format!("{} samples, {} of them taken again because other processes were busy", self.taken, self.repeated);
        let worst = self.noisy.iter().max_by(|one, other| one.1.total_cmp(&other.1));
        if let Some((what, share)) = worst {
            let count = self.noisy.len();
            text.push_str(&format!("; {count} were noisy even then, the worst with {:.0} % ({what})", share * 100.0));
        }
        text
    }

    /// A path's rounds of a figure.
    #[must_use]
    pub fn rounds(&self, path: &str, key: &str) -> &[Option<f64>] {
        self.samples.get(path).and_then(|figures| figures.get(key)).map_or(&[], Vec::as_slice)
    }

    /// A path's figure, summed up.
    #[must_use]
    pub fn summary(&self, path: &str, key: &str) -> Option<Summary> {
        Summary::of(self.rounds(path, key))
    }

    /// The ratio of two paths' figures, round by round, summed up.
    #[must_use]
    pub fn ratio(&self, ours: &str, peer: &str, key: &str) -> Option<Summary> {
        ratio(self.rounds(ours, key), self.rounds(peer, key))
    }

    /// A process's part of a figure, summed up.
    #[must_use]
    pub fn part(&self, path: &str, process: &str, key: &str) -> Option<Summary> {
        Summary::of(self.parts.get(path)?.get(process)?.get(key)?)
    }

    /// The distribution of latency of a path: at each share of the requests, the median of the rounds.
    #[must_use]
    pub fn curve(&self, path: &str) -> Curve {
        let rounds = self.latency.get(path).map_or(&[][..], Vec::as_slice);
        let Some(first) = rounds.first() else { return Curve::new() };
        let at = |index: usize| -> Vec<Option<f64>> {
            rounds.iter().map(|curve| curve.get(index).map(|[_, milliseconds]| *milliseconds)).collect()
        };
        first.iter().enumerate().filter_map(|(index, [share, _])| Some([*share, Summary::of(&at(index))?.median])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::REQUESTS;

    #[test]
    fn a_round_without_a_value_takes_no_part_in_the_ratio() {
        let mut results = Results::default();
        let rate = REQUESTS[0].rate;
        for (round, value) in [10.0, f64::NAN, 30.0].into_iter().enumerate() {
            results.set("ours", rate, round, value);
            results.set("peer", rate, round, 10.0);
        }
        let ratio = results.ratio("ours", "peer", rate.key).unwrap();
        assert_eq!((ratio.rounds, ratio.min, ratio.max), (2, 1.0, 3.0));
        assert_eq!(results.ratio("ours", "nobody", rate.key), None);
    }

    #[test]
    fn a_curve_is_the_median_of_the_rounds_at_each_share() {
        let mut results = Results::default();
        let rounds = [1.0, 5.0, 2.0].map(|ms| vec![[0.5, ms], [0.99, ms * 2.0]]);
        results.latency.insert("ours".to_owned(), rounds.to_vec());
        assert_eq!(results.curve("ours"), [[0.5, 2.0], [0.99, 4.0]]);
    }
}
