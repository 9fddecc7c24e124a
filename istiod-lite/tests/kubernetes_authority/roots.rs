//! Where the root comes from, and how it changes.

use std::time::{Duration, Instant, SystemTime};

use ambit_tls::authority::{self, Material};
use istiod_lite::roots::{Phase, remote};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::bed::{AUDIENCE, Bed, Replica, eventually};

/// How long certificates live in these tests, and the margin of a rotation, seconds.
const LIFE: u64 = 10;
const MARGIN: u64 = 1;
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A root of a test.
struct Root {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let day = Duration::from_hours(24);
    params.not_before = (SystemTime::now() - day).into();
    params.not_after = (SystemTime::now() + day).into();
    params
}

impl Root {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name).self_signed(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).unwrap();
        Self { pem: certificate.pem(), issuer }
    }

    /// An authority of this name below it.
    fn below(&self, name: &str) -> Material {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name).signed_by(&key, &self.issuer).unwrap().pem();
        Material { certificate, key: key.serialize_pem(), chain: String::new(), roots: self.pem.clone() }
    }
}

async fn plug(bed: &Bed, material: &Material) {
    let Material { certificate, key, chain, roots } = material;
    bed.plug(&[("ca-cert.pem", certificate), ("ca-key.pem", key), ("cert-chain.pem", chain), ("root-cert.pem", roots)]).await;
}

/// As cert-manager would.
async fn plug_managed(bed: &Bed, material: &Material) {
    bed.plug(&[("tls.crt", &material.certificate), ("tls.key", &material.key), ("ca.crt", &material.roots)]).await;
}

fn subjects(pem: &str) -> Vec<String> {
    authority::certificates(pem).unwrap().into_iter().map(|facts| facts.subject).collect()
}

/// Who signs, by a new certificate of `web`, and who is believed with it.
async fn signs(bed: &Bed, replica: &Replica) -> (String, Vec<String>) {
    let token = bed.token("shop/web", Some("web"), AUDIENCE).await;
    let chain = eventually("a certificate", async || bed.ask(replica, &token, WEB, false).await.ok()).await;
    let leaf = authority::certificates(&chain[0]).unwrap().remove(0);
    (leaf.issuer, subjects(&chain[1]))
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_agree_on_one_root_and_every_namespace_gets_it() {
    let bed = Bed::new().await;
    let (a, b, c) = tokio::join!(bed.replica(3600, 300), bed.replica(3600, 300), bed.replica(3600, 300));
    let first = signs(&bed, &a).await;
    assert_eq!(first.1, std::slice::from_ref(&first.0), "a self-signed root signs itself");
    assert_eq!((signs(&bed, &b).await, signs(&bed, &c).await), (first.clone(), first.clone()));
    let roots = bed.roots("shop").await.unwrap();
    for namespace in ["istio-system", "default", "kube-system"] {
        assert_eq!(eventually("roots", async || bed.roots(namespace).await).await, roots);
    }
    // A namespace that comes later, and one where somebody meddles.
    bed.api.kubectl(&["create", "namespace", "later"]).await.unwrap();
    eventually("roots in a new namespace", async || bed.roots("later").await.filter(|found| *found == roots)).await;
    bed.api.kubectl(&["delete", "configmap", "istio-ca-root-cert", "-n", "later"]).await.unwrap();
    let patch = r#"{"data":{"root-cert.pem":"mine"}}"#;
    bed.api.kubectl(&["patch", "configmap", "istio-ca-root-cert", "-n", "shop", "--type=merge", "-p", patch]).await.unwrap();
    for namespace in ["later", "shop"] {
        eventually("roots again", async || bed.roots(namespace).await.filter(|found| *found == roots)).await;
    }
    // After all of them are gone, the next one has the same.
    for replica in [a, b, c] {
        replica.stop().await;
    }
    let again = bed.replica(3600, 300).await;
    assert_eq!(signs(&bed, &again).await, first);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_in_ca_is_taken_over_while_running_at_once_under_a_known_root_and_in_steps_under_another() {
    let bed = Bed::new().await;
    let (one, two) = (Root::new("root one"), Root::new("root two"));
    plug(&bed, &one.below("first")).await;
    let replica = bed.replica(LIFE, MARGIN).await;
    assert_eq!(signs(&bed, &replica).await, ("CN=first".to_owned(), vec!["CN=root one".to_owned()]));

    plug_managed(&bed, &one.below("second")).await;
    eventually("the renewed authority", async || (signs(&bed, &replica).await.0 == "CN=second").then_some(())).await;
    assert_eq!(replica.report().await.phase, Phase::Stable);

    let broken = Material { key: one.below("x").key, ..one.below("third") };
    plug(&bed, &broken).await;
    let problem = eventually("a problem", async || replica.report().await.problems.into_iter().next()).await;
    assert!(
        problem.starts_with("Secret istio-system/cacerts, key ca-key.pem: it is not the key of the certificate of CN=third"),
        "{problem}"
    );
    assert_eq!(signs(&bed, &replica).await.0, "CN=second");

    plug(&bed, &two.below("fourth")).await;
    let both = ["CN=root one".to_owned(), "CN=root two".to_owned()];
    let (mut seen, began) = (Vec::new(), Instant::now());
    eventually("a new root", async || {
        let (issuer, mut roots) = signs(&bed, &replica).await;
        roots.sort();
        if seen.last() != Some(&(issuer.clone(), roots.clone())) {
            seen.push((issuer.clone(), roots.clone()));
        }
        (issuer == "CN=fourth" && roots.len() == 1).then_some(())
    })
    .await;
    // On a slow machine a step may be over before anybody looks, but none comes too early (times are whole seconds) or in another order.
    assert!(began.elapsed() >= Duration::from_secs(2 * (LIFE + MARGIN) - 3), "{seen:?} within {:?}", began.elapsed());
    let steps = [("CN=second", &both[..1]), ("CN=second", &both[..]), ("CN=fourth", &both[..]), ("CN=fourth", &both[1..])];
    let mut steps = steps.into_iter();
    for (issuer, roots) in &seen {
        assert!(steps.any(|step| step == (issuer.as_str(), roots.as_slice())), "{seen:?}");
    }
    assert_eq!(replica.report().await.problems, Vec::<String>::new());
    eventually("one root everywhere", async || bed.roots("shop").await.filter(|roots| subjects(roots) == ["CN=root two"])).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_asked_for_goes_on_where_it_was_when_the_leader_is_another() {
    let bed = Bed::new().await;
    let replica = bed.replica(LIFE, MARGIN).await;
    let (old, _) = signs(&bed, &replica).await;
    remote::rotate(bed.client.clone(), "istio-system", false).await.unwrap();
    let status = async || remote::status(bed.client.clone(), "istio-system").await.unwrap();
    let during = eventually("a next issuer", async || Some(status().await).filter(|report| report.next.is_some())).await;
    assert_eq!((during.phase, during.roots.len(), &during.issuer.subject), (Phase::Distributing, 2, &old));
    let coming = during.next.unwrap().subject;
    replica.stop().await;
    let other = bed.replica(LIFE, MARGIN).await;
    eventually("the new issuer", async || (signs(&bed, &other).await.0 == coming).then_some(())).await;
    let last = eventually("the end", async || Some(status().await).filter(|report| report.phase == Phase::Stable)).await;
    assert_eq!((last.issuer.subject.clone(), last.roots.len()), (coming.clone(), 1));
    assert_eq!(signs(&bed, &other).await, (coming.clone(), vec![coming.clone()]));

    // Nothing is waited for when nobody wants to wait.
    remote::rotate(bed.client.clone(), "istio-system", true).await.unwrap();
    let at_once =
        eventually("another issuer", async || Some(status().await).filter(|report| report.issuer.subject != coming)).await;
    assert_eq!((at_once.phase, at_once.roots.len(), at_once.problems.len()), (Phase::Stable, 1, 0));
    let annotations = bed.secret("ambit-ca").await.unwrap().metadata.annotations.unwrap_or_default();
    assert!(!annotations.contains_key(istiod_lite::roots::ROTATE), "{annotations:?}");
    other.stop().await;
}
