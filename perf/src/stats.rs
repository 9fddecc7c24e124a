//! Medians and spreads of a few samples.

use serde::{Deserialize, Serialize};

/// What several rounds gave for one figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The value in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many rounds gave one.
    pub rounds: usize,
}

impl Summary {
    /// Sums up `samples`; nothing when there are none.
    #[must_use]
    pub fn of(samples: &[Option<f64>]) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.iter().copied().flatten().filter(|sample| sample.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max, rounds: sorted.len() })
    }

    /// Half the range, as a share of the median: how far the rounds disagree.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / 2.0 / self.median.abs() }
    }
}

/// The ratio of two figures round by round, which holds when the machine's speed drifts between rounds.
#[must_use]
pub fn ratio(of: &[Option<f64>], to: &[Option<f64>]) -> Option<Summary> {
    let pairs: Vec<Option<f64>> = of.iter().zip(to).map(|(of, to)| Some((*of)? / (*to).filter(|to| *to != 0.0)?)).collect();
    Summary::of(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between_the_two_in_the_middle() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0].map(Some)).unwrap();
        assert_eq!((summary.median, summary.min, summary.max), (2.5, 1.0, 4.0));
        assert!((summary.spread() - 0.6).abs() < 1e-9);
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let drifting = ratio(&[10.0, 20.0, 40.0].map(Some), &[5.0, 10.0, 20.0].map(Some)).unwrap();
        assert_eq!((drifting.median, drifting.min, drifting.max), (2.0, 2.0, 2.0));
    }

    #[test]
    fn no_samples_give_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[None]), None);
        assert_eq!(ratio(&[Some(1.0)], &[Some(0.0)]), None);
    }
}
