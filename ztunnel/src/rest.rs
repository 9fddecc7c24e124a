//! A proxy that rests gives memory back: what start-up needed, and what a load has left behind.

use std::time::Duration;

use ambit_runtime::{clock, readiness::Readiness, sys};

/// How often it is looked whether the proxy rests.
const LOOK: Duration = Duration::from_secs(1);
/// It rests when it has used less than this between two looks.
const RESTING: Duration = Duration::from_millis(10);
/// So often in a row.
const LOOKS: u32 = 2;
/// After so much work there may be something to give back.
const WORK: Duration = Duration::from_millis(20);

/// Gives memory back whenever the proxy has worked and rests again; the first time when it is ready and rests.
pub(crate) async fn give_back_at_rest(ready: Readiness) {
    ready.ready().await;
    let mut rest = Rest::since(Duration::ZERO);
    loop {
        tokio::time::sleep(LOOK).await;
        if rest.look(clock::process_used()) {
            give_back();
            rest = Rest::since(clock::process_used());
        }
    }
}

fn give_back() {
    match sys::give_back() {
        Ok(bytes) => tracing::debug!(bytes, "memory of the program was given back"),
        Err(error) => tracing::debug!(%error, "no memory is given back"),
    }
}

/// When to give back, by the processor time used so far.
struct Rest {
    given_back: Duration,
    last: Duration,
    looks: u32,
}

impl Rest {
    fn since(used: Duration) -> Self {
        Self { given_back: used, last: used, looks: 0 }
    }

    fn look(&mut self, used: Duration) -> bool {
        let resting = used.saturating_sub(self.last) < RESTING;
        self.last = used;
        self.looks = if resting { self.looks + 1 } else { 0 };
        self.looks >= LOOKS && used.saturating_sub(self.given_back) >= WORK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_work_and_not_while_there_is_some() {
        let at = Duration::from_millis;
        let mut rest = Rest::since(at(50));
        let asked: Vec<bool> = [51, 52, 53, 300, 600, 601, 602, 603].map(|used| rest.look(at(used))).to_vec();
        assert_eq!(asked, [false, false, false, false, false, false, true, true]);
        let mut rest = Rest::since(at(603));
        assert!([604, 605, 606].into_iter().all(|used| !rest.look(at(used))));
    }
}
