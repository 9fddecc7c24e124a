//! Connections follow certificates. TLS proves once who is at the other end; so that no connection goes on for long on a proof that is
//! over, new tunnels take a new connection when a certificate is renewed or the roots are others. Tunnels that are open go on, to their
//! own end: a renewal interrupts nobody.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use ambit_identity::SpiffeId;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::Instant,
};

use crate::SvidStore;

/// How often it is looked whether the file of the roots has changed.
const LOOK: Duration = Duration::from_secs(10);

/// What has changed for connections that stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// Whose connections are to take no more tunnels.
    pub identities: Vec<SpiffeId>,
    /// Whether whom we believe has changed, so that the certificates of peers are to be looked at again.
    pub trust: bool,
}

/// Tells whose connections are to take no more tunnels.
#[derive(Debug)]
pub struct Retirements {
    certificates: SvidStore,
    renewals: broadcast::Receiver<SpiffeId>,
    trust: watch::Receiver<u64>,
    dial: Duration,
    /// When it is told again that peers are to be looked at.
    again: VecDeque<Instant>,
}

impl Retirements {
    /// From now on, for the identities of `certificates`. A change of whom we believe is told twice, the second time after `dial`, the longest
    /// that a dial takes: one that was under way then has verified its peer before the change, and made its connection by now.
    #[must_use]
    pub fn new(certificates: SvidStore, dial: Duration) -> Self {
        let (renewals, trust) = (certificates.renewals(), certificates.trust().changes());
        Self { certificates, renewals, trust, dial, again: VecDeque::new() }
    }

    /// The next ones; none when there will be no more.
    pub async fn next(&mut self) -> Option<Retired> {
        let due = self.again.front().copied();
        let retired = tokio::select! {
            renewed = self.renewals.recv() => match renewed {
                Ok(identity) => Retired { identities: vec![identity], trust: false },
                // So many were renewed at once that some were not told of.
                Err(RecvError::Lagged(_)) => Retired { identities: self.all(), trust: false },
                Err(RecvError::Closed) => return None,
            },
            changed = self.trust.changed() => {
                changed.ok()?;
                self.again.push_back(Instant::now() + self.dial);
                Retired { identities: self.all(), trust: true }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                self.again.pop_front();
                Retired { identities: Vec::new(), trust: true }
            }
        };
        Some(retired)
    }

    fn all(&self) -> Vec<SpiffeId> {
        self.certificates.status().into_iter().map(|held| held.id).collect()
    }
}

/// Renews all certificates when `file`, the mesh's roots, has changed: so a proxy learns within seconds of a root that is added, and not
/// at the next half-life. Goes on for as long as it is polled.
pub async fn follow_roots(file: PathBuf, certificates: SvidStore) {
    let mut before = tokio::fs::read(&file).await.ok();
    loop {
        tokio::time::sleep(LOOK).await;
        // A file that cannot be read, or is being replaced, says nothing.
        let Ok(now) = tokio::fs::read(&file).await else { continue };
        if before.as_ref().is_some_and(|before| *before != now) {
            tracing::info!(file = %file.display(), "the roots of the mesh have changed; all certificates are renewed");
            certificates.renew_soon();
        }
        before = Some(now);
    }
}
