//! Authorities that somebody else made: what they sign is believed, and what will not do is refused with the reason.

#![allow(missing_docs)]

use std::time::{Duration, SystemTime};

use ambit_identity::{SpiffeId, TrustDomain};
use ambit_tls::{
    CertificateRequest,
    authority::{self, Material, Part},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

const HOUR: Duration = Duration::from_hours(1);

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

/// A certificate authority of a test.
struct Ca {
    pem: String,
    key: KeyPair,
    issuer: Issuer<'static, KeyPair>,
}

/// The parameters of an authority of this name, valid for an hour.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params
}

impl Ca {
    fn root(params: CertificateParams) -> Self {
        Self::with_key(params, None, KeyPair::generate().unwrap())
    }

    fn below(&self, params: CertificateParams) -> Self {
        Self::with_key(params, Some(self), KeyPair::generate().unwrap())
    }

    fn with_key(params: CertificateParams, above: Option<&Self>, key: KeyPair) -> Self {
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let copy = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        let issuer = Issuer::from_ca_cert_der(certificate.der(), copy).unwrap();
        Self { pem: certificate.pem(), key, issuer }
    }

    fn material(&self, chain: &[&Self], roots: &[&Self]) -> Material {
        let texts = |list: &[&Self]| list.iter().map(|ca| ca.pem.as_str()).collect();
        Material { certificate: self.pem.clone(), key: self.key.serialize_pem(), chain: texts(chain), roots: texts(roots) }
    }
}

/// The chain of a certificate that the material signs, as peers under its roots believe it; the bundle is not counted.
fn signs(material: &Material) -> Vec<String> {
    let authority = material.authority(&domain(), SystemTime::now()).unwrap();
    let request = CertificateRequest::new(&web()).unwrap();
    let mut chain = authority.sign(request.pem(), &web(), None).unwrap();
    let svid = request.complete(&chain).unwrap();
    assert!(svid.not_after() <= authority.not_after());
    chain.pop();
    chain
}

fn subjects(chain: &[String]) -> Vec<String> {
    chain[1..].iter().map(|pem| authority::certificates(pem).unwrap()[0].subject.clone()).collect()
}

fn refusal(material: &Material) -> (Part, String) {
    let unusable = material.authority(&domain(), SystemTime::now()).unwrap_err();
    assert!(!unusable.fix.is_empty());
    (unusable.part, unusable.to_string())
}

#[test]
fn a_root_signs_by_itself_and_an_authority_below_it_with_what_is_between() {
    let root = Ca::root(params("root"));
    assert_eq!(signs(&root.material(&[], &[&root])).len(), 1);
    let (middle, other) = (root.below(params("middle")), Ca::root(params("other")));
    let lower = middle.below(params("lower"));
    // In any order, with itself and the root among them, and with what has no part in it.
    for chain in [vec![&middle], vec![&root, &other, &middle, &lower], vec![&lower, &middle, &root]] {
        let chain = signs(&lower.material(&chain, &[&root]));
        assert_eq!(subjects(&chain), ["CN=lower", "CN=middle"]);
    }
    // cert-manager writes the chain behind the certificate.
    let both = Material { certificate: format!("{}{}", lower.pem, middle.pem), ..lower.material(&[], &[&root]) };
    assert_eq!(subjects(&signs(&both)), ["CN=lower", "CN=middle"]);
    // Who believes the middle one needs not be shown it.
    assert_eq!(subjects(&signs(&lower.material(&[&middle], &[&middle]))), ["CN=lower"]);
}

#[test]
fn the_root_that_counts_is_found_among_several_even_of_one_name() {
    let (old, new) = (Ca::root(params("root")), Ca::root(params("root")));
    let lower = new.below(params("lower"));
    let authority = lower.material(&[], &[&old, &new]).authority(&domain(), SystemTime::now()).unwrap();
    assert_eq!(authority.root_pem().trim(), new.pem.trim());
    assert_eq!(authority::certificates(authority.bundle_pem()).unwrap().len(), 2);
}

#[test]
fn keys_are_read_in_the_forms_that_openssl_writes() {
    let root = Ca::root(params("root"));
    // openssl ecparam -genkey writes the parameters before the key.
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let material = root.material(&[], &[&root]);
    signs(&Material { key: format!("{parameters}{}", material.key), ..material });
}

#[test]
fn no_certificate_outlives_what_is_above_it() {
    let short = |name: &str, life: u64| {
        let mut params = params(name);
        params.not_after = (SystemTime::now() + Duration::from_secs(life)).into();
        params
    };
    let root = Ca::root(params("root"));
    let middle = root.below(short("middle", 600));
    let lower = middle.below(params("lower"));
    for (material, least, most) in
        [(lower.material(&[&middle], &[&root]), 590, 601), (root.below(short("brief", 60)).material(&[], &[&root]), 50, 61)]
    {
        let authority = material.authority(&domain(), SystemTime::now()).unwrap();
        let request = CertificateRequest::new(&web()).unwrap();
        let chain = authority.sign(request.pem(), &web(), None).unwrap();
        let left = request.complete(&chain).unwrap().not_after().duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((least..=most).contains(&left), "{left}");
    }
}

#[test]
fn what_will_not_do_is_refused_with_the_part_and_the_reason() {
    let root = Ca::root(params("root"));
    let good = root.material(&[], &[&root]);
    let check = |material: Material, part: Part, reason: &str| {
        let (found, said) = refusal(&material);
        assert!(found == part && said.contains(reason), "{found:?} {said}");
    };
    let with = |change: &dyn Fn(&mut Material)| {
        let mut material = good.clone();
        change(&mut material);
        material
    };
    check(with(&|m| m.certificate.clear()), Part::Certificate, "it holds no PEM certificate");
    check(with(&|m| m.certificate = m.certificate.replace("MII", "AAA")), Part::Certificate, "cannot be read");
    check(with(&|m| m.key.clear()), Part::Key, "it holds no PEM private key");
    check(with(&|m| m.key = m.key.replace("MIG", "AAA")), Part::Key, "the key cannot be used");
    check(
        with(&|m| m.key = KeyPair::generate().unwrap().serialize_pem()),
        Part::Key,
        "it is not the key of the certificate of CN=root",
    );
    check(with(&|m| m.roots.clear()), Part::Roots, "it holds no PEM certificate");
    check(
        with(&|m| m.chain = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".to_owned()),
        Part::Chain,
        "cannot be read",
    );

    let mut leaf = params("leaf");
    leaf.is_ca = IsCa::ExplicitNoCa;
    check(root.below(leaf).material(&[], &[&root]), Part::Certificate, "may not sign certificates");
    let mut usage = params("usage");
    usage.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    check(root.below(usage).material(&[], &[&root]), Part::Certificate, "may not sign certificates");

    let mut expired = params("expired");
    expired.not_after = (SystemTime::now() - Duration::from_secs(5)).into();
    check(root.below(expired.clone()).material(&[], &[&root]), Part::Certificate, "has expired: renew it");
    let middle = root.below(expired.clone());
    check(middle.below(params("lower")).material(&[&middle], &[&root]), Part::Chain, "CN=expired has expired");
    let mut early = params("early");
    early.not_before = (SystemTime::now() + Duration::from_secs(600)).into();
    check(root.below(early).material(&[], &[&root]), Part::Certificate, "is not valid yet");

    // As far ahead as clocks may be it is read, and says when it begins.
    let mut soon = params("soon");
    let begins = SystemTime::now() + Duration::from_mins(2);
    soon.not_before = begins.into();
    let authority = root.below(soon.clone()).material(&[], &[&root]).authority(&domain(), SystemTime::now()).unwrap();
    assert!(authority.not_before() + Duration::from_secs(1) > begins);
    let young = Ca::root(soon);
    let authority = young.below(params("under it")).material(&[], &[&young]).authority(&domain(), SystemTime::now()).unwrap();
    assert!(authority.not_before() + Duration::from_secs(1) > begins);

    let other = Ca::root(params("other"));
    check(root.below(params("lower")).material(&[], &[&other]), Part::Chain, "leads from CN=lower (signed by CN=root) to a root");
    let middle = root.below(params("middle"));
    check(
        middle.below(params("lower")).material(&[], &[&root]),
        Part::Chain,
        "leads from CN=lower (signed by CN=middle) to a root",
    );
    // Of the same name as the root, but not it.
    let impostor = Ca::root(params("root"));
    check(root.below(params("lower")).material(&[], &[&impostor]), Part::Chain, "leads from CN=lower");
    // One that may sign no authority below it.
    let mut closed = params("closed");
    closed.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let closed = root.below(closed);
    check(closed.below(params("lower")).material(&[&closed], &[&root]), Part::Chain, "leads from CN=lower");
}

#[test]
fn a_self_signed_material_is_usable_and_never_prints_its_key() {
    let material = Material::self_signed(&domain()).unwrap();
    assert_eq!(signs(&material).len(), 1);
    assert!(!format!("{material:?}").contains("PRIVATE"), "{material:?}");
    let facts = authority::certificates(&material.roots).unwrap();
    assert!(facts[0].subject.contains("Ambit root") && facts[0].subject == facts[0].issuer, "{facts:?}");
}
