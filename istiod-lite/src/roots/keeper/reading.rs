//! Both Secrets read every minute, whatever the watches of them say. A watch may go silent without an end, and after the API server got a
//! backup of its data back it waits for versions that are long in the past: a replica would go on with a state that is over.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use tokio::time::Instant;

use super::{
    super::{CACERTS, RootsError, STATE, issuer::unix},
    PATIENCE, Roots, answered,
};

/// How often they are read at least.
const OFTEN: Duration = Duration::from_mins(1);
/// So many attempts fit into the time for which a state is good.
const ATTEMPTS: u32 = 4;

/// For how long a state that was read may be signed by: so long a rotation waits for replicas that learn of a step late. With a margin
/// that leaves no time to read, as tests have, for as long as all attempts may take.
pub(super) fn good_for(margin: Duration) -> Duration {
    margin.max(PATIENCE * ATTEMPTS)
}

/// The time between two readings.
pub(super) fn often(margin: Duration) -> Duration {
    (good_for(margin) / ATTEMPTS).min(OFTEN)
}

/// The version of a Secret; `None` when it is not there.
pub(super) fn version(secret: Option<&Secret>) -> Option<String> {
    secret?.metadata.resource_version.clone()
}

impl Roots {
    /// Reads both Secrets and takes over what no watch has told of.
    pub(super) async fn read_anew(&mut self) {
        let began = Instant::now();
        let both = async { tokio::join!(self.get(STATE), self.get(CACERTS)) };
        // Two calls are large, and rare: they take no room in what runs always.
        let (own, plugged) = Box::pin(both).await;
        match own {
            Ok(secret) => {
                self.refused = None;
                self.issuing.good_until(began + good_for(self.config.margin));
                let missed = version(secret.as_ref()) != self.version;
                if missed {
                    self.missed(STATE);
                }
                // What could not be used a minute ago may have been too young, by our clock or the clock of whoever made it.
                if missed || self.wrong.is_some() {
                    self.adopt(secret);
                }
            }
            Err(error) => self.api_refused(error.to_string()),
        }
        match plugged {
            Ok(secret) => {
                let missed = version(secret.as_ref()) != self.plugged_version;
                if missed {
                    self.missed(CACERTS);
                }
                if missed || self.input.may_change(unix(SystemTime::now())) {
                    self.plug(secret);
                }
            }
            Err(error) => self.api_refused(error.to_string()),
        }
        self.show();
    }

    async fn get(&self, name: &str) -> Result<Option<Secret>, RootsError> {
        answered(format!("reading Secret {}/{name}", self.config.namespace), self.secrets.get_opt(name)).await
    }

    fn missed(&self, name: &str) {
        metrics::counter!("istiod_lite_authority_changes_missed_total").increment(1);
        tracing::info!(
            secret = format!("{}/{name}", self.config.namespace),
            "the Secret has changed, and no watch has told of it yet"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_several_times_before_it_is_no_longer_good() {
        for (margin, good, every) in [(300, 300, 60), (3600, 3600, 60), (60, 60, 15), (1, 40, 10), (0, 40, 10)] {
            let margin = Duration::from_secs(margin);
            assert_eq!((good_for(margin).as_secs(), often(margin).as_secs()), (good, every), "{margin:?}");
        }
    }
}
