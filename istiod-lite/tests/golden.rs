//! YAML in, wire resources out: each `golden/<case>.in.yaml` has its `golden/<case>.out.yaml`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p istiod-lite --test golden` writes the expected files; read the difference.

mod render;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ambit_identity::TrustDomain;
use istiod_lite::index::{ChangedKey, Index, MeshConfig};
use istiod_lite::source::{Directory, Source};
use istiod_lite::translate::{authorization, external, workload};
use serde_json::{Map, Value};

/// All resources for node proxies that follow from one file, by type and name.
async fn translate(input: &Path) -> Value {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(input, directory.path().join("in.yaml")).unwrap();
    let mut source = Directory::new(vec![directory.path().to_owned()]).unwrap();
    let events = source.next().await.unwrap();
    assert_eq!(*source.problems(), [], "{}", input.display());
    let mut index = Index::new(MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes"));
    let keys: BTreeSet<ChangedKey> = events.into_iter().flat_map(|event| index.apply(event)).collect();
    let (mut workloads, mut services, mut policies) = (Map::new(), Map::new(), Map::new());
    for key in keys {
        match key {
            ChangedKey::Workload(name) => {
                let made = workload::workload(&index, &name);
                workloads.insert(name.to_string(), made.as_ref().map(render::address).unwrap_or_default());
            }
            ChangedKey::Service(name) => {
                let made = workload::service(&index, &name);
                services.insert(name.to_string(), made.as_ref().map(render::address).unwrap_or_default());
            }
            ChangedKey::Policy(name) => {
                let made = authorization::policy(&index, &name);
                policies.insert(name.to_string(), made.as_ref().map(render::authorization).unwrap_or_default());
            }
            ChangedKey::External(key) => {
                let uid = key.uid(index.config());
                let made = external::workload(&index, &key);
                workloads.insert(uid, made.as_ref().map(render::address).unwrap_or_default());
            }
            ChangedKey::Host(host) => {
                let made = external::host(&index, &host);
                services.insert(host.to_string(), made.as_ref().map(render::address).unwrap_or_default());
            }
            ChangedKey::Waypoint(_) | ChangedKey::Endpoints { .. } | ChangedKey::Clients(_) => {}
        }
    }
    serde_json::json!({"workloads": workloads, "services": services, "policies": policies})
}

async fn check(case: &str) {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let made = translate(&golden.join(format!("{case}.in.yaml"))).await;
    let expected = golden.join(format!("{case}.out.yaml"));
    let text = serde_saphyr::to_string(&made).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&expected, &text).unwrap();
    }
    let held = std::fs::read_to_string(&expected).unwrap_or_default();
    assert!(held == text, "{} differs; made now:\n{text}", expected.display());
}

#[tokio::test]
async fn pods_and_services_become_addresses() {
    check("enrolment").await;
}

#[tokio::test]
async fn a_waypoint_is_named_where_one_is_asked_for_and_cannot_be_gone_around() {
    check("waypoints").await;
}

#[tokio::test]
async fn authorization_policies_become_l4_policies_that_never_allow_more() {
    check("authorization").await;
}

#[tokio::test]
async fn peer_authentication_becomes_policies_that_deny_callers_without_identity() {
    check("peer-authentication").await;
}

#[tokio::test]
async fn slices_give_services_without_selector_endpoints_that_are_no_pods() {
    check("endpoint-slices").await;
}

#[tokio::test]
async fn service_entries_become_services_with_workloads_by_address_and_by_name() {
    check("service-entries").await;
}
