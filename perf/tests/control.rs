//! A small mesh's control plane, measured as a large one is.

#![allow(missing_docs)]

use std::path::Path;

use perf::control::{Size, measure};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_pod_is_one_resource_for_each_who_subscribes_and_everybody_comes_back() {
    let size = Size { pods: 400, services: 40, ztunnels: 20, waypoints: 4 };
    let outcome = measure(size, 10, 1, Path::new(env!("CARGO_BIN_EXE_perf"))).await.unwrap();
    // Each node proxy the workload, and one waypoint the endpoints of its service.
    assert!((outcome.responses_each - 21.0).abs() < f64::EPSILON, "{outcome:?}");
    assert!((outcome.resources_each - 21.0).abs() < f64::EPSILON, "{outcome:?}");
    assert!(outcome.read_p99_ms >= outcome.change_p99_ms, "{outcome:?}");
    assert!(outcome.change_p99_ms > 0.0 && outcome.reconnect_s > 0.0 && outcome.connected_mb > 0.0, "{outcome:?}");
}
