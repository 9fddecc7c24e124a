//! Many lengths of time, to within a sixteenth, in little room.

use std::time::Duration;

/// Parts of each power of two of microseconds, as a power of two.
const PARTS: u32 = 4;
/// Longer than any request takes.
const LONGEST: u64 = 1 << 40;

/// How often there was which length of time.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    counts: Vec<u32>,
    all: u32,
}

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST).clamp(1 << PARTS, LONGEST);
        let power = micros.ilog2();
        let part = (micros >> (power - PARTS)) - (1 << PARTS);
        let at = usize::try_from((u64::from(power - PARTS) << PARTS) + part).unwrap_or_default();
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(1);
        }
        self.all = self.all.saturating_add(1);
    }

    pub(super) fn count(&self) -> u32 {
        self.all
    }

    /// The time in which so many of a hundred have ended; `None` of none.
    pub(super) fn percentile(&self, percentile: f64) -> Option<Duration> {
        let wanted = f64::from(self.all) * percentile / 100.0;
        let mut so_far = 0.0;
        for (at, count) in (0_u64..).zip(&self.counts) {
            so_far += f64::from(*count);
            if *count > 0 && so_far >= wanted {
                let (shift, part) = (at >> PARTS, at & ((1 << PARTS) - 1));
                // The middle of those that are counted here.
                let twice = ((2 * ((1 << PARTS) + part)) + 1) << shift;
                return Some(Duration::from_nanos(twice * 500));
            }
        }
        None
    }
}
