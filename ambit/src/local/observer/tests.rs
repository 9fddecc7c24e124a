use super::*;
use crate::local::topology::PodFacts;

fn observer() -> Observer {
    let facts = |workload: &str, address: &str| PodFacts {
        workload: workload.into(),
        service_account: workload.into(),
        node: "node-1".into(),
        addresses: vec![address.parse().unwrap()],
        stats: None,
        ready: true,
        enrolled: true,
        captured: true,
        guarded: true,
        waypoint: false,
        services: Vec::new(),
    };
    let mut topology = Topology::default();
    topology.pods.insert(NamespacedName::new("shop", "web-1"), facts("web", "10.1.0.2"));
    topology.pods.insert(NamespacedName::new("shop", "api"), facts("api", "10.1.0.3"));
    let mut observer = Observer::default();
    observer.see(Arc::new(topology));
    observer
}

fn tell(observer: &mut Observer, requests: u64, errors: u64) {
    let latency_us = vec![(1000, requests - errors)];
    let edge = EdgeStats { host: "api".into(), requests, errors, latency_us, ..EdgeStats::default() };
    observer.take_counts(&NamespacedName::new("shop", "web-1"), ProgramStats { edges: vec![edge], ..ProgramStats::default() });
}

fn counts(edges: &[Edge]) -> (u64, u64) {
    assert_eq!(edges.len(), 1, "{edges:?}");
    (edges[0].requests, edges[0].errors)
}

#[test]
fn a_program_that_is_started_again_loses_no_count_and_none_is_counted_twice() {
    let mut observer = observer();
    tell(&mut observer, 40, 4);
    observer.reset();
    tell(&mut observer, 50, 5);
    assert_eq!(counts(&observer.edges()), (10, 1));
    // It is started again, and counts from zero; below, at and above what was before the reset.
    for (requests, errors, wanted) in [(3, 0, (13, 1)), (40, 1, (50, 2)), (60, 2, (70, 3))] {
        let before = observer.totals();
        let (told, _) = counts(&observer.edges());
        tell(&mut observer, requests, errors);
        assert_eq!(counts(&observer.edges()), wanted);
        // The rate is of what came since.
        assert_eq!(counts(&observer.edges_since(&before)).0, wanted.0 - told);
    }
    assert_eq!(observer.edges()[0].p50_ms, Some(1.0));
}

fn metrics(count: u64) -> String {
    format!(
        "{OPENED}{{reporter=\"source\",source_workload=\"web-1\",source_workload_namespace=\"shop\",destination_workload=\"api\",\
         destination_workload_namespace=\"shop\",connection_security_policy=\"mutual_tls\"}} {count}\n"
    )
}

fn opened(observer: &Observer) -> u64 {
    observer.totals().values().map(|total| total.protection.mutual_tls + total.protection.plain).sum()
}

#[test]
fn a_proxy_that_is_started_again_counts_on() {
    let mut observer = observer();
    for (process, count) in [("first", 7), ("first", 9), ("first", 3), ("second", 4)] {
        observer.take_metrics(process, &metrics(count));
    }
    assert_eq!(opened(&observer), 9 + 3 + 4);
}
