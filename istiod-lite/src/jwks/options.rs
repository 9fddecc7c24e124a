//! What the fetcher is told at start.

use std::path::PathBuf;
use std::time::Duration;

/// Between two fetches of the same keys, in seconds; Istio's too.
const REFRESH: u64 = 20 * 60;
/// The longest time between them: later than any clock tells would be no time at all.
const YEAR: u64 = 365 * 24 * 3600;

/// Flags for keys that are fetched.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "jwks")]
pub struct Options {
    /// Seconds after which the keys of a RequestAuthentication that are at an address (jwksUri, or that of its issuer's discovery document)
    /// are fetched again: how long a key that its issuer has withdrawn is still believed.
    #[arg(long, value_name = "SECONDS", default_value_t = REFRESH, value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    pub jwks_refresh_seconds: u64,
    /// A PEM file of authorities that certificates of these addresses may be by, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub jwks_roots: Option<PathBuf>,
    /// Fetch keys from loopback and link-local addresses, too. Whoever may write a RequestAuthentication can then have this machine's own
    /// services asked, and those that tell a cloud's machines who they are.
    #[arg(long)]
    pub jwks_local_addresses: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { jwks_refresh_seconds: REFRESH, jwks_roots: None, jwks_local_addresses: false }
    }
}

impl Options {
    /// The time from one fetch to the next.
    pub(super) fn refresh(&self) -> Duration {
        Duration::from_secs(self.jwks_refresh_seconds)
    }
}
