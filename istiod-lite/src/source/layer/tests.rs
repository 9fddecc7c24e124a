use std::path::PathBuf;

use super::{FileId, Layers};
use crate::source::{Event, Origin, Severity};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

fn file(layer: usize, name: &str) -> FileId {
    (layer, PathBuf::from(name))
}

/// Puts texts in place and says what changed, `+` for objects that are new or other, `-` for those gone.
fn apply(layers: &mut Layers, texts: &[(usize, &str, Option<&str>)]) -> Vec<String> {
    let changes = texts.iter().map(|(layer, name, text)| (file(*layer, name), text.map(str::to_owned))).collect();
    let events = layers.update(changes).into_iter();
    let text = |event| match event {
        Event::Upsert(object) => format!("+{}", object.key()),
        Event::Delete(key) => format!("-{key}"),
    };
    events.map(text).collect()
}

fn problems(layers: &Layers) -> Vec<String> {
    layers.problems().iter().map(ToString::to_string).collect()
}

/// A file with this text alone, and the problems it must have.
fn check(text: &str, expected: &[&str]) {
    let mut layers = Layers::default();
    apply(&mut layers, &[(0, "a.yaml", Some(text))]);
    assert_eq!(problems(&layers), expected, "for\n{text}");
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: split
  namespace: shop
spec:
  parentRefs: [{group: '', kind: Service, name: billing}]
  rules:
  - backendRefs:
    - {name: billing-v1, port: 80, weight: 95}
    - name: billing-v2
      port: 80
      weight: 5
";

#[test]
fn a_correct_file_has_no_problems() {
    check(ROUTE, &[]);
}

#[test]
fn a_value_out_of_range_is_explained_with_its_line_and_path() {
    check(
        &ROUTE.replace("weight: 5\n", "weight: -1\n"),
        &["a.yaml:13: HTTPRoute shop/split: spec.rules[0].backendRefs[1].weight: -1 is not a weight (0 to 1000000)"],
    );
}

#[test]
fn a_wrong_type_is_explained_with_its_line_and_path() {
    check(
        &ROUTE.replace("weight: 5\n", "weight: lots\n"),
        &["a.yaml:13: HTTPRoute shop/split: spec.rules[0].backendRefs[1].weight: invalid type: string \"lots\", expected i32"],
    );
}

#[test]
fn every_unknown_field_is_named() {
    check(
        &ROUTE.replace("weight: 5\n", "wieght: 5\n").replace("  rules:", "  rule: 1\n  rules:"),
        &[
            "a.yaml:8: HTTPRoute shop/split: spec.rule: unknown field",
            "a.yaml:14: HTTPRoute shop/split: spec.rules[0].backendRefs[1].wieght: unknown field",
        ],
    );
}

#[test]
fn a_missing_field_is_reported_where_it_should_be() {
    check(
        &ROUTE.replace("    - name: billing-v2\n      port: 80\n", "    - port: 80\n"),
        &["a.yaml:11: HTTPRoute shop/split: spec.rules[0].backendRefs[1]: missing field `name`"],
    );
    check(
        &ROUTE.replace("      port: 80\n", ""),
        &["a.yaml:11: HTTPRoute shop/split: spec.rules[0].backendRefs[1].port: required for a Service"],
    );
}

#[test]
fn a_syntax_error_has_the_line_of_the_file_and_not_of_its_document() {
    let text = format!("{NAMESPACE}---\napiVersion: v1\nkind: Service\nmetadata: {{name: x\nspec: [\n");
    let mut layers = Layers::default();
    apply(&mut layers, &[(0, "a.yaml", Some(&text))]);
    let problems = layers.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(matches!(problems[0].origin, Origin::File { line: 7..=9, .. }), "{problems:?}");
    assert!(problems[0].reason.starts_with("not valid YAML: "), "{problems:?}");
}

#[test]
fn objects_without_what_every_object_has_are_errors() {
    check("kind: Pod\nmetadata: {name: x}\n", &["a.yaml:1: apiVersion: missing, or not a string"]);
    check(
        "# a comment\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  labels: {a: b}\n",
        &["a.yaml:5: metadata.name: missing, or not a string"],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: Not_A_Name}\n",
        &["a.yaml:3: metadata.name: \"Not_A_Name\" is not a valid name"],
    );
    check("- a\n- b\n", &["a.yaml:1: a Kubernetes object must be a mapping"]);
}

#[test]
fn kinds_of_the_mesh_that_are_not_supported_are_warnings_and_others_are_none_of_ours() {
    let text = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\n";
    let mut layers = Layers::default();
    let changed = apply(&mut layers, &[(0, "a.yaml", Some(&format!("{text}{NAMESPACE}")))]);
    assert_eq!(changed, ["+Namespace shop"]);
    assert_eq!(problems(&layers), ["a.yaml:2: kind: Sidecar of networking.istio.io/v1 is not supported and has no effect",]);
    assert_eq!(layers.problems()[0].severity, Severity::Warning);
}

#[test]
fn a_pattern_that_is_none_is_refused_before_a_proxy_sees_it() {
    check(
        &ROUTE
            .replace("  - backendRefs:", "  - matches:\n    - path: {type: RegularExpression, value: '/v(1'}\n    backendRefs:"),
        &[
            "a.yaml:10: HTTPRoute shop/split: spec.rules[0].matches[0].path.value: \"/v(1\" is not a regular expression: unclosed group",
        ],
    );
}

#[test]
fn policies_are_checked_by_value() {
    let policy = |rules: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n{rules}"
        )
    };
    check(
        &policy("  rules:\n  - from:\n    - source:\n        ipBlocks: [10.0.0.0/8, 10.0.0.0/99]\n"),
        &["a.yaml:8: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.ipBlocks[1]: \
         \"10.0.0.0/99\" is neither an IP address nor a CIDR block"],
    );
    check(
        &policy("  rules:\n  - to:\n    - operation: {ports: ['0']}\n"),
        &["a.yaml:7: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.ports[0]: \"0\" is not a port (1 to 65535)"],
    );
    check(
        &policy("  action: PERMIT\n"),
        &[
            "a.yaml:5: AuthorizationPolicy shop/p: spec.action: unknown variant `PERMIT`, expected one of `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`",
        ],
    );
    check(
        &policy("  rules:\n  - when:\n    - key: source.nmespace\n      values: [a]\n"),
        &["a.yaml:7: AuthorizationPolicy shop/p: spec.rules[0].when[0].key: \"source.nmespace\" is not a known attribute"],
    );
}

#[test]
fn a_broken_file_leaves_its_last_good_objects_in_force_and_recovery_clears_the_error() {
    let mut layers = Layers::default();
    assert_eq!(
        apply(&mut layers, &[(0, "a.yaml", Some(ROUTE)), (0, "b.yaml", Some(NAMESPACE))]),
        ["+Namespace shop", "+HTTPRoute shop/split",]
    );
    for broken in ["{", &ROUTE.replace("weight: 5\n", "weight: -1\n"), &ROUTE.replace("  name: split", "  nam: split")] {
        assert!(apply(&mut layers, &[(0, "a.yaml", Some(broken))]).is_empty());
        assert_eq!(layers.problems().len(), 1, "{:?}", layers.problems());
    }
    assert!(apply(&mut layers, &[(0, "a.yaml", Some(ROUTE))]).is_empty(), "nothing was other than before");
    assert!(layers.problems().is_empty());
    assert_eq!(apply(&mut layers, &[(0, "a.yaml", Some(&ROUTE.replace("95", "50")))]), ["+HTTPRoute shop/split"]);
}

#[test]
fn one_broken_object_holds_back_its_whole_file() {
    let mut layers = Layers::default();
    apply(&mut layers, &[(0, "a.yaml", Some(ROUTE))]);
    let text = format!("{}---\n{}", ROUTE.replace("95", "50"), "apiVersion: v1\nkind: Pod\nmetadata: {name: '-'}\n");
    assert!(apply(&mut layers, &[(0, "a.yaml", Some(&text))]).is_empty());
}

#[test]
fn removing_an_object_or_its_file_deletes_it() {
    let mut layers = Layers::default();
    let both = format!("{NAMESPACE}---\n{ROUTE}");
    apply(&mut layers, &[(0, "a.yaml", Some(&both))]);
    assert_eq!(apply(&mut layers, &[(0, "a.yaml", Some(NAMESPACE))]), ["-HTTPRoute shop/split"]);
    assert_eq!(apply(&mut layers, &[(0, "a.yaml", None)]), ["-Namespace shop"]);
}

#[test]
fn an_object_given_twice_is_an_error_until_one_is_gone() {
    let mut layers = Layers::default();
    apply(&mut layers, &[(0, "a.yaml", Some(NAMESPACE))]);
    assert!(apply(&mut layers, &[(0, "b.yaml", Some(NAMESPACE))]).is_empty());
    assert_eq!(problems(&layers), ["b.yaml:3: Namespace shop: metadata.name: the object is given in a.yaml already"]);
    apply(&mut layers, &[(0, "a.yaml", None)]);
    assert!(layers.problems().is_empty());
    assert_eq!(layers.objects.len(), 1);
}

#[test]
fn an_object_that_moves_to_another_file_stays_without_an_event() {
    let mut layers = Layers::default();
    apply(&mut layers, &[(0, "b.yaml", Some(NAMESPACE))]);
    let changes = apply(&mut layers, &[(0, "a.yaml", Some(NAMESPACE)), (0, "b.yaml", Some(""))]);
    assert!(changes.is_empty(), "{changes:?}");
    assert!(layers.problems().is_empty());
}

#[test]
fn a_later_directory_lies_over_an_earlier_one_field_by_field() {
    let mut layers = Layers::default();
    let base = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gate, namespace: shop, labels: {a: b}}\n\
                spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";
    let over = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gate, namespace: shop, labels: {c: d}}\n\
                status: {addresses: [{value: 10.96.0.1}]}\n";
    // The upper part alone lacks the spec: it waits.
    assert!(apply(&mut layers, &[(1, "o.yaml", Some(over))]).is_empty());
    assert_eq!(layers.problems()[0].severity, Severity::Warning);
    assert_eq!(apply(&mut layers, &[(0, "a.yaml", Some(base))]), ["+Gateway shop/gate"]);
    assert!(layers.problems().is_empty(), "{:?}", layers.problems());
    let crate::source::Object::Gateway(gateway) = &layers.objects.values().next().unwrap() else { panic!("a gateway") };
    assert_eq!(gateway.metadata.labels.as_ref().unwrap().len(), 2);
    assert_eq!(gateway.spec.listeners[0].port, 15008);
    assert_eq!(gateway.status.as_ref().unwrap().addresses.as_ref().unwrap()[0].value, "10.96.0.1");
    assert_eq!(apply(&mut layers, &[(1, "o.yaml", None)]), ["+Gateway shop/gate"]);
    assert_eq!(apply(&mut layers, &[(0, "a.yaml", None)]), ["-Gateway shop/gate"]);
}

#[test]
fn a_file_with_a_warning_is_looked_at_again_only_for_what_it_has_a_part_of() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: shop}\naddressType: FQDN\n";
    let text = format!("{slice}endpoints: [{{addresses: [a.example]}}]\n");
    let mut layers = Layers::default();
    apply(&mut layers, &[(0, "a.yaml", Some(&text)), (0, "b.yaml", Some(NAMESPACE))]);
    assert_eq!(layers.problems().len(), 1, "{:?}", layers.problems());
    let taken = |layers: &mut Layers, file: (usize, &str, Option<&str>)| {
        layers.take_taken();
        apply(layers, &[file]);
        layers.take_taken().into_iter().map(|(_, path)| path.display().to_string()).collect::<Vec<_>>()
    };
    let other = NAMESPACE.replace("shop", "bank");
    assert_eq!(taken(&mut layers, (0, "b.yaml", Some(&other))), ["b.yaml"]);
    assert_eq!(layers.problems().len(), 1, "the warning stays: {:?}", layers.problems());
    let over = slice.replace("FQDN", "IPv4") + "endpoints: [{addresses: [10.9.0.1]}]\n";
    assert_eq!(taken(&mut layers, (1, "o.yaml", Some(&over))), ["o.yaml", "a.yaml"]);
    assert!(layers.problems().is_empty(), "it has an effect as it is now: {:?}", layers.problems());
}

#[test]
fn an_error_in_an_upper_layer_is_reported_in_its_own_file() {
    let mut layers = Layers::default();
    let base = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n";
    let over = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstatus:\n  podIP: 300.1.1.1\n";
    apply(&mut layers, &[(0, "a.yaml", Some(base)), (1, "o.yaml", Some(over))]);
    assert_eq!(problems(&layers), ["o.yaml:5: Pod default/x: status.podIP: \"300.1.1.1\" is not an IP address"]);
}

#[test]
fn items_of_a_list_have_their_own_lines() {
    check(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: s}\n  spec:\n    ports:\n    - port: 0\n",
        &["a.yaml:9: Service default/s: spec.ports[0].port: 0 is not a port (1 to 65535)"],
    );
}
