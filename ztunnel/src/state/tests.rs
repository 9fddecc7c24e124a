use std::sync::Arc;

use ambit_api::{security, type_url, workload};
use ambit_model::{
    address::{Network, NetworkAddress},
    policy::PolicyKey,
};
use ambit_xds::{Resource, client::Handler};

use super::*;
use crate::test_support::resource;

fn pod(uid: &str, address: &[u8], policies: &[&str]) -> Resource {
    pod_of("shop", uid, address, policies)
}

fn pod_of(namespace: &str, uid: &str, address: &[u8], policies: &[&str]) -> Resource {
    let workload = workload::Workload {
        uid: uid.to_owned(),
        name: "web".to_owned(),
        namespace: namespace.to_owned(),
        addresses: vec![address.to_vec().into()],
        authorization_policies: policies.iter().map(|p| (*p).to_owned()).collect(),
        ..Default::default()
    };
    let address = workload::Address { r#type: Some(workload::address::Type::Workload(workload)) };
    resource(type_url::ADDRESS, uid, &address)
}

#[test]
fn one_bad_address_is_rejected_and_the_others_are_taken() {
    let shared = Arc::new(Shared::default());
    let mut handler = addresses(Arc::clone(&shared));
    let rejected = handler.apply(vec![pod("good", &[10, 0, 0, 1], &[]), pod("bad", &[10, 0, 0], &[])], Vec::new());
    assert_eq!(rejected.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["bad"]);
    assert!(shared.read(|mesh| mesh.workload("good").is_some() && mesh.workload("bad").is_none()));
    handler.apply(Vec::new(), vec!["good".to_owned()]);
    assert!(shared.read(|mesh| mesh.workload("good").is_none()));
}

#[test]
fn a_rejected_update_leaves_the_version_before_it_in_force() {
    let shared = Arc::new(Shared::default());
    let mut handler = addresses(Arc::clone(&shared));
    handler.apply(vec![pod("web", &[10, 0, 0, 1], &[])], Vec::new());
    assert_eq!(handler.apply(vec![pod("web", &[1], &[])], Vec::new()).len(), 1);
    assert!(shared.read(|mesh| mesh.workload("web").is_some()));
}

#[test]
fn the_addresses_of_a_service_that_cannot_be_read_are_known_to_be_of_the_mesh() {
    let shared = Arc::new(Shared::default());
    let mut handler = addresses(Arc::clone(&shared));
    let vip = |bytes: &[u8], length| workload::NetworkAddress { address: bytes.to_vec().into(), length, ..Default::default() };
    let service = workload::Service {
        name: "api".into(),
        namespace: "shop".into(),
        hostname: "api.shop".into(),
        // A range is not supported, so that the whole service is rejected.
        addresses: vec![vip(&[10, 96, 0, 1], None), vip(&[10, 97, 0, 0], Some(16))],
        ..Default::default()
    };
    let bad = workload::Address { r#type: Some(workload::address::Type::Service(service)) };
    assert_eq!(handler.apply(vec![resource(type_url::ADDRESS, "shop/api.shop", &bad)], Vec::new()).len(), 1);
    let unreadable = |ip: &str| {
        let address = NetworkAddress::new(Network::default(), ip.parse().unwrap());
        shared.read(|mesh| mesh.unreadable_at(&address).map(str::to_owned))
    };
    for ip in ["10.96.0.1", "10.97.3.4"] {
        assert_eq!(unreadable(ip).as_deref(), Some("shop/api.shop"), "{ip}");
    }
    assert_eq!(unreadable("10.98.0.1"), None);
    handler.apply(Vec::new(), vec!["shop/api.shop".to_owned()]);
    assert_eq!(unreadable("10.96.0.1"), None);
}

#[test]
fn a_policy_that_cannot_be_read_is_rejected_and_denies_in_its_scope() {
    let shared = Arc::new(Shared::default());
    addresses(Arc::clone(&shared)).apply(vec![pod("web", &[10, 0, 0, 1], &[])], Vec::new());
    let mut handler = policies(Arc::clone(&shared));
    let bad = security::Authorization { name: "p".into(), namespace: "shop".into(), scope: 1, action: 7, ..Default::default() };
    let rejected = handler.apply(vec![resource(type_url::AUTHORIZATION, "shop/p", &bad)], Vec::new());
    assert_eq!(rejected.len(), 1);
    let denied = |mesh: &MeshState| mesh.unreadable_policy_for(mesh.workload("web").unwrap()).cloned();
    assert_eq!(shared.read(denied), Some(PolicyKey::new("shop", "p")));
    handler.apply(Vec::new(), vec!["shop/p".to_owned()]);
    assert_eq!(shared.read(denied), None);
}

fn uid(shared: &Shared, name: &str) -> Uid {
    shared.read(|mesh| mesh.workload(name).unwrap().uid.clone())
}

#[test]
fn a_workload_that_names_other_policies_counts_as_a_change_of_policy_for_its_own_connections() {
    let shared = Arc::new(Shared::default());
    let mut handler = addresses(Arc::clone(&shared));
    handler.apply(vec![pod("web", &[10, 0, 0, 1], &[]), pod("api", &[10, 0, 0, 9], &[])], Vec::new());
    let (web, api) = (shared.policies_of(&uid(&shared, "web")), shared.policies_of(&uid(&shared, "api")));
    let told = || (web.has_changed().unwrap(), api.has_changed().unwrap());
    handler.apply(vec![pod("web", &[10, 0, 0, 2], &[])], Vec::new());
    assert_eq!(told(), (false, false));
    handler.apply(vec![pod("web", &[10, 0, 0, 2], &["shop/p"])], Vec::new());
    assert_eq!(told(), (true, false));
    // The policies of its namespace are others then.
    handler.apply(vec![pod_of("elsewhere", "api", &[10, 0, 0, 9], &[])], Vec::new());
    assert_eq!(told(), (true, true));
}

#[test]
fn a_workload_that_comes_back_is_decided_for_again_when_there_may_be_connections_to_it() {
    let shared = Arc::new(Shared::default());
    let mut handler = addresses(Arc::clone(&shared));
    let version = || *shared.policies().borrow();
    handler.apply(vec![pod("web", &[10, 0, 0, 1], &["shop/p"]), pod("api", &[10, 0, 0, 2], &["shop/p"])], Vec::new());
    assert_eq!(version(), 0);
    let web = shared.policies_of(&uid(&shared, "web"));
    drop(shared.policies_of(&uid(&shared, "api")));
    handler.apply(Vec::new(), vec!["web".to_owned(), "api".to_owned()]);
    handler.apply(vec![pod("api", &[10, 0, 0, 2], &["shop/other"])], Vec::new());
    assert_eq!((version(), web.has_changed().unwrap()), (0, false), "nobody is connected to it");
    handler.apply(vec![pod("web", &[10, 0, 0, 1], &[])], Vec::new());
    assert_eq!((version(), web.has_changed().unwrap()), (1, true));
}

#[test]
fn a_change_of_policy_tells_the_connections_that_it_may_concern_and_no_others() {
    let shared = Arc::new(Shared::default());
    let mut workloads = addresses(Arc::clone(&shared));
    workloads.apply(vec![pod("naming", &[10, 0, 0, 1], &["far/p"]), pod("plain", &[10, 0, 0, 2], &[])], Vec::new());
    let mut handler = policies(Arc::clone(&shared));
    let mut open = ["naming", "plain"].map(|name| shared.policies_of(&uid(&shared, name)));
    let mut told = || {
        open.each_mut().map(|open| {
            let changed = open.has_changed().unwrap();
            open.mark_unchanged();
            changed
        })
    };
    let policy = |namespace: &str, scope: security::Scope, action: i32| {
        let (name, namespace) = ("p".to_owned(), namespace.to_owned());
        let key = format!("{namespace}/{name}");
        let policy = security::Authorization { name, namespace, scope: scope.into(), action, ..Default::default() };
        vec![resource(type_url::AUTHORIZATION, &key, &policy)]
    };
    handler.apply(policy("far", security::Scope::WorkloadSelector, 1), Vec::new());
    assert_eq!(told(), [true, false]);
    handler.apply(policy("far", security::Scope::WorkloadSelector, 1), Vec::new());
    assert_eq!(told(), [false, false], "it is the same");
    handler.apply(policy("far", security::Scope::Global, 1), Vec::new());
    assert_eq!(told(), [true, true]);
    handler.apply(policy("far", security::Scope::Namespace, 1), Vec::new());
    assert_eq!(told(), [true, true], "it held for everyone until now");
    handler.apply(policy("shop", security::Scope::Namespace, 1), Vec::new());
    assert_eq!(told(), [true, true]);
    handler.apply(policy("other", security::Scope::Namespace, 1), Vec::new());
    assert_eq!(told(), [false, false]);
    // One that cannot be read.
    handler.apply(policy("shop", security::Scope::Namespace, 7), Vec::new());
    assert_eq!(told(), [true, true]);
    handler.apply(Vec::new(), vec!["far/p".to_owned()]);
    assert_eq!(told(), [true, false]);
    handler.apply(policy("far", security::Scope::WorkloadSelector, 7), Vec::new());
    assert_eq!(told(), [true, false], "it was not there before");
    handler.apply(policy("far", security::Scope::Global, 7), Vec::new());
    assert_eq!(told(), [true, true]);
}

#[tokio::test]
async fn waiting_ends_with_the_change_or_with_the_limit() {
    let shared = Arc::new(Shared::default());
    let waiting = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move { shared.wait_for(Duration::from_secs(5), |state, _| state.read(|mesh| mesh.workload("web").cloned())).await }
    });
    tokio::task::yield_now().await;
    addresses(Arc::clone(&shared)).apply(vec![pod("web", &[10, 0, 0, 1], &[])], Vec::new());
    assert!(waiting.await.unwrap().is_some());
    let never = shared.wait_for(Duration::from_millis(20), |state, _| state.read(|mesh| mesh.workload("other").cloned())).await;
    assert!(never.is_none());
}

#[test]
fn who_waits_for_any_change_of_policy_finds_those_told_whom_it_concerns() {
    const ROUNDS: u64 = 2_000;
    let shared = Shared::default();
    let watched = shared.policies_of(&Uid::from("web"));
    let any = shared.policies();
    let missed = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut missed = 0;
            for round in 1..=ROUNDS {
                while *any.borrow() < round {
                    std::thread::yield_now();
                }
                missed += u64::from(*watched.borrow() < round);
            }
            missed
        });
        (0..ROUNDS).for_each(|_| shared.write(true, |_| {}));
        waiting.join().unwrap()
    });
    assert_eq!(missed, 0);
}
