//! The pauses of a watch that fails.

use std::time::Duration;

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(8);

/// Pauses that grow from half a second to eight, a quarter more or less, and begin anew with the first answer. kube's own grow to half a minute
/// and stay there for two: so long after the API server is back nobody would learn what was changed.
#[derive(Debug, Clone)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        Some(pause.mul_f64(0.75 + fastrand::f64() / 2.0))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_eight_seconds_never_end_and_begin_anew() {
        let mut pauses = Pauses::default();
        let nominal = [500, 1000, 2000, 4000, 8000, 8000, 8000].map(Duration::from_millis);
        for expected in nominal {
            let pause = pauses.next().unwrap();
            assert!(pause >= expected.mul_f64(0.75) && pause <= expected.mul_f64(1.25), "{pause:?} for {expected:?}");
        }
        pauses.reset();
        assert!(pauses.next().unwrap() <= FIRST.mul_f64(1.25));
    }
}
