use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ambit_api::ca::{IstioCertificateRequest, istio_certificate_service_server::IstioCertificateService as _};
use ambit_identity::{SpiffeId, TrustDomain};
use ambit_tls::{
    CertificateRequest,
    authority::Authority,
    token::{AUDIENCE, Bound, Claims, ObjectReference, Signer},
};
use prost_types::{Struct, Value, value::Kind};
use tonic::{Code, Request};

use super::{Caller, CertificateService, Issuing, Limits, Rate, Refusals, Rules, Serving, Tokens};
use crate::{
    config::Account,
    index::MeshConfig,
    mesh::Mesh,
    source::{Event, Object, Pod},
};

fn pod(name: &str, account: &str, node: &str, phase: &str) -> Event {
    let (namespace, name) = name.split_once('/').unwrap();
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}")},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": []},
        "status": {"phase": phase},
    }))
    .unwrap();
    Event::Upsert(Object::Pod(Arc::new(pod)))
}

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// Two nodes, a node proxy on each, and workloads: `web` on n1, `api` on n2, and one on n1 that has run to its end.
fn mesh() -> Mesh {
    let mesh = Mesh::new(MeshConfig::new(domain(), "Kubernetes"));
    let pods = [
        pod("istio-system/ztunnel-1", "ztunnel", "n1", "Running"),
        pod("istio-system/ztunnel-2", "ztunnel", "n2", "Running"),
        pod("istio-system/ztunnel-0", "ztunnel", "n1", "Failed"),
        pod("istio-system/ztunnel-new", "ztunnel", "", "Pending"),
        pod("shop/web", "web", "n1", "Running"),
        pod("shop/api", "api", "n2", "Pending"),
        pod("shop/fake", "ztunnel", "n1", "Running"),
        pod("shop/job", "job", "n1", "Succeeded"),
    ];
    for event in pods {
        mesh.index_mut().apply(event);
    }
    mesh
}

fn rules() -> Rules {
    Rules { trust_domain: domain(), node_accounts: BTreeSet::from(["istio-system/ztunnel".parse().unwrap()]) }
}

/// A caller as its token describes it: "namespace/account pod uid node".
fn caller(text: &str) -> Caller {
    let words: Vec<&str> = text.split(' ').collect();
    let [account, pod, uid, node] = words[..] else { panic!("{text}") };
    let account: Account = account.parse().unwrap();
    let pod = (pod != "-").then(|| ObjectReference::new(pod, if uid == "-" { "" } else { uid }));
    Caller { account, pod, node: (node != "-").then(|| node.to_owned()) }
}

/// What the rules say to a caller that asks for its own identity ("") or for another.
fn check(caller_text: &str, asked: &str) -> String {
    let asked: Option<SpiffeId> = (!asked.is_empty()).then(|| asked.parse().unwrap());
    match rules().decide(&mesh().index(), &caller(caller_text), asked.as_ref()) {
        Ok(id) => id.principal(),
        Err(denied) => denied.to_string(),
    }
}

const NODE_1: &str = "istio-system/ztunnel ztunnel-1 uid-ztunnel-1 n1";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const API: &str = "spiffe://cluster.local/ns/shop/sa/api";

#[test]
fn a_workload_gets_its_own_identity() {
    assert_eq!(check("shop/web web uid-web n1", ""), "cluster.local/ns/shop/sa/web");
    assert_eq!(check("shop/web web uid-web -", WEB), "cluster.local/ns/shop/sa/web");
}

#[test]
fn a_node_proxy_gets_the_identities_that_run_on_its_node() {
    assert_eq!(check(NODE_1, WEB), "cluster.local/ns/shop/sa/web");
    assert_eq!(check("istio-system/ztunnel ztunnel-2 uid-ztunnel-2 -", API), "cluster.local/ns/shop/sa/api");
}

#[test]
fn a_node_proxy_does_not_get_the_identities_of_other_nodes() {
    assert_eq!(check(NODE_1, API), format!("no running pod on node \"n1\" has the identity {API}"));
}

#[test]
fn a_pod_that_has_ended_gives_no_identity() {
    let job = "spiffe://cluster.local/ns/shop/sa/job";
    assert_eq!(check(NODE_1, job), format!("no running pod on node \"n1\" has the identity {job}"));
}

#[test]
fn a_workload_may_not_ask_for_another_identity() {
    assert_eq!(check("shop/web web uid-web n1", API), format!("shop/web is not a node account, so it may not ask for {API}"));
}

#[test]
fn an_account_of_the_same_name_in_another_namespace_is_not_a_node_account() {
    let refused = check("shop/ztunnel fake uid-fake n1", WEB);
    assert_eq!(refused, format!("shop/ztunnel is not a node account, so it may not ask for {WEB}"));
}

#[test]
fn an_identity_of_another_trust_domain_is_refused() {
    let asked = "spiffe://other.example/ns/shop/sa/web";
    assert_eq!(check(NODE_1, asked), format!("{asked} is not in the trust domain cluster.local"));
}

#[test]
fn what_the_token_says_of_its_pod_must_be_true() {
    let node = "istio-system/ztunnel";
    for (caller, expected) in [
        ("- -", "the token of istio-system/ztunnel is not bound to a pod"),
        ("ztunnel-9 uid-ztunnel-9", "the token's pod istio-system/ztunnel-9 does not exist"),
        (
            "ztunnel-1 uid-old",
            "the token is for pod istio-system/ztunnel-1 with uid \"uid-old\", the pod of that name has uid \"uid-ztunnel-1\"",
        ),
        (
            "ztunnel-1 -",
            "the token is for pod istio-system/ztunnel-1 with uid \"\", the pod of that name has uid \"uid-ztunnel-1\"",
        ),
        ("ztunnel-0 uid-ztunnel-0", "the token's pod istio-system/ztunnel-0 has ended"),
        ("ztunnel-new uid-ztunnel-new", "the caller's pod istio-system/ztunnel-new has no node"),
    ] {
        assert_eq!(check(&format!("{node} {caller} -"), WEB), expected);
    }
    assert_eq!(
        check(&format!("{node} ztunnel-1 uid-ztunnel-1 n2"), WEB),
        "the token is for node \"n2\", its pod istio-system/ztunnel-1 runs on \"n1\""
    );
    assert_eq!(
        check("shop/ztunnel web uid-web n1", ""),
        "the token is for service account shop/ztunnel, its pod shop/web runs under \"web\""
    );
}

/// The service with the keys that a test needs to speak to it.
struct Service {
    service: CertificateService,
    signer: Signer,
    mesh: Arc<Mesh>,
    refusals: Refusals,
    issuing: Issuing,
}

impl Service {
    fn new() -> Self {
        let signer = Signer::create().unwrap();
        let issuing = Issuing::new(Authority::create(&domain()).unwrap());
        let (mesh, refusals) = (Arc::new(mesh()), Refusals::default());
        let tokens = Tokens::new(signer.verifier().unwrap());
        let service = CertificateService::new(issuing.clone(), tokens, rules(), Arc::clone(&mesh), refusals.clone());
        Self { service, signer, mesh, refusals, issuing }
    }

    fn token(&self, audience: &str, caller: &Caller, lifetime: Duration) -> String {
        let bound = Bound {
            namespace: caller.account.namespace.clone(),
            pod: caller.pod.clone(),
            serviceaccount: ObjectReference::new(caller.account.name.as_str(), "uid"),
            node: caller.node.as_ref().map(|node| ObjectReference::new(node, "")),
        };
        self.signer.sign(&Claims::new(&[audience], bound, lifetime)).unwrap()
    }

    /// Asks with a token for a certificate in the name of `impersonated`; the request itself names `id`.
    async fn ask(&self, token: &str, id: &str, impersonated: Option<Kind>) -> Result<Vec<String>, Code> {
        let csr = CertificateRequest::new(&id.parse().unwrap()).unwrap();
        let metadata =
            impersonated.map(|kind| Struct { fields: [("ImpersonatedIdentity".to_owned(), Value { kind: Some(kind) })].into() });
        let mut request = Request::new(IstioCertificateRequest { csr: csr.pem().to_owned(), validity_duration: 3600, metadata });
        if !token.is_empty() {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let answer = self.service.create_certificate(request).await.map_err(|status| status.code())?;
        let chain = answer.into_inner().cert_chain;
        csr.complete(&chain).unwrap();
        Ok(chain)
    }
}

fn named(id: &str) -> Option<Kind> {
    Some(Kind::StringValue(id.to_owned()))
}

#[tokio::test]
async fn the_chain_is_the_leaf_and_last_the_root() {
    let service = Service::new();
    let token = service.token(AUDIENCE, &caller(NODE_1), Duration::from_mins(10));
    let chain = service.ask(&token, WEB, named(WEB)).await.unwrap();
    assert_eq!(chain.len(), 2);
    assert!(chain.iter().all(|pem| pem.matches("BEGIN CERTIFICATE").count() == 1));
}

#[tokio::test]
async fn without_a_token_for_this_audience_there_is_no_certificate() {
    let service = Service::new();
    let node = caller(NODE_1);
    let stranger = Signer::create().unwrap();
    let other_key = {
        let bound = Bound {
            namespace: node.account.namespace.clone(),
            pod: node.pod.clone(),
            serviceaccount: ObjectReference::new("ztunnel", "uid"),
            node: None,
        };
        stranger.sign(&Claims::new(&[AUDIENCE], bound, Duration::from_mins(10))).unwrap()
    };
    let expired = {
        let mut claims: Claims = Claims::new(
            &[AUDIENCE],
            Bound {
                namespace: node.account.namespace.clone(),
                pod: node.pod.clone(),
                serviceaccount: ObjectReference::new("ztunnel", "uid"),
                node: None,
            },
            Duration::from_mins(1),
        );
        claims.exp -= 3600;
        service.signer.sign(&claims).unwrap()
    };
    let audience = service.token("https://kubernetes.default.svc", &node, Duration::from_mins(10));
    for token in ["", "nonsense", &other_key, &expired, &audience] {
        assert_eq!(service.ask(token, WEB, named(WEB)).await, Err(Code::Unauthenticated), "{token}");
    }
}

#[tokio::test]
async fn what_is_refused_is_unauthenticated_and_a_wrong_request_is_invalid() {
    let service = Service::new();
    let token = service.token(AUDIENCE, &caller(NODE_1), Duration::from_mins(10));
    assert_eq!(service.ask(&token, API, named(API)).await, Err(Code::Unauthenticated), "on another node");
    assert_eq!(service.ask(&token, WEB, named("spiffe://cluster.local/web")).await, Err(Code::Unauthenticated), "no identity");
    assert_eq!(service.ask(&token, WEB, Some(Kind::BoolValue(true))).await, Err(Code::Unauthenticated), "no text");
    assert_eq!(service.ask(&token, API, named(WEB)).await, Err(Code::InvalidArgument), "the request names somebody else");
}

#[tokio::test]
async fn a_request_that_comes_before_the_news_of_its_pod_waits_for_them() {
    let service = Service::new();
    let token = service.token(AUDIENCE, &caller(NODE_1), Duration::from_mins(10));
    let late = "spiffe://cluster.local/ns/shop/sa/late";
    let news = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        service.mesh.index_mut().apply(pod("shop/late", "late", "n1", "Pending"));
        service.mesh.advance();
    };
    let (answer, ()) = tokio::join!(service.ask(&token, late, named(late)), news);
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn the_serving_certificate_is_replaced_before_it_expires() {
    let issuing = Issuing::new(Authority::create(&domain()).unwrap());
    let names = vec!["localhost".to_owned(), "::1".to_owned()];
    let serving = Arc::new(Serving::with_lifetime(issuing, names, Duration::from_secs(4)).unwrap());
    let first = serving.certificate();
    let rotating = tokio::spawn(Arc::clone(&serving).rotate());
    let expiry = tokio::time::Instant::now() + Duration::from_secs(4);
    while serving.certificate() == first {
        assert!(tokio::time::Instant::now() < expiry, "it has expired");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rotating.abort();
}

#[tokio::test]
async fn the_serving_certificate_is_replaced_when_another_authority_signs() {
    let issuing = Issuing::new(Authority::create(&domain()).unwrap());
    let serving = Arc::new(Serving::new(issuing.clone(), vec!["localhost".to_owned()]).unwrap());
    let first = serving.certificate();
    let rotating = tokio::spawn(Arc::clone(&serving).rotate());
    tokio::time::sleep(Duration::from_millis(50)).await;
    issuing.replace(Authority::create(&domain()).unwrap());
    for _ in 0..500 {
        if serving.certificate() != first {
            rotating.abort();
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it was not replaced");
}

#[tokio::test]
async fn an_authority_that_may_be_over_signs_nothing_until_it_is_known_to_be_the_one() {
    let service = Service::new();
    let token = service.token(AUDIENCE, &caller(NODE_1), Duration::from_mins(10));
    let now = tokio::time::Instant::now();
    service.issuing.good_until(now);
    assert!(service.issuing.authority_at(now).is_none());
    assert_eq!(service.ask(&token, WEB, named(WEB)).await, Err(Code::Unavailable));
    let reason = service.refusals.last().remove(0).reason;
    assert!(reason.contains("the Secret of the authority could not be read"), "{reason}");
    service.issuing.good_until(now + Duration::from_mins(5));
    service.ask(&token, WEB, named(WEB)).await.unwrap();
}

#[tokio::test]
async fn who_asks_too_often_is_told_how_long_to_wait() {
    let once = Rate { burst: 1.0, per_second: 0.01 };
    let mut service = Service::new();
    service.service = service.service.with_limits(Limits { node: once, ..Limits::default() });
    let token = service.token(AUDIENCE, &caller(NODE_1), Duration::from_mins(10));
    service.ask(&token, WEB, named(WEB)).await.unwrap();
    assert_eq!(service.ask(&token, WEB, named(WEB)).await, Err(Code::ResourceExhausted));
    let reason = &service.refusals.last()[0].reason;
    assert!(reason.starts_with("it asks for certificates too often; again in "), "{reason}");
}

#[tokio::test]
async fn a_refusal_says_who_asked_for_what_and_why_not() {
    let service = Service::new();
    let token = service.token(AUDIENCE, &caller(NODE_1), Duration::from_mins(10));
    let foreign = service.token("somebody-else", &caller(NODE_1), Duration::from_mins(10));
    service.ask(&token, API, named(API)).await.unwrap_err();
    service.ask(&foreign, WEB, named(WEB)).await.unwrap_err();
    service.ask("nonsense", WEB, None).await.unwrap_err();
    let last = service.refusals.last();
    let said: Vec<[&str; 3]> = last.iter().map(|said| [&*said.caller, &*said.asked, &*said.reason]).collect();
    let own = "\"system:serviceaccount:istio-system:ztunnel\" by its own account";
    assert_eq!(
        said,
        [
            ["unknown", "its own", "service account token: InvalidToken"],
            [own, WEB, "service account token: it is for another audience"],
            [
                "istio-system/ztunnel in pod ztunnel-1 on node n1",
                API,
                "no running pod on node \"n1\" has the identity spiffe://cluster.local/ns/shop/sa/api"
            ],
        ]
    );
}
