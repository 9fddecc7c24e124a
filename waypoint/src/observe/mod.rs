//! What is recorded: one access-log line and one set of metrics for each request and each connection, with one reason code.

mod beside;
mod lanes;
mod logged;
mod measured;
mod otlp;
mod outlets;
mod record;
mod room;
mod telemetry;
mod trace;

pub use beside::{Beside, Reached, Told};
pub use logged::{Line, Logged};
pub use otlp::export;
pub use record::{Given, Record, Upstream};
pub use telemetry::{InFlight, Telemetry, hashed};
pub use trace::{Span, Spans};

/// Counts tries after the first, and those that were not made, by `result`: `retried` as the route says, `resent` on a new connection,
/// `exhausted`, `over_budget`.
pub const RETRIES: &str = "ambit_request_retries_total";
