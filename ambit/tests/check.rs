//! `ambit check FILE...` as a user runs it: what it says of files that fit together badly, and its exit code.

use std::path::Path;
use std::process::Command;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: orders
  namespace: shop
spec:
  parentRefs:
  - {group: '', kind: Service, name: orders}
  rules:
  - matches:
    - method: POST
    backendRefs:
    - {name: orders, port: 80}
    retry: {attempts: 1, codes: [503]}
  - timeouts:
      request: 1s
      backendRequest: 1s
    retry: {attempts: 2}
    backendRefs:
    - {name: orders, port: 80}
";
const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec: {gatewayClassName: nginx, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: public, namespace: edge}
spec:
  parentRefs: [{name: public}]
  rules:
  - backendRefs: [{name: orders, namespace: shop, port: 80}]
    retry: {attempts: 3}
";

fn check(directory: &Path, more: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ambit")).arg("check").args(more).arg(directory).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn what_could_hurt_is_a_warning_with_its_file_line_and_field_and_does_not_fail_the_check() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("orders.yaml"), ROUTE).unwrap();
    std::fs::write(directory.path().join("public.yaml"), GATEWAY).unwrap();
    let (code, said) = check(directory.path(), &[]);
    assert_eq!(code, 0, "{said}");
    for (file, part) in [
        ("orders.yaml", ":14: HTTPRoute shop/orders: spec.rules[0].retry: POST may not arrive twice"),
        ("orders.yaml", ":16: HTTPRoute shop/orders: spec.rules[1].timeouts.request: 1s are over before all tries are"),
        ("public.yaml", ":13: HTTPRoute edge/public: spec.rules[0].retry: a request may come to Service shop/orders 12 times"),
    ] {
        let line = format!("warning: {}{part}", directory.path().join(file).display());
        assert!(said.lines().any(|one| one.starts_with(&line)), "{line}:\n{said}");
    }
    assert!(said.ends_with("2 files, 3 objects of the mesh: 0 errors, 3 warnings\n"), "{said}");
    let (_, document) = check(directory.path(), &["--json"]);
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["problems"][0]["severity"], "warning", "{document:#}");
    assert_eq!(document["problems"][0]["line"], 14, "{document:#}");

    std::fs::write(directory.path().join("orders.yaml"), ROUTE.replace("backendRequest: 1s", "backendRequest: 1d")).unwrap();
    let (code, said) = check(directory.path(), &[]);
    assert_eq!(code, 1, "{said}");
}

#[test]
fn kinds_that_no_waypoint_of_ours_carries_out_are_said_to_have_no_effect() {
    for (version, kind) in [
        ("networking.istio.io/v1alpha3", "EnvoyFilter"),
        ("extensions.istio.io/v1alpha1", "WasmPlugin"),
        ("networking.istio.io/v1", "Sidecar"),
        ("networking.istio.io/v1beta1", "ProxyConfig"),
        ("networking.istio.io/v1", "WorkloadGroup"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: it, namespace: shop}}\nspec: {{}}\n");
        std::fs::write(directory.path().join("it.yaml"), text).unwrap();
        let (code, said) = check(directory.path(), &[]);
        assert_eq!(code, 0, "{said}");
        let part = format!("kind: {kind} of {version} is not supported and has no effect");
        assert!(said.lines().any(|line| line.starts_with("warning: ") && line.contains(&part)), "{part}:\n{said}");
    }
}

#[test]
fn files_that_fit_together_are_said_to_be_good() {
    let directory = tempfile::tempdir().unwrap();
    let good = ROUTE.replace("method: POST", "method: GET").replace("request: 1s", "request: 4s");
    std::fs::write(directory.path().join("orders.yaml"), good).unwrap();
    std::fs::write(directory.path().join("public.yaml"), GATEWAY.replace("nginx", "ambit")).unwrap();
    let (code, said) = check(directory.path(), &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.ends_with("2 files, 3 objects of the mesh: 0 errors, 0 warnings\n"), "{said}");
}
