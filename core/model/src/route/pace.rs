//! How many requests a second come to a cluster, of those that could be sent again.

use std::time::{Duration, Instant};

/// They are counted for so long at least.
const WINDOW: Duration = Duration::from_secs(1);

/// How many requests a second come. Nobody looks at a clock for those that go well: what is known is renewed by those that fail.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    since: Instant,
    came: u32,
    a_second: Option<f64>,
}

impl Pace {
    /// Of a cluster that is new at this moment.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { since: now, came: 0, a_second: None }
    }

    /// One came.
    pub const fn count(&mut self) {
        self.came = self.came.saturating_add(1);
    }

    /// How many came a second, in the last second, or for as long as nobody has asked. Nothing before there was a whole one.
    pub fn at(&mut self, now: Instant) -> Option<f64> {
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            self.a_second = Some(f64::from(self.came) / passed.as_secs_f64());
            (self.since, self.came) = (now, 0);
        }
        self.a_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_came_in_the_last_second_or_since_somebody_asked() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut pace = Pace::new(began);
        let came = |pace: &mut Pace, count: u32| (0..count).for_each(|_| pace.count());
        came(&mut pace, 50);
        assert_eq!(pace.at(at(999)), None, "no second is over");
        assert_eq!(pace.at(at(1000)), Some(50.0));
        came(&mut pace, 10);
        assert_eq!(pace.at(at(1500)), Some(50.0), "as long as it is known");
        assert_eq!(pace.at(at(2000)), Some(10.0));
        came(&mut pace, 600);
        assert_eq!(pace.at(at(62_000)), Some(10.0), "of a minute");
        assert_eq!(pace.at(at(64_000)), Some(0.0));
        assert_eq!(pace.at(began), Some(0.0), "a clock that is read before another one");
    }
}
