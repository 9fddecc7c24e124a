//! What is recorded: one access-log line and one set of metrics for each request and each connection, with one reason code.

mod record;
mod telemetry;

pub use record::{Record, Upstream};
pub use telemetry::{InFlight, Telemetry};
