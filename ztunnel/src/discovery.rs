//! What the control plane says, and until it answers what an earlier run has kept of it.

use std::{sync::Arc, time::Duration};

use ambit_api::type_url;
use ambit_runtime::readiness::Readiness;
use ambit_xds::client::{Credentials, DeltaClient, Subscription, Subscriptions, Target};
use tokio::sync::watch;

use crate::{
    Config, Error,
    state::{
        self, Changes, Shared,
        kept::{InForce, Kept, Kind, Restored, keeping, put_in_force},
    },
};

/// How long a proxy that starts waits for the control plane before the kept state is in force.
const PATIENCE: Duration = Duration::from_secs(2);

/// The way by which state comes to the proxy.
pub(crate) struct Discovery {
    client: DeltaClient,
    state: Arc<Shared>,
    kept: Option<Arc<Kept>>,
    restored: bool,
}

impl Discovery {
    /// Prepares to ask `target`, and takes over what an earlier run has kept. That decides nothing before the control plane has had
    /// time to answer.
    pub(crate) fn new(config: &Config, state: Arc<Shared>, target: Target) -> Self {
        let (kept, restored) = open(config);
        let was = restored.is_some();
        let [addresses, policies] = restored.map(|restored| restore(restored, &state)).unwrap_or_default();
        let mut client = client(config, &state, target, kept.as_ref(), [addresses.doubtful, policies.doubtful]);
        client.restore(type_url::ADDRESS, addresses.versions);
        client.restore(type_url::AUTHORIZATION, policies.versions);
        Self { client, state, kept, restored: was }
    }

    /// The state on disk, if it is kept.
    pub(crate) fn kept(&self) -> Option<Arc<Kept>> {
        self.kept.clone()
    }

    /// Asks and keeps for as long as the tasks go on that it gives to `spawn`. The proxy is ready when both types are known.
    pub(crate) fn start(self, ready: &Readiness, mut spawn: impl FnMut(futures::future::BoxFuture<'static, ()>)) {
        for (type_url, note) in [
            (type_url::ADDRESS, (|c| c.addresses_synced = true) as fn(&mut Changes)),
            (type_url::AUTHORIZATION, |c| c.policies_synced = true),
        ] {
            let (mut synced, task, state) = (self.client.synced(type_url), ready.task(type_url), Arc::clone(&self.state));
            let (kept, connected) = (self.kept().filter(|_| self.restored), self.client.connection());
            spawn(Box::pin(async move {
                let known = tokio::select! {
                    synced = synced.wait_for(|synced| *synced) => synced.is_ok(),
                    () = patience(kept, connected) => true,
                };
                if known {
                    state.note(note);
                    task.done();
                }
            }));
        }
        if let Some(kept) = self.kept {
            let [addresses, policies] = [type_url::ADDRESS, type_url::AUTHORIZATION].map(|type_url| self.client.synced(type_url));
            spawn(Box::pin(kept.run(self.state, [self.client.connection(), addresses, policies])));
        }
        spawn(Box::pin(self.client.run()));
    }
}

/// The kept state, if it is to be kept, and what an earlier run has left.
fn open(config: &Config) -> (Option<Arc<Kept>>, Option<Restored>) {
    let Some(directory) = &config.state_dir else { return (None, None) };
    let owner = format!("{}/{}/{}", config.node, config.control_plane.cluster_id, config.trust_domain);
    let oldest = Duration::from_secs(config.state_max_age_hours.saturating_mul(3600));
    let (kept, restored) = Kept::open(directory, owner, oldest);
    (Some(Arc::new(kept)), restored)
}

/// Completes when the control plane had its time to answer and there is a kept state to go on with. One that has begun to answer has
/// all the time that it takes.
async fn patience(kept: Option<Arc<Kept>>, mut connected: watch::Receiver<bool>) {
    let Some(kept) = kept else { return std::future::pending().await };
    // An error means that the client has ended, and the program with it.
    while connected.wait_for(|connected| !connected).await.is_ok() {
        let given_up = async {
            tokio::time::sleep(PATIENCE).await;
            // Another proxy of the node knows as much, and has certificates besides.
            kept.alone().await;
        };
        tokio::select! {
            answers = connected.wait_for(|connected| *connected) => {
                if answers.is_err() {
                    break;
                }
            }
            () = given_up => {
                if kept.used() {
                    return;
                }
                break;
            }
        }
    }
    std::future::pending().await
}

/// Completes, with what is wrong, when this program has to be started anew to serve: it has read a state that is not the last one.
pub(crate) async fn outdated(kept: Option<Arc<Kept>>) -> Error {
    match kept {
        Some(kept) => Error::Outdated(kept.outdated().await),
        None => std::future::pending().await,
    }
}

/// Completes when this proxy is to take the pods of the node: when it knows what it has to, or there is no other one that serves them meanwhile.
/// One that took them before would refuse connections that the other one can carry, for as long as the control plane is away.
pub(crate) async fn stand_by(kept: Option<Arc<Kept>>, state: Arc<Shared>) {
    let Some(kept) = kept else { return };
    let known = |_: &Shared, changes: Changes| (changes.addresses_synced && changes.policies_synced).then_some(());
    tokio::select! {
        _known = state.wait_for(Duration::MAX, known) => {}
        () = kept.takes_over() => {}
    }
}

/// Puts in force what an earlier run knew.
fn restore(Restored { addresses, policies, age }: Restored, state: &Arc<Shared>) -> [InForce; 2] {
    tracing::info!(addresses = addresses.len(), policies = policies.len(), age_s = age.as_secs(), "a kept state was read");
    [put_in_force(addresses, state::addresses(Arc::clone(state))), put_in_force(policies, state::policies(Arc::clone(state)))]
}

/// The discovery client for the types of the node proxy (wire contract, section 2).
fn client(
    config: &Config,
    state: &Arc<Shared>,
    target: Target,
    kept: Option<&Arc<Kept>>,
    [addresses, policies]: [Vec<String>; 2],
) -> DeltaClient {
    let (pod, namespace) = (&config.pod_name, &config.pod_namespace);
    let id = format!("ztunnel~{}~{pod}.{namespace}~{namespace}.svc.cluster.local", config.instance_ip);
    let metadata =
        [("NAME", pod.as_str()), ("NAMESPACE", namespace), ("INSTANCE_IPS", &config.instance_ip), ("NODE_NAME", &config.node)];
    let credentials = Credentials::new(&config.control_plane.token, &config.control_plane.cluster_id);
    let state = || Arc::clone(state);
    let types = vec![
        Subscription::wildcard(type_url::ADDRESS, keeping(kept.cloned(), Kind::Address, addresses, state::addresses(state()))),
        Subscription::wildcard(type_url::AUTHORIZATION, keeping(kept.cloned(), Kind::Policy, policies, state::policies(state()))),
    ];
    DeltaClient::new(target, ambit_xds::node(id, &metadata), credentials, types, Subscriptions::new())
}
