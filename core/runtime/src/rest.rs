//! A program that rests gives memory back: what start-up needed, and what a load has left behind.

use std::time::Duration;

use crate::{clock, readiness::Readiness, sys};

/// How often it is looked whether the program rests.
const LOOK: Duration = Duration::from_secs(1);
/// It rests when it has used less than this between two looks: a few thousand idle tunnels that are asked whether they still stand need
/// less. Who carries a little all the time does not rest: what is given back would be needed at once.
const RESTING: Duration = Duration::from_millis(5);
/// When to give back what start-up has left.
const FIRST: When = When { looks: 2, work: Duration::from_millis(20), pause: 0 };
/// And later what a load has left. What is given back and needed again costs a millisecond or two, which so much work outweighs: a thousand
/// connections that open and then are idle take twice that.
const LATER: When = When { looks: 3, work: Duration::from_millis(50), pause: 5 };

/// Gives memory back whenever the program has worked and rests again; the first time when it is ready and rests. Goes on for ever.
pub async fn give_back_at_rest(ready: Readiness) {
    ready.ready().await;
    let mut rest = Rest::since(Duration::ZERO, FIRST);
    loop {
        tokio::time::sleep(LOOK).await;
        if rest.look(clock::process_used()) {
            give_back();
            rest = Rest::since(clock::process_used(), LATER);
        }
    }
}

fn give_back() {
    match sys::give_back() {
        Ok(bytes) => tracing::debug!(bytes, "memory of the program was given back"),
        Err(error) => tracing::debug!(%error, "no memory is given back"),
    }
}

/// When to give back.
#[derive(Clone, Copy)]
struct When {
    /// After so many looks in a row at which it rested.
    looks: u32,
    /// After so much work, for only then there may be something to give back.
    work: Duration,
    /// Not before so many looks.
    pause: u32,
}

/// Looks at the processor time used so far.
struct Rest {
    when: When,
    passed: u32,
    given_back: Duration,
    last: Duration,
    looks: u32,
}

impl Rest {
    fn since(used: Duration, when: When) -> Self {
        Self { when, passed: 0, given_back: used, last: used, looks: 0 }
    }

    fn look(&mut self, used: Duration) -> bool {
        let resting = used.saturating_sub(self.last) < RESTING;
        self.last = used;
        self.passed += 1;
        self.looks = if resting { self.looks + 1 } else { 0 };
        let When { looks, work, pause } = self.when;
        self.looks >= looks && self.passed >= pause && used.saturating_sub(self.given_back) >= work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_work_and_not_while_there_is_some() {
        let at = Duration::from_millis;
        let mut rest = Rest::since(at(50), FIRST);
        let asked: Vec<bool> = [51, 52, 53, 300, 600, 601, 602, 603].map(|used| rest.look(at(used))).to_vec();
        assert_eq!(asked, [false, false, false, false, false, false, true, true]);
        let mut rest = Rest::since(at(603), FIRST);
        assert!([604, 605, 606].into_iter().all(|used| !rest.look(at(used))));
    }

    #[test]
    fn after_start_up_memory_is_given_back_once_in_five_seconds_at_most_and_never_under_a_light_load() {
        let at = Duration::from_millis;
        let mut rest = Rest::since(at(0), LATER);
        assert_eq!((1..1000).find(|_| rest.look(at(500))), Some(5));
        let mut rest = Rest::since(at(0), LATER);
        assert_eq!((1..1000).find(|second| rest.look(at(5 * second))), None);
        let mut rest = Rest::since(at(0), LATER);
        assert_eq!((1..100).find(|second| rest.look(at(5 * second))), None);
        assert_eq!((1..100).find(|_| rest.look(at(500))), Some(4));
    }
}
