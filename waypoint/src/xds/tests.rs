//! What the store takes and what it rejects.

use ambit_api::{envoy::pb::envoy::service::discovery::v3::DiscoveryResponse, type_url};
use ambit_xds::{Resource, client::Subscriptions};
use prost::Message;

use super::Store;

/// Real responses of the control plane, when a directory with them is at hand: each of them must be taken whole.
#[test]
fn samples() {
    let Ok(directory) = std::env::var("AMBIT_ENVOY_SAMPLES") else { return };
    for set in ["whole", "routes", "policies", "direct"] {
        let store = Store::new(Subscriptions::new());
        for (kind, type_url) in
            [("cds", type_url::CLUSTER), ("eds", type_url::ENDPOINT), ("lds", type_url::LISTENER), ("rds", type_url::ROUTE)]
        {
            let bytes = std::fs::read(format!("{directory}/sample-{set}-{kind}.pb")).unwrap();
            let response = DiscoveryResponse::decode(bytes.as_slice()).unwrap();
            let resources = response
                .resources
                .into_iter()
                .enumerate()
                .map(|(n, body)| Resource { name: format!("{kind}-{n}"), version: "1".into(), body })
                .collect();
            let rejected = store.apply(type_url, resources, vec![]);
            assert!(rejected.is_empty(), "{set} {kind}: {rejected:#?}");
        }
    }
}
