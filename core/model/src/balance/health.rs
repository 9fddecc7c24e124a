//! Endpoints that are asked whether they are well, and given no requests while they are not.

use serde::Serialize;

/// How many checks in a row change what is thought of an endpoint (`envoy.config.core.v3.HealthCheck`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Thresholds {
    /// Checks without an answer, after which an endpoint counts as failing.
    pub unhealthy: u32,
    /// Good answers, after which one that fails counts as well.
    pub healthy: u32,
}

/// What a check has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The answer is a good one.
    Well,
    /// The endpoint itself says that it is not well: no further check is waited for.
    Ill,
    /// It was not reached, broke off, or did not answer in time.
    Silent,
}

/// What the checks of an endpoint come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checks {
    /// A check has ended.
    known: bool,
    failing: bool,
    /// Checks in a row that speak against what is thought of it.
    against: u32,
}

impl Checks {
    /// Of an endpoint that no check has been made of. One that `waits` takes no requests before one is good.
    #[must_use]
    pub const fn new(waits: bool) -> Self {
        Self { known: false, failing: waits, against: 0 }
    }

    /// It is given no requests.
    #[must_use]
    pub const fn failing(&self) -> bool {
        self.failing
    }

    /// Whether any check has ended.
    #[must_use]
    pub const fn known(&self) -> bool {
        self.known
    }

    /// Takes in one more check. The first one decides at once. Says whether the endpoint is now thought of otherwise than before.
    pub fn note(&mut self, found: Found, thresholds: Thresholds) -> bool {
        let (first, before) = (!self.known, self.failing);
        self.known = true;
        let speaks_against = (found == Found::Well) == before;
        if !speaks_against {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let enough = match found {
            Found::Well => thresholds.healthy,
            Found::Ill => 1,
            Found::Silent => thresholds.unhealthy,
        };
        if first || self.against >= enough {
            self.failing = !before;
            self.against = 0;
        }
        self.failing != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE_AND_TWO: Thresholds = Thresholds { unhealthy: 3, healthy: 2 };

    /// Notes what checks find: `+` a good answer, `-` a bad one, `.` none; and tells after each whether the endpoint fails (`F`) or not (`w`).
    fn check(mut checks: Checks, thresholds: Thresholds, found: &str, expected: &str) {
        let mut seen = String::new();
        for one in found.chars() {
            let found = match one {
                '+' => Found::Well,
                '-' => Found::Ill,
                _ => Found::Silent,
            };
            let before = checks.failing();
            let changed = checks.note(found, thresholds);
            assert_eq!(changed, before != checks.failing(), "{found:?} after {seen}");
            seen.push(if checks.failing() { 'F' } else { 'w' });
        }
        assert_eq!(seen, expected, "{found}");
    }

    #[test]
    fn the_first_check_decides_at_once() {
        for waits in [false, true] {
            assert_eq!(Checks::new(waits).failing(), waits);
            check(Checks::new(waits), THREE_AND_TWO, "+", "w");
            check(Checks::new(waits), THREE_AND_TWO, ".", "F");
            check(Checks::new(waits), THREE_AND_TWO, "-", "F");
        }
    }

    #[test]
    fn after_that_thresholds_hold_and_what_lies_between_begins_anew() {
        for waits in [false, true] {
            let new = Checks::new(waits);
            check(new, THREE_AND_TWO, "+...", "wwwF");
            check(new, THREE_AND_TWO, "+..+..+", "wwwwwww");
            check(new, THREE_AND_TWO, "...+.+.++", "FFFFFFFFw");
            check(new, THREE_AND_TWO, ".+-++..+...", "FFFFwwwwwwF");
        }
    }

    #[test]
    fn a_bad_answer_needs_no_second_one() {
        check(Checks::new(false), THREE_AND_TWO, "+-", "wF");
        check(Checks::new(false), THREE_AND_TWO, "+.-++", "wwFFw");
    }

    #[test]
    fn thresholds_of_one_follow_every_check() {
        let thresholds = Thresholds { unhealthy: 1, healthy: 1 };
        check(Checks::new(true), thresholds, "+.+-+..", "wFwFwFF");
    }

    /// Against a slow reading of the rules: what is thought follows from the whole history.
    #[test]
    fn all_histories_of_seven_checks_come_to_what_the_rules_say() {
        let kinds = [Found::Well, Found::Ill, Found::Silent];
        for thresholds in [THREE_AND_TWO, Thresholds { unhealthy: 2, healthy: 3 }] {
            for number in 0..3_usize.pow(7) {
                let history: Vec<_> = (0..7).map(|at| kinds[number / 3_usize.pow(at) % 3]).collect();
                let mut checks = Checks::new(false);
                let mut failing = false;
                let mut since = 0;
                for (at, found) in history.iter().enumerate() {
                    checks.note(*found, thresholds);
                    // Those at the end, since it was thought of otherwise, that all speak against what is thought.
                    let part = &history[since..=at];
                    let against = |found: &&Found| (**found == Found::Well) == failing;
                    let row = part.iter().rev().take_while(against).count();
                    let enough = match (failing, found) {
                        (true, _) => thresholds.healthy as usize,
                        (false, Found::Ill) => 1,
                        (false, _) => thresholds.unhealthy as usize,
                    };
                    if row > 0 && (at == 0 || row >= enough) {
                        failing = !failing;
                        since = at + 1;
                    }
                    assert_eq!(checks.failing(), failing, "{history:?} at {at}");
                }
            }
        }
    }
}
