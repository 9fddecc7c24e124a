//! Gateways at the edge of the mesh, and the routes on them.

use serde_json::json;

use super::mesh;
use crate::deploy::{Deployed, Reports};
use crate::index::INGRESS_CONTROLLER;
use crate::source::{Kind, NamespacedName, ObjectKey};
use crate::status::{ObjectStatus, of, patch::patch};

fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop, generation: 3, uid: u1}}\nspec: {{gatewayClassName: ambit, listeners: [{listeners}]}}\n"
    )
}

fn service(spec: &str, status: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: edge, namespace: shop, labels: {{gateway.networking.k8s.io/gateway-name: edge}}, ownerReferences: [{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: edge, uid: u1}}]}}\nspec: {{clusterIP: 10.0.0.9, selector: {{gateway.networking.k8s.io/gateway-name: edge}}, ports: [{{port: 80}}]{spec}}}\nstatus: {{{status}}}\n"
    )
}

fn route(kind: &str, name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{more}}}\n"
    )
}

const POD: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: edge-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: edge}}\nspec: {containers: []}\nstatus: {phase: Running, podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}\n";
const HTTP: &str = "{name: web, port: 80, protocol: HTTP}";

fn status(text: &str, report: Deployed) -> ObjectStatus {
    let mut reports = Reports::default();
    assert!(reports.set(NamespacedName::new("shop", "edge"), report));
    let key = ObjectKey { kind: Kind::Gateway, name: NamespacedName::new("shop", "edge") };
    of(&mesh(text), &key, Some(&reports)).unwrap()
}

/// `type=status reason` of each condition.
fn said(conditions: &[crate::status::Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={} {}", c.r#type, c.status, c.reason)).collect()
}

fn of_route(text: &str, kind: Kind, name: &str) -> Vec<String> {
    let key = ObjectKey { kind, name: NamespacedName::new("shop", name) };
    said(&of(&mesh(text), &key, None).unwrap().conditions)
}

#[test]
fn a_gateway_is_programmed_once_its_service_has_an_address_and_a_pod_is_ready() {
    let balanced = |status: &str| service(", type: LoadBalancer", status);
    let awaited = status(&format!("{}{}{POD}", gateway(HTTP), balanced("")), Deployed::Applied);
    assert_eq!(said(&awaited.conditions), ["Accepted=True Accepted", "Programmed=False AddressNotAssigned"]);
    assert!(awaited.conditions[1].message.contains("service-type"), "{}", awaited.conditions[1].message);
    let given = "loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: edge.example.com}]}";
    let ready = status(&format!("{}{}{POD}", gateway(HTTP), balanced(given)), Deployed::Applied);
    assert_eq!(said(&ready.conditions), ["Accepted=True Accepted", "Programmed=True Programmed"]);
    assert_eq!(
        said(&ready.listeners[0].conditions),
        [
            "Accepted=True Accepted",
            "Programmed=True Programmed",
            "ResolvedRefs=True ResolvedRefs",
            "Conflicted=False NoConflicts"
        ]
    );
    let written = patch(None, &ready, "now").unwrap();
    let addresses = json!([{"type": "IPAddress", "value": "192.0.2.1"}, {"type": "Hostname", "value": "edge.example.com"}]);
    assert_eq!(written["addresses"], addresses);
    let starting = status(&format!("{}{}", gateway(HTTP), balanced(given)), Deployed::Applied);
    assert_eq!(said(&starting.conditions)[1], "Programmed=False NoResources");
    let inside = status(&format!("{}{}{POD}", gateway(HTTP), service("", "")), Deployed::Applied);
    assert_eq!(inside.addresses, Some(vec!["10.0.0.9".to_owned()]));
    let refused = status(&gateway(HTTP), Deployed::Refused("no".into()));
    assert_eq!(said(&refused.conditions), ["Accepted=False InvalidParameters", "Programmed=False Invalid"]);
}

#[test]
fn a_listener_says_why_it_does_not_serve() {
    let reasons = |listeners: &str| {
        let status = status(&gateway(listeners), Deployed::Applied);
        let of_listener = |listener: &crate::status::Listener| {
            let said = said(&listener.conditions);
            format!("{}: {}, {}", listener.name, said[0], said[3])
        };
        (said(&status.conditions)[0].clone(), status.listeners.iter().map(of_listener).collect::<Vec<_>>())
    };
    let (accepted, listeners) =
        reasons(&format!("{HTTP}, {{name: dns, port: 53, protocol: UDP}}, {{name: own, port: 15021, protocol: HTTP}}"));
    assert_eq!(accepted, "Accepted=True ListenersNotValid");
    assert_eq!(
        listeners,
        [
            "web: Accepted=True Accepted, Conflicted=False NoConflicts",
            "dns: Accepted=False UnsupportedProtocol, Conflicted=False NoConflicts",
            "own: Accepted=False PortUnavailable, Conflicted=False NoConflicts",
        ]
    );
    let (accepted, listeners) =
        reasons("{name: a, port: 80, protocol: HTTP, hostname: a.b}, {name: b, port: 80, protocol: HTTP, hostname: A.b}");
    assert_eq!(accepted, "Accepted=False ListenersNotValid");
    assert_eq!(listeners[1], "b: Accepted=False HostnameConflict, Conflicted=True HostnameConflict");
    let (_, listeners) = reasons("{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTPS, hostname: b.c}");
    assert_eq!(listeners[1], "b: Accepted=False ProtocolConflict, Conflicted=True ProtocolConflict");
    assert_eq!(listeners[0], "a: Accepted=False ProtocolConflict, Conflicted=True ProtocolConflict");
}

#[test]
fn a_route_says_whether_a_listener_takes_it_in_the_name_of_its_controller() {
    let listeners = "{name: web, port: 80, protocol: HTTP, hostname: '*.example.com'}";
    let parent = "parentRefs: [{name: edge}]";
    let good =
        format!("{}{}", gateway(listeners), route("HTTPRoute", "r", &format!("{parent}, hostnames: [a.example.com, b.org]")));
    assert_eq!(of_route(&good, Kind::HttpRoute, "r"), ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
    let key = ObjectKey { kind: Kind::HttpRoute, name: NamespacedName::new("shop", "r") };
    let conditions = of(&mesh(&good), &key, None).unwrap();
    let written = patch(None, &conditions, "now").unwrap();
    assert_eq!(written["parents"][0]["controllerName"], INGRESS_CONTROLLER);
    assert_eq!(patch(Some(&written), &conditions, "later"), None, "it is said");
    let reason = |more: &str, kind: &str, of: Kind| {
        let text = format!("{}{}", gateway(listeners), route(kind, "r", more));
        of_route(&text, of, "r").remove(0)
    };
    let http = |more: &str| reason(more, "HTTPRoute", Kind::HttpRoute);
    assert_eq!(http(&format!("{parent}, hostnames: [b.org, example.com]")), "Accepted=False NoMatchingListenerHostname");
    assert_eq!(http("parentRefs: [{name: edge, sectionName: other}]"), "Accepted=False NoMatchingParent");
    assert_eq!(http("parentRefs: [{name: edge, port: 81}]"), "Accepted=False NoMatchingParent");
    let both = format!("{good}{}", route("GRPCRoute", "s", &format!("{parent}, hostnames: [a.example.com]")));
    assert_eq!(of_route(&both, Kind::GrpcRoute, "s")[0], "Accepted=False Conflicted");
    let counted = status(&both, Deployed::Applied);
    assert_eq!(counted.listeners[0].attached_routes, 1);
}

#[test]
fn a_route_says_which_service_is_not_reached_past_its_waypoint() {
    let service = |labels: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: shop, labels: {{istio.io/use-waypoint: way{labels}}}}}\nspec: {{ports: [{{port: 80}}]}}\n"
        )
    };
    let waypoint = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: way, namespace: shop}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";
    let to_a = route("HTTPRoute", "r", "parentRefs: [{name: edge}], rules: [{backendRefs: [{name: a, port: 80}]}]");
    let resolved = |labels: &str| {
        let text = format!("{}{waypoint}{}{to_a}", gateway(HTTP), service(labels));
        of_route(&text, Kind::HttpRoute, "r").remove(1)
    };
    assert_eq!(resolved(""), "ResolvedRefs=True ResolvedRefs");
    assert_eq!(resolved(", istio.io/ingress-use-waypoint: 'true'"), "ResolvedRefs=False RefNotPermitted");
}

#[test]
fn policies_for_a_gateway_and_for_a_route_on_it_hold() {
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}\n";
    let limit = "---\napiVersion: ambit.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {name: p, namespace: shop}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}], rateLimit: {local: {requests: 5, per: minute}}}\n";
    let text = format!("{}{policy}{limit}{}", gateway(HTTP), route("HTTPRoute", "r", "parentRefs: [{name: edge}]"));
    assert_eq!(of_route(&text, Kind::AuthorizationPolicy, "p"), ["WaypointAccepted=True Accepted"]);
    assert_eq!(of_route(&text, Kind::RequestPolicy, "p"), ["Accepted=True Accepted"]);
}

/// A Secret of type `kubernetes.io/tls`.
fn secret(namespace: &str, name: &str, certificate: &str, key: &str) -> String {
    let data = json!({"tls.crt": certificate, "tls.key": key});
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\nstringData: {data}\n"
    )
}

/// A certificate for a host, and its key.
fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_listener_that_speaks_tls_says_what_is_wrong_with_its_certificates() {
    let ((certificate, key), (_, of_another)) = (pair(), pair());
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: keys}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: '', kind: Secret, name: granted}]}\n";
    let secrets = [
        secret("shop", "good", &certificate, &key),
        secret("shop", "mixed", &certificate, &of_another),
        secret("shop", "empty", "", &key),
        secret("keys", "granted", &certificate, &key),
        secret("keys", "other", &certificate, &key),
        secret("shop", "opaque", &certificate, &key).replace("kubernetes.io/tls", "Opaque"),
    ];
    let given = "loadBalancer: {ingress: [{ip: 192.0.2.1}]}";
    let rest = format!("{}{POD}{grant}{}", service(", type: LoadBalancer", given), secrets.concat());
    let of_listener = |tls: &str| {
        let https = format!("{HTTP}, {{name: tls, port: 443, protocol: HTTPS, tls: {tls}}}");
        let status = status(&format!("{}{rest}", gateway(&https)), Deployed::Applied);
        assert_eq!(said(&status.conditions)[1], "Programmed=True Programmed", "the other one serves");
        assert_eq!(said(&status.listeners[0].conditions)[1], "Programmed=True Programmed", "the other one serves");
        let conditions = &status.listeners[1].conditions;
        (said(conditions)[..3].join(", "), conditions[2].message.clone())
    };
    let resolved = "Accepted=True Accepted, Programmed=True Programmed, ResolvedRefs=True ResolvedRefs";
    for certificates in
        ["[{name: good}]", "[{name: good}, {name: granted, namespace: keys}]", "[{group: '', kind: Secret, name: good}]"]
    {
        assert_eq!(of_listener(&format!("{{certificateRefs: {certificates}}}")).0, resolved, "{certificates}");
    }
    let invalid = "Accepted=True Accepted, Programmed=False Invalid, ResolvedRefs=False InvalidCertificateRef";
    for (certificates, message) in [
        ("[]", "names no certificate"),
        ("[{name: missing}]", "Secret shop/missing does not exist, or is not of type kubernetes.io/tls"),
        ("[{name: opaque}]", "Secret shop/opaque does not exist"),
        ("[{kind: ConfigMap, name: good}]", "ConfigMap of group \"\" holds no certificate"),
        ("[{group: certs.example, name: good}]", "Secret of group \"certs.example\" holds no certificate"),
        ("[{name: mixed}]", "Secret shop/mixed cannot be used: private key: it is not that of the certificate"),
        ("[{name: empty}]", "Secret shop/empty cannot be used: certificate: there is none in PEM"),
    ] {
        let (conditions, said) = of_listener(&format!("{{certificateRefs: {certificates}}}"));
        assert!(conditions == invalid && said.contains(message), "{certificates}: {conditions}: {said}");
    }
    let (conditions, said) = of_listener("{certificateRefs: [{name: other, namespace: keys}]}");
    assert_eq!(conditions, "Accepted=True Accepted, Programmed=False Invalid, ResolvedRefs=False RefNotPermitted");
    assert!(said.contains("a ReferenceGrant in namespace keys has to permit Gateways of namespace shop"), "{said}");
    // One of several is enough to serve, and the other is told.
    let (conditions, _) = of_listener("{certificateRefs: [{name: good}, {name: missing}]}");
    assert_eq!(conditions, "Accepted=True Accepted, Programmed=True Programmed, ResolvedRefs=False InvalidCertificateRef");
    let (conditions, _) = of_listener("{certificateRefs: [{name: good}], mode: Passthrough}");
    assert!(conditions.starts_with("Accepted=False UnsupportedValue, Programmed=False Invalid"), "{conditions}");
}

#[test]
fn listeners_of_a_port_that_end_tls_for_the_same_hosts_say_so() {
    let (certificate, key) = pair();
    let listener = |name: &str, port: u16, hostname: &str, protocol: &str| {
        format!("{{name: {name}, port: {port}, protocol: {protocol}{hostname}, tls: {{certificateRefs: [{{name: good}}]}}}}")
    };
    let listeners = [
        listener("wide", 443, ", hostname: '*.example.com'", "HTTPS"),
        listener("one", 443, ", hostname: a.example.com", "HTTPS"),
        listener("other", 443, ", hostname: a.example.org", "HTTPS"),
        listener("elsewhere", 8443, ", hostname: a.example.com", "HTTPS"),
    ];
    let status =
        status(&format!("{}{}", gateway(&listeners.join(", ")), secret("shop", "good", &certificate, &key)), Deployed::Applied);
    let overlaps = |at: usize| {
        let conditions = &status.listeners[at].conditions;
        conditions.iter().find(|condition| condition.r#type == "OverlappingTLSConfig")
    };
    for (at, other) in [(0, "hosts of one as well"), (1, "hosts of wide as well")] {
        let condition = overlaps(at).unwrap();
        assert_eq!((condition.status, condition.reason), ("True", "OverlappingHostnames"));
        assert!(condition.message.contains(other) && condition.message.contains("421"), "{}", condition.message);
    }
    assert!(overlaps(2).is_none() && overlaps(3).is_none(), "nothing is said where there is nothing");
}

#[test]
fn a_gateway_that_wants_certificates_of_clients_speaks_no_tls() {
    let (certificate, key) = pair();
    let https = "{name: tls, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}";
    let frontend = "tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}}}";
    let wanting = gateway(https).replace("gatewayClassName", &format!("{frontend}, gatewayClassName"));
    let status = status(&format!("{wanting}{}", secret("shop", "good", &certificate, &key)), Deployed::Applied);
    assert_eq!(said(&status.listeners[0].conditions)[0], "Accepted=False UnsupportedValue");
    assert!(status.listeners[0].conditions[0].message.contains("spec.tls.frontend"), "{:?}", status.listeners[0].conditions[0]);
}
