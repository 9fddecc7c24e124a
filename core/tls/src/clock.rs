//! The wall clock: certificates are valid by it, and it may jump.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// How far the wall clock may move beside the monotonic one before that counts as a jump. Slewing by NTP stays far below.
const JUMP: Duration = Duration::from_secs(2);
/// A difference up to this is likely a wrong clock and not an old certificate.
const CLOCK_ERROR: Duration = Duration::from_mins(10);

/// What says how late it is. Tests have their own.
pub trait WallClock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> SystemTime;
}

/// The clock of this machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Whether the wall clock has jumped from `before` to `now` while `passed` went by on the monotonic clock, which stands still while the
/// machine sleeps: so a sleep is a jump too.
pub(crate) fn jumped(before: SystemTime, now: SystemTime, passed: Duration) -> bool {
    match now.duration_since(before) {
        Ok(moved) => moved.abs_diff(passed) > JUMP,
        Err(back) => back.duration() + passed > JUMP,
    }
}

/// In words, how `now` lies to a certificate's validity. A difference that is small names the clocks, which are then more likely wrong
/// than the certificate.
pub(crate) fn describe(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> String {
    if let Some(early) = not_before.duration_since(now).ok().filter(|early| !early.is_zero()) {
        return format!("it begins to be valid in {}{}", whole(early), hint(early));
    }
    match now.duration_since(not_after) {
        Ok(late) => format!("it expired {} ago{}", whole(late), hint(late)),
        Err(_) => "it is valid".to_owned(),
    }
}

/// What to look at when validity is missed by `difference`.
pub(crate) fn hint(difference: Duration) -> &'static str {
    if difference <= CLOCK_ERROR { " by this machine's clock; so small a difference is often a clock that is wrong" } else { "" }
}

/// A duration in whole seconds.
pub(crate) fn whole(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_sleep_and_a_clock_that_is_set_are_jumps_and_the_passing_of_time_is_none() {
        let noon = NOON + Duration::from_hours(12);
        let second = Duration::from_secs(1);
        assert!(!jumped(noon, noon + second, second));
        assert!(!jumped(noon, noon + Duration::from_mins(5), Duration::from_mins(5)));
        assert!(jumped(noon, noon + Duration::from_hours(8), second), "the machine slept");
        assert!(jumped(noon, noon - Duration::from_mins(5), second), "the clock was set back");
        assert!(!jumped(noon, noon - Duration::from_millis(100), second));
    }

    #[test]
    fn a_small_difference_names_the_clock_and_a_large_one_does_not() {
        let (from, to) = (NOON + Duration::from_hours(1), NOON + Duration::from_hours(2));
        let text = |now| describe(from, to, now);
        assert!(text(from - Duration::from_mins(5)).starts_with("it begins to be valid in 300 s by this machine's clock"));
        assert!(text(to + Duration::from_mins(5)).starts_with("it expired 300 s ago by this machine's clock"));
        assert_eq!(text(to + Duration::from_hours(5)), "it expired 18000 s ago");
        assert_eq!(text(from), "it is valid");
    }
}
