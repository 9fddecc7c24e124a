//! Ten thousand connections that stand: a change of policy touches those that it may concern, and no others.

use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ambit_api::{security, type_url, workload as wire};
use ambit_hbone::copy::Outcome;
use ambit_model::authorize::Connection;
use ambit_runtime::telemetry::Direction;
use ambit_xds::{Resource, client::Handler};
use tokio::{sync::Semaphore, task::yield_now};

use super::{Watched, carry, permit};
use crate::{
    proxy::{Pod, Proxy},
    state::{addresses, policies},
    test_support::{pod, proxy, resource},
};

const NAMESPACES: usize = 100;
const WORKLOADS: usize = 10;
const CLIENTS: usize = 10;
const ALL: usize = NAMESPACES * WORKLOADS * CLIENTS;

/// Bytes that never end, and how often someone looked for more of them.
struct Endless(Arc<AtomicUsize>);

impl Future for Endless {
    type Output = Outcome;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Outcome> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Pending
    }
}

/// Connections from every client to every workload, and what became of them.
struct Live {
    proxy: Arc<Proxy>,
    looked: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Live {
    async fn start(log: &Path) -> Self {
        let room = || Arc::new(Semaphore::new(ALL));
        let proxy = Arc::new(Proxy { places: room(), ..proxy(log) });
        let live = Self { proxy, looked: Arc::default(), ended: Arc::default() };
        live.addresses((0..ALL / CLIENTS).map(|number| workload(number / WORKLOADS, number % WORKLOADS, &[])).collect());
        live.policies(vec![deny("ns-9", "pick", security::Scope::WorkloadSelector, |_| {})]);
        live.addresses(vec![workload(9, 0, &["ns-9/pick"])]);
        let server = Pod { places: room(), ..pod() };
        for number in 0..ALL {
            live.connect(&server, number);
        }
        live
    }

    fn connect(&self, server: &Pod, number: usize) {
        let (place, client) = (number / CLIENTS, number % CLIENTS);
        let workload = self.proxy.state.read(|mesh| mesh.workload(&uid(place / WORKLOADS, place % WORKLOADS)).cloned()).unwrap();
        let (from, to) = (format!("10.0.0.{client}:4000").parse().unwrap(), (workload.addresses[0], 80).into());
        let id = format!("spiffe://cluster.local/ns/clients/sa/c{client}").parse().unwrap();
        let mut record = self.proxy.telemetry.begin(Direction::Inbound, from, to);
        permit((&self.proxy, server), &workload, Some(&id), from, to, &mut record).unwrap();
        let connection = Connection { source: Some(id), source_ip: from.ip(), destination: to };
        let watched = Watched::new(&self.proxy, workload, connection, &mut record);
        let carrying = carry(record, self.proxy.place(server).unwrap(), Endless(Arc::clone(&self.looked)), watched);
        let ended = Arc::clone(&self.ended);
        tokio::spawn(async move {
            carrying.await;
            ended.fetch_add(1, Ordering::Relaxed);
        });
    }

    fn addresses(&self, workloads: Vec<Resource>) {
        assert_eq!(addresses(Arc::clone(&self.proxy.state)).apply(workloads, Vec::new()), []);
    }

    fn policies(&self, of: Vec<Resource>) {
        assert_eq!(policies(Arc::clone(&self.proxy.state)).apply(of, Vec::new()), []);
    }

    /// Does this and looks how many connections go on after someone looked at them, and how many end.
    async fn check(&self, what: &str, change: impl FnOnce(&Self), (go_on, end): (usize, usize)) {
        let counts = || (self.looked.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed));
        let (looked, ended) = counts();
        let begun = Instant::now();
        change(self);
        let right = (looked + go_on, ended + end);
        while counts() != right && begun.elapsed() < Duration::from_secs(30) {
            yield_now().await;
        }
        // What comes too much comes after this.
        for _ in 0..100 {
            yield_now().await;
        }
        let now = counts();
        assert_eq!((now.0 - looked, now.1 - ended), (go_on, end), "{what}");
    }
}

fn uid(namespace: usize, number: usize) -> String {
    format!("Kubernetes//Pod/ns-{namespace}/w-{number}")
}

fn workload(namespace: usize, number: usize, names: &[&str]) -> Resource {
    let uid = uid(namespace, number);
    let workload = wire::Workload {
        uid: uid.clone(),
        name: format!("w-{number}"),
        namespace: format!("ns-{namespace}"),
        addresses: vec![vec![10, 1, namespace as u8, number as u8].into()],
        authorization_policies: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    resource(type_url::ADDRESS, &uid, &wire::Address { r#type: Some(wire::address::Type::Workload(workload)) })
}

/// A policy without rules that denies, until it is changed.
fn deny(namespace: &str, name: &str, scope: security::Scope, change: impl FnOnce(&mut security::Authorization)) -> Resource {
    let mut policy = security::Authorization {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        scope: scope.into(),
        action: security::Action::Deny.into(),
        ..Default::default()
    };
    change(&mut policy);
    resource(type_url::AUTHORIZATION, &format!("{namespace}/{name}"), &policy)
}

/// This client is denied.
fn client(number: usize) -> Vec<security::Group> {
    let principal = format!("cluster.local/ns/clients/sa/c{number}");
    let principals = vec![security::StringMatch { match_type: Some(security::string_match::MatchType::Exact(principal)) }];
    let matches = vec![security::Match { principals, ..Default::default() }];
    vec![security::Group { rules: vec![security::Rules { matches }] }]
}

#[tokio::test]
async fn a_change_of_policy_touches_only_those_of_ten_thousand_connections_that_it_may_concern() {
    use security::Scope::{Global, Namespace, WorkloadSelector};
    let log = tempfile::NamedTempFile::new().unwrap();
    let live = Live::start(log.path()).await;
    let of_namespace = WORKLOADS * CLIENTS;
    live.check("they stand", |_| {}, (ALL, 0)).await;
    let closed = || deny("ns-7", "closed", Namespace, |policy| policy.groups = client(3));
    live.check("a namespace", |live| live.policies(vec![closed()]), (of_namespace - WORKLOADS, WORKLOADS)).await;
    live.check("the same again", |live| live.policies(vec![closed()]), (0, 0)).await;
    let elsewhere = || deny("nobody", "p", Namespace, |policy| policy.groups = client(3));
    live.check("a namespace without workloads", |live| live.policies(vec![elsewhere()]), (0, 0)).await;
    let dry = |scope| deny("ns-8", "dry", scope, |policy| (policy.groups, policy.dry_run) = (client(3), true));
    live.check("a dry run", |live| live.policies(vec![dry(Namespace)]), (of_namespace, 0)).await;
    let pick = || deny("ns-9", "pick", WorkloadSelector, |policy| policy.groups = client(1));
    live.check("one that a workload names", |live| live.policies(vec![pick()]), (CLIENTS - 1, 1)).await;
    live.check("a workload that changes", |live| live.addresses(vec![workload(10, 0, &[])]), (0, 0)).await;
    let names = |live: &Live| live.addresses(vec![workload(10, 0, &["ns-9/pick"])]);
    live.check("a workload that names one", names, (CLIENTS - 1, 1)).await;
    let gone = WORKLOADS + 2;
    live.check("everyone", |live| live.policies(vec![dry(Global)]), (ALL - gone, 0)).await;
    let removed = |live: &Live| drop(policies(Arc::clone(&live.proxy.state)).apply(Vec::new(), vec!["ns-7/closed".to_owned()]));
    live.check("one that is removed", removed, (of_namespace - WORKLOADS, 0)).await;
    live.proxy.telemetry.flush();
    let lines = std::fs::read_to_string(log.path()).unwrap();
    let cut = |policy: &str| lines.lines().filter(|line| line.contains(&format!("policy={policy} "))).count();
    assert_eq!((cut("ns-7/closed"), cut("ns-9/pick"), lines.lines().count()), (WORKLOADS, 2, gone));
}
