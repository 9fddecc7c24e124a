//! What an authority is made of when somebody else keeps it, and whether it will do.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use ambit_identity::{Namespace, ServiceAccount, SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, BACKDATE, DEFAULT_LIFETIME, self_signed};
use crate::{CertificateRequest, TlsError, svid::time_of};

/// Authorities between a workload and its root, at most.
const DEPTH: usize = 6;
/// So far the clock of whoever made a certificate may be ahead of ours: by how much clocks of the mesh may differ.
const AHEAD: Duration = Duration::from_secs(BACKDATE.as_secs() / 2);
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The four texts of an authority, PEM. [`Material::authority`] says whether they belong together.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Material {
    /// The certificate that signs; more certificates after it count as [`Material::chain`].
    pub certificate: String,
    /// Its private key: PKCS #8, SEC 1 or PKCS #1.
    pub key: String,
    /// Certificates between it and the root, in any order; it and the roots may be among them. May be empty.
    pub chain: String,
    /// The roots to be believed: the one above the certificate, which may be the certificate itself, and perhaps others.
    pub roots: String,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("certificate", &self.certificate).field("roots", &self.roots).finish_non_exhaustive()
    }
}

/// One of the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// [`Material::certificate`].
    Certificate,
    /// [`Material::key`].
    Key,
    /// [`Material::chain`].
    Chain,
    /// [`Material::roots`].
    Roots,
}

/// Why material makes no authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {fix}")]
pub struct Unusable {
    /// Which text is wrong.
    pub part: Part,
    /// What is wrong with it.
    pub why: String,
    /// What to do about it.
    pub fix: &'static str,
}

impl Part {
    fn wrong(self, why: impl fmt::Display, fix: &'static str) -> Unusable {
        Unusable { part: self, why: why.to_string(), fix }
    }
}

impl Material {
    /// A new key with a self-signed root, ten years long.
    ///
    /// # Errors
    /// When a key cannot be generated.
    pub fn self_signed(trust_domain: &TrustDomain) -> Result<Self, TlsError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let root = self_signed(&key, trust_domain)?;
        Ok(Self { certificate: root.clone(), key: key.serialize_pem(), chain: String::new(), roots: root })
    }

    /// The authority of this material, with [`Material::roots`] as its bundle. Checked: the texts can be read, the key is that of the
    /// certificate, which may sign others and is valid at `now`, or will be in five minutes at most ([`Authority::not_before`]), and a
    /// certificate that it signs for `trust_domain` is believed under one of the roots.
    ///
    /// # Errors
    /// With the text that is wrong, and what to do about it.
    pub fn authority(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Authority, Unusable> {
        let mut given = blocks(&self.certificate);
        if given.is_empty() {
            return Err(Part::Certificate.wrong("it holds no PEM certificate", "put the certificate of the authority there"));
        }
        let own = Link::read(given.remove(0), Part::Certificate)?;
        own.may_sign(Part::Certificate, now)?;
        let roots = links(blocks(&self.roots), Part::Roots)?;
        if roots.is_empty() {
            return Err(Part::Roots.wrong("it holds no PEM certificate", "put the root above the authority there"));
        }
        given.extend(blocks(&self.chain));
        let path = path(&own, &roots, links(given, Part::Chain)?);
        for link in &path {
            link.may_sign(if *link == own { Part::Certificate } else { Part::Chain }, now)?;
        }
        let key = self.key_of(&own)?;
        let issuer = Issuer::from_ca_cert_der(&own.der, key)
            .map_err(|error| Part::Certificate.wrong(error, "use a certificate without unusual fields"))?;
        let not_before = path.iter().map(|link| link.not_before).fold(own.not_before, SystemTime::max);
        let not_after = path.iter().map(|link| link.not_after).fold(own.not_after, SystemTime::min);
        let intermediates = path.into_iter().map(|link| link.pem).collect();
        let bundle = roots.iter().map(|root| root.pem.as_str()).collect();
        let (max_lifetime, backdate) = (DEFAULT_LIFETIME, BACKDATE);
        let root_pem = String::new();
        let mut made = Authority { issuer, intermediates, not_before, not_after, root_pem, bundle, max_lifetime, backdate };
        let anchor = anchor(&made, &own, roots, trust_domain)?;
        anchor.may_sign(Part::Roots, now)?;
        made.not_before = made.not_before.max(anchor.not_before);
        made.not_after = made.not_after.min(anchor.not_after);
        made.root_pem = anchor.pem;
        Ok(made)
    }

    fn key_of(&self, own: &Link) -> Result<KeyPair, Unusable> {
        let unreadable = |why: String| {
            Part::Key.wrong(why, "put an unencrypted PEM key there: PKCS #8, or an EC or RSA key as OpenSSL writes it")
        };
        let der = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| unreadable(format!("it holds no PEM private key ({error})")))?;
        let key = KeyPair::try_from(&der).map_err(|error| unreadable(format!("the key cannot be used ({error})")))?;
        if key.public_key_raw() != own.public_key.as_slice() {
            let why = format!("it is not the key of the certificate of {}", own.subject);
            return Err(Part::Key.wrong(
                why,
                "put there the key that the certificate was made for, or the certificate that was made for this key",
            ));
        }
        Ok(key)
    }
}

/// A certificate above a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    pem: String,
    der: CertificateDer<'static>,
    subject: String,
    issuer: String,
    /// Names as they are encoded, which is how chains are followed.
    names: (Vec<u8>, Vec<u8>),
    public_key: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
    signs: bool,
}

impl Link {
    fn read(pem: String, part: Part) -> Result<Self, Unusable> {
        let unreadable = |why: String| part.wrong(format!("a certificate cannot be read ({why})"), "write it anew as PEM");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
        let (_, read) = X509Certificate::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
        let is_ca = read.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
        let may_sign = read.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
        Ok(Self {
            subject: read.subject().to_string(),
            issuer: read.issuer().to_string(),
            names: (read.subject().as_raw().to_vec(), read.issuer().as_raw().to_vec()),
            public_key: read.public_key().subject_public_key.data.to_vec(),
            not_before: time_of(read.validity().not_before.timestamp()),
            not_after: time_of(read.validity().not_after.timestamp()),
            signs: is_ca && may_sign,
            pem,
            der: der.clone(),
        })
    }

    fn may_sign(&self, part: Part, now: SystemTime) -> Result<(), Unusable> {
        let wrong = |what: &str, fix| Err(part.wrong(format!("the certificate of {} {what}", self.subject), fix));
        if !self.signs {
            return wrong("may not sign certificates", "use one with the basic constraint CA and the key usage keyCertSign");
        }
        if now + AHEAD < self.not_before {
            return wrong("is not valid yet", "wait, or look at the clock of the machine that made it");
        }
        if self.not_after <= now {
            return wrong("has expired", "renew it");
        }
        Ok(())
    }
}

/// The certificates of a PEM text, each for itself, without what stands between them. They are not read.
#[must_use]
pub fn blocks(pem: &str) -> Vec<String> {
    let whole = |block: &str| block.split_once(END).map(|(body, _)| format!("{BEGIN}{body}{END}\n"));
    pem.split(BEGIN).skip(1).filter_map(whole).collect()
}

fn links(blocks: Vec<String>, part: Part) -> Result<Vec<Link>, Unusable> {
    blocks.into_iter().map(|block| Link::read(block, part)).collect()
}

/// What a leaf is sent with: from `own` upwards until a root is next, by name. Of two with one name both are, so that it does not matter
/// which of them the peer believes.
fn path(own: &Link, roots: &[Link], mut others: Vec<Link>) -> Vec<Link> {
    if roots.iter().any(|root| root.der == own.der) {
        return Vec::new();
    }
    others.retain(|other| other.der != own.der && roots.iter().all(|root| root.der != other.der));
    let mut path = vec![own.clone()];
    let mut wanted = own.names.1.clone();
    for _ in 0..DEPTH {
        if roots.iter().any(|root| root.names.0 == wanted) {
            break;
        }
        let (above, rest): (Vec<Link>, Vec<Link>) = others.into_iter().partition(|other| other.names.0 == wanted);
        let Some(next) = above.first() else { break };
        wanted.clone_from(&next.names.1);
        path.extend(above);
        others = rest;
    }
    path
}

/// The root under which a certificate by this authority is believed, as peers would find.
fn anchor(authority: &Authority, own: &Link, roots: Vec<Link>, trust_domain: &TrustDomain) -> Result<Link, Unusable> {
    let defect =
        |error: &dyn fmt::Display| Part::Certificate.wrong(format!("nothing can be signed with it ({error})"), "use another one");
    let names = Namespace::new("ambit").ok().zip(ServiceAccount::new("trial").ok());
    let (namespace, account) = names.ok_or_else(|| defect(&"no trial identity"))?;
    let id = SpiffeId::new(trust_domain.clone(), namespace, account);
    let request = CertificateRequest::new(&id).map_err(|error| defect(&error))?;
    let mut chain = authority.sign(request.pem(), &id, Some(Duration::from_hours(1))).map_err(|error| defect(&error))?;
    chain.pop();
    let mut last = String::new();
    for root in roots {
        chain.push(root.pem.clone());
        // What is about to begin is judged as it will be.
        let now = SystemTime::now().max(authority.not_before);
        match request.joined(&chain, now) {
            Ok(_) => return Ok(root),
            Err(error) => last = error.to_string(),
        }
        chain.pop();
    }
    let why = format!("no path of certificates leads from {} (signed by {}) to a root ({last})", own.subject, own.issuer);
    let fix = "put all certificates between it and the root there, and the root itself to the roots";
    Err(Part::Chain.wrong(why, fix))
}
