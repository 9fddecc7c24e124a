//! What is done now and then for the connections to endpoints, of all workers.

use std::{sync::Arc, time::Duration};

use ambit_tls::Retirements;

use crate::proxy::Proxy;

/// How often connections that wait too long are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// The longest that a connection to an endpoint takes to be made: TCP and TLS, with some grace.
const DIAL: Duration = Duration::from_secs(30);

/// Has new requests take new connections when the certificate is renewed or whom we believe has changed, and ends those to a peer whose
/// certificate was taken back. `all` are those of which none may be left out: those of all workers, and of what is done beside them.
pub async fn retire(all: Vec<Arc<Proxy>>) {
    let Some(proxy) = all.first() else { return };
    let (certificates, identity) = (proxy.certificates.clone(), proxy.identity.clone());
    let mut retirements = Retirements::new(certificates.clone(), DIAL);
    while let Some(retired) = retirements.next().await {
        if retired.identities.contains(&identity) {
            for proxy in &all {
                proxy.tunnels.forget(&identity);
                proxy.http.retire();
            }
        }
        if !retired.trust {
            continue;
        }
        let revoked = |proxy: &Arc<Proxy>| proxy.tunnels.cut(|peer| peer.is_some_and(|peer| certificates.trust().revokes(peer)));
        let ended: usize = all.iter().map(revoked).sum();
        if ended > 0 {
            tracing::warn!(connections = ended, "connections were ended, because their peers' certificates are revoked");
        }
    }
}

/// Closes connections to endpoints that wait too long and lets endpoints return to clusters that nobody asks for, for as long as the
/// program runs.
pub async fn sweep(all: Vec<Arc<Proxy>>) {
    let Some(proxy) = all.first() else { return };
    loop {
        tokio::time::sleep(SWEEP).await;
        all.iter().for_each(|proxy| proxy.http.sweep());
        for cluster in proxy.config.load().clusters.values() {
            cluster.live.look(cluster);
        }
    }
}
