//! The conformance suite of the Gateway API, its profiles of the mesh, as `integration/conformance/run.sh` runs it: once, on a cluster of its own.

#![allow(missing_docs)]

use std::{collections::BTreeSet, path::Path, process::Command};

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
    // Beside it is the log, which stays.
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance.yaml");
    let _absent = std::fs::remove_file(&report);
    let ended = Command::new(env!("CARGO_BIN_EXE_conformance")).arg("--report").arg(&report).status().unwrap();
    assert!(ended.success(), "{ended}: what it said is above");
    let report = std::fs::read_to_string(&report).unwrap();
    let said =
        |name: &str| report.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": ")).collect::<Vec<_>>();
    // They come in any order.
    let profiles: BTreeSet<&str> = said("name").into_iter().collect();
    assert_eq!(profiles, BTreeSet::from(["MESH-GRPC", "MESH-HTTP"]), "{report}");
    for none in ["Failed", "Skipped"] {
        assert!(said(none).len() >= 3 && said(none).iter().all(|count| *count == "0"), "{none}: {report}");
    }
    let features: BTreeSet<&str> = report.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    assert!(EXTENDED.iter().all(|feature| features.contains(feature)), "{report}");
    assert!(!report.contains("unsupportedFeatures"), "{report}");
}
