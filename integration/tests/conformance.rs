//! The conformance suite of the Gateway API, its profiles of the mesh, as `integration/conformance/run.sh` runs it: once, on a cluster of its own.

#![allow(missing_docs)]

use std::{collections::BTreeSet, process::Command};

/// As the report has them after `supportedFeatures`.
const EXTENDED: [&str; 9] = [
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

#[test]
fn profiles_of_the_mesh_pass_with_every_feature() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.yaml");
    let ended = Command::new(env!("CARGO_BIN_EXE_conformance")).arg("--report").arg(&report).status().unwrap();
    assert!(ended.success(), "{ended}: what it said is above");
    let report = std::fs::read_to_string(&report).unwrap();
    let said =
        |name: &str| report.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": ")).collect::<Vec<_>>();
    assert_eq!(said("name"), ["MESH-GRPC", "MESH-HTTP"], "{report}");
    for none in ["Failed", "Skipped"] {
        assert!(said(none).len() >= 3 && said(none).iter().all(|count| *count == "0"), "{none}: {report}");
    }
    let features: BTreeSet<&str> = report.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    assert!(EXTENDED.iter().all(|feature| features.contains(feature)), "{report}");
    assert!(!report.contains("unsupportedFeatures"), "{report}");
}
