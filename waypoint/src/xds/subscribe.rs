//! The discovery client: listeners and clusters as a whole, routes and endpoints by the names those use.

use ambit_api::type_url;
use ambit_xds::{
    Node, Resource,
    client::{Credentials, DeltaClient, Subscription, Subscriptions, Target},
};

use super::Store;

/// The types in the order that makes before it breaks: clusters and their endpoints before the listeners and routes that use them.
const TYPES: [&str; 5] = [type_url::SECRET, type_url::CLUSTER, type_url::ENDPOINT, type_url::LISTENER, type_url::ROUTE];

/// A client that keeps `store` up to date. `wanted` must be the one the store was made with.
pub fn client(target: Target, node: Node, credentials: Credentials, store: &Store, wanted: Subscriptions) -> DeltaClient {
    let types = TYPES
        .into_iter()
        .map(|type_url| {
            let store = store.clone();
            let handler = move |upserts: Vec<Resource>, removals: Vec<String>| store.apply(type_url, upserts, removals);
            match type_url {
                type_url::CLUSTER | type_url::LISTENER => Subscription::wildcard(type_url, handler),
                _ => Subscription::by_name(type_url, handler),
            }
        })
        .collect();
    DeltaClient::new(target, node, credentials, types, wanted)
}

/// Waits until the first configuration of every type is in force.
pub async fn synced(receivers: Vec<tokio::sync::watch::Receiver<bool>>) {
    for mut receiver in receivers {
        // The sender lives as long as the client, which lives as long as the program.
        if receiver.wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The types whose first delivery readiness waits for.
pub fn awaited(client: &DeltaClient) -> Vec<tokio::sync::watch::Receiver<bool>> {
    TYPES.iter().map(|type_url| client.synced(type_url)).collect()
}
