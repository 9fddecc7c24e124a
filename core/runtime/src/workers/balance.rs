//! Who takes the next connection.

use std::time::{Duration, Instant};

/// How often it is looked how busy the workers are.
pub(super) const WINDOW: Duration = Duration::from_millis(100);

/// When the first worker leaves new connections to others.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    /// From this share of a core on it is busy (0.75).
    pub share: f64,
    /// It has been busy for as long (1 s). Connections come in bursts, which keep it busy for a moment and say nothing of what they carry
    /// later, and they stay where they were taken.
    pub sustained: Duration,
}

impl Default for Busy {
    fn default() -> Self {
        Self { share: 0.75, sustained: Duration::from_secs(1) }
    }
}

/// Who takes the next connection.
#[derive(Debug)]
pub(super) struct Balance {
    limit: Busy,
    since: Instant,
    /// What each worker had used then; nothing for one that takes no connections.
    used: Vec<Option<Duration>>,
    /// The share of a core that each used until then.
    shares: Vec<f64>,
    /// For how long the first worker had been busy then.
    busy: Duration,
    next: usize,
}

impl Balance {
    pub(super) fn new(workers: usize, limit: Busy) -> Self {
        let (used, shares) = (vec![Some(Duration::ZERO); workers], vec![0.0; workers]);
        Self { limit, since: Instant::now(), used, shares, busy: Duration::ZERO, next: 0 }
    }

    /// The number of who takes it; what the workers have used by now is asked for now and then.
    pub(super) fn next(&mut self, used: impl FnOnce() -> Vec<Option<Duration>>) -> usize {
        self.keep_up(used);
        self.next
    }

    /// The same where connections are shared out: who has the fewest `open` ones, of those that are not busy if there are such.
    pub(super) fn fewest(&mut self, used: impl FnOnce() -> Vec<Option<Duration>>, open: impl Iterator<Item = usize>) -> usize {
        self.keep_up(used);
        let workers = open.zip(&self.shares).enumerate();
        workers.min_by_key(|(_, (open, share))| (self.against(**share), *open)).map_or(0, |(at, _)| at)
    }

    /// What speaks against a worker: that it is busy, or even takes no connections.
    fn against(&self, share: f64) -> u8 {
        u8::from(share >= self.limit.share) + u8::from(share.is_infinite())
    }

    fn keep_up(&mut self, used: impl FnOnce() -> Vec<Option<Duration>>) {
        let now = Instant::now();
        if now.duration_since(self.since) >= WINDOW {
            self.look(now, used());
        }
    }

    /// Chooses anew by what the workers have used by now.
    fn look(&mut self, now: Instant, used: Vec<Option<Duration>>) {
        let passed = now.duration_since(self.since);
        let shares: Vec<f64> = used.iter().zip(&self.used).map(|(now, before)| share(*now, *before, passed)).collect();
        self.busy = match shares.first() {
            // It has ended: nobody has to wait.
            Some(first) if first.is_infinite() => self.limit.sustained,
            Some(first) if *first >= self.limit.share => self.busy.saturating_add(passed),
            _ => Duration::ZERO,
        };
        self.next = if self.busy < self.limit.sustained { 0 } else { least_busy(&shares) };
        self.since = now;
        self.used = used;
        self.shares = shares;
    }
}

/// The share of a core that a worker has used in the time that passed; more than any other when it takes no connections.
fn share(now: Option<Duration>, before: Option<Duration>, passed: Duration) -> f64 {
    now.map_or(f64::INFINITY, |now| now.saturating_sub(before.unwrap_or(now)).as_secs_f64() / passed.as_secs_f64())
}

/// The number of the worker that has used the least share of a core.
fn least_busy(shares: &[f64]) -> usize {
    shares.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUSTAINED: Duration = Duration::from_secs(1);

    /// Workers of which each uses a share of its core for some time; returns who takes the connections then.
    fn after(balance: &mut Balance, shares: &[f64], time: Duration) -> usize {
        let windows = time.as_millis() / WINDOW.as_millis();
        for _ in 0..windows {
            let used =
                balance.used.iter().zip(shares).map(|(used, share)| Some(used.unwrap_or_default() + WINDOW.mul_f64(*share)));
            let used = used.collect();
            balance.look(balance.since + WINDOW, used);
        }
        balance.next
    }

    #[test]
    fn the_first_worker_takes_all_connections_until_it_has_been_busy_for_a_while() {
        let mut balance = Balance::new(3, Busy::default());
        assert_eq!(after(&mut balance, &[0.7, 0.0, 0.0], 3 * SUSTAINED), 0);
        assert_eq!(after(&mut balance, &[0.9, 0.0, 0.0], SUSTAINED - WINDOW), 0);
        assert_eq!(after(&mut balance, &[0.9, 0.5, 0.3], WINDOW), 2);
        assert_eq!(after(&mut balance, &[0.8, 0.95, 0.9], WINDOW), 0);
        assert_eq!(after(&mut balance, &[0.8, 0.2, 0.9], WINDOW), 1);
        assert_eq!(after(&mut balance, &[0.7, 0.2, 0.9], WINDOW), 0);
        assert_eq!(after(&mut balance, &[1.0, 0.2, 0.9], WINDOW), 0, "a new burst");
    }

    #[test]
    fn connections_that_are_shared_out_go_to_the_one_with_the_fewest_that_is_not_busy() {
        let mut balance = Balance::new(3, Busy::default());
        // It is not looked again meanwhile.
        balance.since += 60 * SUSTAINED;
        let mut fewest = |shares: Option<[f64; 3]>, open: [usize; 3]| {
            if let Some(shares) = shares {
                balance.shares = shares.to_vec();
            }
            balance.fewest(|| unreachable!("it has been looked"), open.into_iter())
        };
        assert_eq!(fewest(None, [0, 0, 0]), 0);
        assert_eq!(fewest(None, [1, 0, 0]), 1);
        assert_eq!(fewest(None, [1, 1, 0]), 2);
        assert_eq!(fewest(None, [1, 1, 1]), 0);
        assert_eq!(fewest(Some([0.9, 0.1, 0.2]), [1, 5, 4]), 2);
        assert_eq!(fewest(Some([0.9, 0.8, 0.8]), [4, 5, 3]), 2, "all are busy");
        assert_eq!(fewest(Some([0.9, 0.8, f64::INFINITY]), [4, 3, 0]), 1, "the last one cannot be started");
    }

    #[test]
    fn connections_that_come_seldom_find_who_was_busy_since_the_last_one() {
        let mut balance = Balance::new(2, Busy::default());
        balance.look(balance.since + 5 * SUSTAINED, vec![Some(SUSTAINED.mul_f64(4.5)), Some(Duration::ZERO)]);
        assert_eq!(balance.next, 1);
    }

    #[test]
    fn a_worker_that_has_ended_or_cannot_be_started_is_the_last_to_be_chosen() {
        let at = |millis| Some(Duration::from_millis(millis));
        let mut balance = Balance::new(3, Busy::default());
        balance.used = vec![at(0), None, at(0)];
        balance.look(balance.since + SUSTAINED, vec![at(900), None, at(950)]);
        assert_eq!(balance.next, 0);
        balance.look(balance.since + WINDOW, vec![None, None, at(960)]);
        assert_eq!(balance.next, 2, "at once when the first one has ended");
    }
}
