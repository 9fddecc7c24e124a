//! Endpoints whose requests succeed more rarely than those of the others, or than in so many cases of a hundred.

use serde::Serialize;

/// When an endpoint succeeds so much more rarely than the others that it is an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SuccessRate {
    /// In how many of a hundred cases it is ejected.
    pub enforcing: u32,
    /// The same for what fails on the way to it.
    pub enforcing_local: u32,
    /// With fewer endpoints that had enough requests nobody is looked at.
    pub minimum_hosts: u32,
    /// How many requests of an interval are enough.
    pub request_volume: u32,
    /// In a thousand: how many standard deviations below the mean.
    pub stdev_factor: u32,
}

impl Default for SuccessRate {
    /// What Envoy has where nothing is said.
    fn default() -> Self {
        Self { enforcing: 100, enforcing_local: 100, minimum_hosts: 5, request_volume: 100, stdev_factor: 1900 }
    }
}

/// When so many of an endpoint's requests fail that it is an outlier, however the others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FailurePercentage {
    /// In a hundred requests: as many failures are too many.
    pub threshold: u32,
    /// In how many of a hundred cases it is ejected.
    pub enforcing: u32,
    /// The same for what fails on the way to it.
    pub enforcing_local: u32,
    /// With fewer endpoints that had enough requests nobody is looked at.
    pub minimum_hosts: u32,
    /// How many requests of an interval are enough.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    /// What Envoy has where nothing is said: nobody is ejected by it.
    fn default() -> Self {
        Self { threshold: 85, enforcing: 0, enforcing_local: 0, minimum_hosts: 5, request_volume: 50 }
    }
}

/// Requests of an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// All of them.
    pub all: u32,
    /// Those that succeeded.
    pub good: u32,
}

impl Rate {
    /// Counts one.
    pub fn count(&mut self, good: bool) {
        self.all = self.all.saturating_add(1);
        self.good = self.good.saturating_add(good.into());
    }

    /// In a hundred.
    fn percent(self) -> f64 {
        100.0 * f64::from(self.good) / f64::from(self.all.max(1))
    }
}

impl SuccessRate {
    /// For each of the endpoints of a cluster, whether it is an outlier by what it did in the last interval.
    #[must_use]
    pub fn outliers(&self, rates: &[Rate]) -> Vec<bool> {
        let enough = |rate: &&Rate| rate.all >= self.request_volume.max(1);
        let count = rates.iter().filter(enough).count();
        if count == 0 || count < self.minimum_hosts as usize {
            return vec![false; rates.len()];
        }
        let valid = || rates.iter().filter(enough).map(|rate| rate.percent());
        let mean = valid().sum::<f64>() / count as f64;
        let variance = valid().map(|percent| (percent - mean).powi(2)).sum::<f64>() / count as f64;
        let least = mean - variance.sqrt() * f64::from(self.stdev_factor) / 1000.0;
        rates.iter().map(|rate| enough(&rate) && rate.percent() < least).collect()
    }
}

impl FailurePercentage {
    /// For each of the endpoints of a cluster, whether it is an outlier by what it did in the last interval.
    #[must_use]
    pub fn outliers(&self, rates: &[Rate]) -> Vec<bool> {
        let enough = |rate: &Rate| rate.all >= self.request_volume.max(1);
        let count = rates.iter().filter(|rate| enough(rate)).count();
        if count == 0 || count < self.minimum_hosts as usize {
            return vec![false; rates.len()];
        }
        let most = f64::from(self.threshold);
        rates.iter().map(|rate| enough(rate) && 100.0 - rate.percent() >= most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_in_as_many_cases_as_are_too_many_is_an_outlier_however_the_others_do() {
        let places = |good: &[u32], rules: FailurePercentage| -> Vec<usize> {
            let rates: Vec<_> = good.iter().map(|good| Rate { all: 100, good: *good }).collect();
            rules.outliers(&rates).into_iter().enumerate().filter_map(|(place, outlier)| outlier.then_some(place)).collect()
        };
        let rules = FailurePercentage::default();
        assert_eq!(places(&[100, 100, 100, 15, 16], rules), [3]);
        assert_eq!(places(&[0, 0, 0, 0, 0], rules), [0, 1, 2, 3, 4], "all of them");
        assert_eq!(places(&[100, 100, 100, 15], rules), [0; 0], "too few endpoints");
        assert_eq!(places(&[100, 49, 51], FailurePercentage { threshold: 50, minimum_hosts: 3, ..rules }), [1]);
        assert_eq!(places(&[0; 5], FailurePercentage { request_volume: 101, ..rules }), [0; 0], "too few requests");
        assert_eq!(places(&[], FailurePercentage { minimum_hosts: 0, ..rules }), [0; 0]);
    }

    fn check(good: &[u32], rules: SuccessRate, expected: &[usize]) {
        let rates: Vec<_> = good.iter().map(|good| Rate { all: 100, good: *good }).collect();
        let outliers = rules.outliers(&rates);
        let places: Vec<_> = (0..rates.len()).filter(|place| outliers[*place]).collect();
        assert_eq!(places, expected, "{good:?}");
    }

    #[test]
    fn who_succeeds_far_more_rarely_than_the_others_is_an_outlier() {
        let rules = SuccessRate::default();
        // The mean is 81 and the standard deviation 28, so that the least is 27.
        check(&[95, 95, 95, 95, 25], rules, &[4]);
        check(&[95, 95, 95, 95, 95], rules, &[]);
        // All are equally bad.
        check(&[5, 5, 5, 5, 5], rules, &[]);
        check(&[100, 100, 100, 100, 50], SuccessRate { stdev_factor: 2100, ..rules }, &[]);
    }

    #[test]
    fn with_few_endpoints_or_requests_nobody_is_looked_at() {
        let rules = SuccessRate::default();
        check(&[95, 95, 95, 25], rules, &[]);
        check(&[95, 95, 95, 25], SuccessRate { minimum_hosts: 3, stdev_factor: 1000, ..rules }, &[3]);
        check(&[95, 95, 95, 95, 25], SuccessRate { request_volume: 101, ..rules }, &[]);
        check(&[], SuccessRate { minimum_hosts: 0, ..rules }, &[]);
    }
}
