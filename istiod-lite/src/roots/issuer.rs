//! An issuer as Secrets hold one, read and checked.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use ambit_identity::TrustDomain;
use ambit_tls::authority::{self, Authority, Material, Part, Unusable};
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::RootsError;

/// Content of a Secret.
pub type Data = BTreeMap<String, ByteString>;

/// Who made an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The control plane itself.
    SelfSigned,
    /// Whoever wrote the Secret `cacerts`.
    Cacerts,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SelfSigned => "made by the control plane",
            Self::Cacerts => "from Secret cacerts",
        })
    }
}

/// A root certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootCertificate {
    /// SHA-256 of the certificate, hexadecimal.
    pub sha256: String,
    /// The certificate.
    pub pem: String,
}

/// An authority's material that has been checked, with what the rotation has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The texts.
    pub material: Material,
    /// Who made it.
    pub origin: Origin,
    /// Two issuers are the same when this is: a digest over certificate, chain and roots, however they are written down.
    pub id: String,
    /// The root that its certificates are believed under (SHA-256).
    pub anchor: String,
    /// The roots that come with it, the anchor among them.
    pub roots: Vec<RootCertificate>,
    /// Start of validity of it, or of the last above it, seconds since 1970.
    pub not_before: u64,
    /// End of validity of it, or of the first above it, seconds since 1970.
    pub not_after: u64,
}

impl Issuer {
    /// Checks `material` at `now`.
    ///
    /// # Errors
    /// With the text that is wrong, and what to do about it.
    pub fn check(material: Material, origin: Origin, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Unusable> {
        let authority = material.authority(trust_domain, now)?;
        let read = |part: Part, pem: &str| {
            let fix = "write it anew as PEM";
            authority::certificates(pem).map_err(|error| Unusable { part, why: error.to_string(), fix })
        };
        let own = read(Part::Certificate, &material.certificate)?;
        let anchor = read(Part::Roots, authority.root_pem())?;
        let roots = authority::blocks(authority.bundle_pem());
        let digests = read(Part::Roots, authority.bundle_pem())?;
        let roots: Vec<_> =
            digests.into_iter().zip(roots).map(|(facts, pem)| RootCertificate { sha256: facts.sha256, pem }).collect();
        let mut all: Vec<&str> = roots.iter().map(|root| root.sha256.as_str()).collect();
        all.sort_unstable();
        all.dedup();
        let chain = read(Part::Chain, &material.chain)?;
        let mut id = Sha256::new();
        for digest in own.iter().chain(&chain).map(|facts| facts.sha256.as_str()).chain(["roots"]).chain(all) {
            id.update(digest);
        }
        Ok(Self {
            id: id.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            anchor: anchor.first().map(|facts| facts.sha256.clone()).unwrap_or_default(),
            not_before: unix(authority.not_before()),
            not_after: unix(authority.not_after()),
            material,
            origin,
            roots,
        })
    }

    /// Whether its time is over at `now`, seconds since 1970: it signs nothing any more.
    #[must_use]
    pub fn has_ended(&self, now: u64) -> bool {
        self.not_after <= now
    }

    /// A new self-signed root.
    ///
    /// # Errors
    /// When no key can be generated.
    pub fn self_signed(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, RootsError> {
        let material = Material::self_signed(trust_domain)?;
        Self::check(material, Origin::SelfSigned, trust_domain, now).map_err(|wrong| RootsError::New(wrong.to_string()))
    }

    /// What signs with it: certificates live for `life` at most, and `bundle` is what the mesh believes.
    ///
    /// # Errors
    /// When its time is over by now, or the bundle cannot be read.
    pub fn authority(
        &self,
        trust_domain: &TrustDomain,
        life: Duration,
        bundle: &str,
        now: SystemTime,
    ) -> Result<Authority, String> {
        let authority = self.material.authority(trust_domain, now).map_err(|wrong| wrong.to_string())?;
        Ok(authority.with_bundle(bundle).map_err(|error| error.to_string())?.with_max_lifetime(life))
    }
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The names that the parts of an issuer have in a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    certificate: &'static str,
    key: &'static str,
    chain: &'static str,
    roots: &'static str,
}

/// A plug-in CA (wire contract, section 3), and the issuer in force in our own Secret.
pub const PLUGGED: Keys = Keys { certificate: "ca-cert.pem", key: "ca-key.pem", chain: "cert-chain.pem", roots: "root-cert.pem" };
/// What cert-manager writes, and anything else of type `kubernetes.io/tls`: leaf first, with the chain in one text.
pub const CERT_MANAGER: Keys = Keys { certificate: "tls.crt", key: "tls.key", chain: "tls.crt", roots: "ca.crt" };
/// The issuer that waits in our own Secret.
pub const NEXT: Keys =
    Keys { certificate: "next-ca-cert.pem", key: "next-ca-key.pem", chain: "next-cert-chain.pem", roots: "next-root-cert.pem" };

impl Keys {
    /// How the issuer in the Secret `cacerts` is written down; `None` when there is none in it.
    #[must_use]
    pub fn of_plugged(data: &Data) -> Option<Self> {
        [PLUGGED, CERT_MANAGER].into_iter().find(|keys| data.contains_key(keys.certificate) || data.contains_key(keys.key))
    }

    /// The material under these names in `secret`.
    ///
    /// # Errors
    /// When one of them is missing or no text.
    pub fn read(&self, secret: &str, data: &Data) -> Result<Material, RootsError> {
        let text = |key: &'static str, fix: &'static str| {
            let wrong = |why: &str| RootsError::Secret { secret: secret.to_owned(), key, what: format!("{why}: {fix}") };
            let bytes = data.get(key).ok_or_else(|| wrong("it is missing"))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| wrong("it is not text"))
        };
        let certificate = text(self.certificate, "put the PEM certificate of the authority there")?;
        let key = text(self.key, "put the PEM private key of the authority there")?;
        // With a root as the authority there is nothing between, and cert-manager has it all in one text.
        let chain = if self.chain == self.certificate || !data.contains_key(self.chain) {
            String::new()
        } else {
            text(self.chain, "put the PEM certificates between the authority and its root there")?
        };
        let roots = text(self.roots, "put the PEM root certificate above the authority there")?;
        Ok(Material { certificate, key, chain, roots })
    }

    /// Reads and checks an issuer.
    ///
    /// # Errors
    /// With the key of the Secret that is wrong, and what to do about it.
    pub fn issuer(
        &self,
        secret: &str,
        data: &Data,
        origin: Origin,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Issuer, RootsError> {
        let material = self.read(secret, data)?;
        Issuer::check(material, origin, trust_domain, now).map_err(|wrong| RootsError::Secret {
            secret: secret.to_owned(),
            key: self.name(wrong.part),
            what: wrong.to_string(),
        })
    }

    /// Writes material under these names.
    pub fn write(&self, material: &Material, data: &mut Data) {
        for (name, text) in [
            (self.certificate, &material.certificate),
            (self.key, &material.key),
            (self.chain, &material.chain),
            (self.roots, &material.roots),
        ] {
            data.insert(name.to_owned(), ByteString(text.clone().into_bytes()));
        }
    }

    fn name(&self, part: Part) -> &'static str {
        match part {
            Part::Certificate => self.certificate,
            Part::Key => self.key,
            Part::Chain => self.chain,
            Part::Roots => self.roots,
        }
    }
}
