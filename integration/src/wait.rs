//! Waiting for something to become true, with a limit and a reason.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Asks again and again until `ask` gives something, and how long that took.
///
/// # Errors
/// When nothing came within `limit`; the message says what was awaited and the last reason why it is not there.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> anyhow::Result<(T, Duration)> {
    let began = Instant::now();
    loop {
        let reason = match ask().await {
            Ok(found) => return Ok((found, began.elapsed())),
            Err(reason) => reason,
        };
        if began.elapsed() > limit {
            bail!("{what}: not within {limit:?}; {reason}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
