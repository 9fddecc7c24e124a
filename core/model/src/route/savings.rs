//! What is saved for retries while requests go well, so that services which retry on one another do not multiply what comes to the one that
//! fails (as gRFC A6 has it for one client).

use std::time::Instant;

/// So many retries there may be in a row after a quiet time.
const MOST: f64 = 20.0;

/// The retries that the requests to a cluster have earned.
#[derive(Debug, Clone, Copy)]
pub struct Savings {
    left: f64,
    /// What was earned since then and the least has not taken the place of yet: of a second's worth.
    ahead: f64,
    /// Until when the least was given.
    until: Option<Instant>,
}

impl Default for Savings {
    fn default() -> Self {
        Self { left: MOST, ahead: 0.0, until: None }
    }
}

impl Savings {
    /// A request went well, of which a retry is earned in this part.
    pub fn earn(&mut self, part: f64) {
        self.left = (self.left + part).min(MOST);
        self.ahead = (self.ahead + part).min(MOST);
    }

    /// Takes a retry, if there is one. So many `a_second` there are at least, so that a service that is seldom asked is asked again, too: where fewer
    /// were earned, the others come along by themselves.
    pub fn take(&mut self, now: Instant, a_second: f64) -> bool {
        let since = self.until.map_or(0.0, |until| now.saturating_duration_since(until).as_secs_f64());
        self.until = Some(now);
        let behind = since * a_second - self.ahead;
        self.left = (self.left + behind.max(0.0)).min(MOST);
        self.ahead = (-behind).clamp(0.0, a_second);
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many of so many requests are sent again in ten seconds, of which `fails` says which fail.
    fn retried(requests: u32, a_second: f64, fails: impl Fn(u32) -> bool) -> u32 {
        let (mut savings, began) = (Savings::default(), Instant::now());
        let mut retried = 0;
        for number in 0..requests {
            let now = began + Duration::from_secs(10) * number / requests;
            if fails(number) {
                retried += u32::from(savings.take(now, a_second));
            } else {
                savings.earn(0.05);
            }
        }
        retried
    }

    #[test]
    fn what_fails_seldom_is_always_sent_again() {
        assert_eq!(retried(10_000, 1.0, |number| number % 25 == 0), 400);
        assert_eq!(retried(15, 1.0, |_| true), 15, "of few requests all are");
    }

    #[test]
    fn what_fails_always_is_hardly_sent_again() {
        let all = retried(10_000, 1.0, |_| true);
        assert!((28..=30).contains(&all), "{all}");
        let more = retried(10_000, 10.0, |_| true);
        assert!((118..=120).contains(&more), "ten a second besides those of the beginning: {more}");
        for (a_second, most) in [(1.0, 272), (10.0, 272), (50.0, 522)] {
            let half = retried(10_000, a_second, |number| number % 2 == 0);
            assert!((most - 4..=most).contains(&half), "a twentieth of those that went well, or {a_second} a second: {half}");
        }
    }
}
