//! The telemetry vocabulary: program logs, metrics with the names the ecosystem knows, and one access-log line per connection or
//! request.

mod access_log;
mod dry_run;
mod labels;
mod logging;
mod metrics;
mod names;
mod registry;
mod series;
mod spans;
mod trace;

pub use self::access_log::{AccessLog, Destination, Style};
pub use self::dry_run::count_dry_run;
pub use self::labels::label;
pub use self::logging::{LogFormat, change_log_filter, init_logging, log_filter};
pub use self::metrics::{Metrics, metrics_handle};
pub use self::names::metric;
pub use self::series::{Admitted, InUse, SeriesLimit};
pub use self::spans::{Collector, Spans};
pub use self::trace::{TRACEPARENT, Trace};

mod entry;
pub use self::entry::{Direction, Entry, Security};
