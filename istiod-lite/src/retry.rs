//! When the writers to the API server try again: each of them waits for what changes, or for the moment at which something is due.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The wait after the first failure, doubled with each further one up to [`LAST`].
pub(crate) const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
pub(crate) const LAST: Duration = Duration::from_secs(60);

/// How long to wait after so many failures in a row.
pub(crate) fn after(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(LAST)
}

/// Completes at this time; never, if there is none.
pub(crate) async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let seconds = [0, 1, 2, 3, 4, 6, 7, 8, u32::MAX].map(|failures| after(failures).as_secs());
        assert_eq!(seconds, [1, 1, 2, 4, 8, 32, 60, 60, 60]);
    }

    #[tokio::test]
    async fn no_time_never_comes() {
        let due = Instant::now() + Duration::from_millis(20);
        tokio::select! {
            () = at(None) => unreachable!(),
            () = at(Some(due)) => assert!(Instant::now() >= due),
        }
    }
}
