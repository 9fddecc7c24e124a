//! The last report, for whoever shows it.

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;

use super::super::{RootsConfig, issuer::unix, report::Report, rotation::Held};
use crate::ca::Refusals;

/// What people are shown of the authority. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<ArcSwapOption<Report>>);

impl View {
    /// Shows this report until there is another.
    #[must_use]
    pub fn of(report: Report) -> Self {
        let view = Self::default();
        view.0.store(Some(Arc::new(report)));
        view
    }

    pub(super) fn set(&self, held: &Held, config: &RootsConfig, problems: Vec<String>) {
        let report = Report::of_kept(held, config, problems);
        let root = report.roots.iter().find(|root| root.sha256 == held.active.anchor);
        for (name, ends) in [
            ("citadel_server_root_cert_expiry_timestamp", root.map_or(0, |root| root.not_after)),
            ("citadel_server_cert_chain_expiry_timestamp", held.active.not_after),
        ] {
            metrics::gauge!(name).set(ends as f64);
        }
        self.0.store(Some(Arc::new(report)));
    }

    /// The authority as it is now, with the last refusals.
    #[must_use]
    pub fn report(&self, refusals: &Refusals) -> Option<Report> {
        let report = self.0.load_full()?;
        Some(Report { refusals: refusals.last(), ..Report::clone(&report) }.at(unix(SystemTime::now())))
    }
}
