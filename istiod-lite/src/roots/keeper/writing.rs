//! The next state, and what people are shown of it, written by the leader.

use kube::api::PostParams;
use tokio::time::timeout;

use super::{
    super::{STATE, publish::MANAGER, report::Report, rotation::Held, secret},
    PATIENCE, Roots,
};

impl Roots {
    /// Writes a state over the one that was read, or not at all.
    pub(super) async fn write(&mut self, held: Held) {
        let written = secret::write(&held, &self.config.namespace, self.version.as_deref());
        let written = match written.and_then(|written| secret::with_report(written, &self.report(&held))) {
            Ok(secret) => secret,
            Err(error) => return tracing::error!(%error, "the state of the authority cannot be written"),
        };
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let call = async {
            match self.version {
                Some(_) => self.secrets.replace(STATE, &params, &written).await,
                None => self.secrets.create(&params, &written).await,
            }
        };
        match timeout(PATIENCE, call).await {
            Ok(Ok(secret)) => {
                self.refused = None;
                self.adopt(Some(secret));
            }
            // Somebody was faster, or the API server has an older state again than we do: what it has counts.
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                metrics::counter!("istiod_lite_authority_conflicts_total").increment(1);
                tracing::warn!(secret = %self.name(), reason = status.message, "the next state was not written, for another one is there");
                self.read_anew().await;
            }
            Ok(Err(error)) => self.api_refused(format!("cannot write Secret {}: {error}", self.name())),
            Err(_) => self.api_refused(format!("cannot write Secret {}: no answer within {PATIENCE:?}", self.name())),
        }
    }

    /// What people are shown of this state without a control plane.
    pub(super) fn report(&self, held: &Held) -> Report {
        Report::of_kept(held, &self.config, self.input.problems.clone())
    }
}
