//! Writes to the API server, each within the time that it has for an answer.

use super::{ANSWER, chain};

/// Why something was not written.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) why: String,
    /// The server did not answer: the next write is not better off.
    pub(super) late: bool,
}

impl Unwritten {
    /// Counts it, as a failure to write `what`.
    pub(super) fn count(&self, what: &'static str) {
        metrics::counter!("ambit_kubernetes_write_failures_total", "what" => what).increment(1);
    }
}

/// Waits for a write.
pub(super) async fn attempt<T, E: std::error::Error>(write: impl Future<Output = Result<T, E>>) -> Result<T, Unwritten> {
    match tokio::time::timeout(ANSWER, write).await {
        Ok(done) => done.map_err(|error| Unwritten { why: chain(&error), late: false }),
        Err(late) => Err(Unwritten { why: late.to_string(), late: true }),
    }
}
