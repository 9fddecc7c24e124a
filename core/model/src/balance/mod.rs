//! Which endpoint of a cluster takes a request, which one takes none for a while, and how much a cluster bears at once.
//!
//! The types mean what the Envoy v3 cluster that they are compiled from means (`envoy.config.cluster.v3.Cluster`): its load balancing, its
//! `outlier_detection`, its `health_checks`, its `circuit_breakers`. What random numbers and times there are is passed in.

mod ewma;
mod group;
mod health;
mod limits;
mod outlier;
mod rate;
mod shares;
mod spread;
mod table;
mod warm;

pub use ewma::PeakEwma;
pub use group::{Group, Policy};
pub use health::{Checks, Found, Thresholds};
pub use limits::Limits;
pub use outlier::{Enforced, History, Outcome, OutlierDetection, Why};
pub use rate::{FailurePercentage, Rate, SuccessRate};
pub use shares::{Counts, OVERPROVISIONING, PANIC_THRESHOLD, Share, shares};
pub use spread::{Locality, Member, Rules, Spread, Standing};
pub use table::Hashing;
pub(crate) use table::xxh64;
pub use warm::{SlowStart, Warmth};
