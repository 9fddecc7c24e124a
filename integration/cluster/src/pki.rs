//! Certificates of a cluster, and the kubeconfigs that hold them.
//!
//! One authority for everything: it signs the API server, its clients and the kubelets. Keys lie in files that only the owner can read, since
//! that is how the programs of Kubernetes take them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use crate::error::{Error, Result};

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// The certificate authority of a cluster, with the directory that everything it signs is written to.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority and the key pair of service accounts, with its files in `directory`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).map_err(Error::path("making", directory))?;
        let key = KeyPair::generate().map_err(|error| Error::failed("making the key of the authority", error))?;
        let mut params = named("ambit-cluster", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate =
            params.self_signed(&key).map_err(|error| Error::failed("making the certificate of the authority", error))?;
        let pem = certificate.pem();
        // The controller-manager signs requests for certificates with it.
        write_secret(&directory.join("ca.key"), &key.serialize_pem())?;
        let authority = Self { directory: directory.to_owned(), pem, issuer: Issuer::new(params, key) };
        write_secret(&authority.ca_file(), &authority.pem)?;
        let accounts = KeyPair::generate().map_err(|error| Error::failed("making the key of service accounts", error))?;
        write_secret(&authority.accounts_key(), &accounts.serialize_pem())?;
        write_secret(&authority.accounts_public_key(), &accounts.public_key_pem())?;
        Ok(authority)
    }

    /// The certificate of the authority, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The file of the certificate of the authority.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// The file of the key of the authority.
    #[must_use]
    pub fn ca_key_file(&self) -> PathBuf {
        self.directory.join("ca.key")
    }

    /// The file of the key that signs tokens of service accounts.
    #[must_use]
    pub fn accounts_key(&self) -> PathBuf {
        self.directory.join("accounts.key")
    }

    /// The file of the public part of [`Authority::accounts_key`].
    #[must_use]
    pub fn accounts_public_key(&self) -> PathBuf {
        self.directory.join("accounts.pub")
    }

    /// A certificate for a server that is reached by these names and addresses, as files called `name`.
    ///
    /// # Errors
    /// A name is none, or a file cannot be written.
    pub fn server(&self, name: &str, names: &[String]) -> Result<Signed> {
        let mut params = CertificateParams::new(names).map_err(|error| Error::failed(format!("the names of {name}"), error))?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, params)
    }

    /// A certificate for a user in this group, if any, as files called `name`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn client(&self, name: &str, user: &str, group: Option<&str>) -> Result<Signed> {
        let mut params = named(user, group)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, params)
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Result<Signed> {
        let failed = |error| Error::failed(format!("signing the certificate of {name}"), error);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let file = |ending: &str| self.directory.join(format!("{}.{ending}", name.replace([':', '/'], "-")));
        let signed = Signed { certificate: file("crt"), key: file("key") };
        write_secret(&signed.certificate, &certificate.pem())?;
        write_secret(&signed.key, &key.serialize_pem())?;
        Ok(signed)
    }

    /// A kubeconfig, as a file called `name`.kubeconfig, for a user in this group, if any, who asks the API server at `url`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn kubeconfig(&self, name: &str, url: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let signed = self.client(name, user, group)?;
        let read = |path: &Path| fs::read(path).map(ByteString).map_err(Error::path("reading", path));
        // YAML is a superset of JSON.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "ambit", "cluster": { "server": url, "certificate-authority-data": ByteString(self.pem.clone().into_bytes()) } }],
            "users": [{ "name": user, "user": {
                "client-certificate-data": read(&signed.certificate)?, "client-key-data": read(&signed.key)?,
            } }],
            "contexts": [{ "name": "ambit", "context": { "cluster": "ambit", "user": user } }],
            "current-context": "ambit",
        });
        let path = self.directory.join(format!("{}.kubeconfig", name.replace([':', '/'], "-")));
        write_secret(&path, &format!("{config:#}\n"))?;
        Ok(path)
    }
}

fn named(user: &str, group: Option<&str>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(|error| Error::failed("making a certificate", error))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(params)
}

/// Writes a file that only its owner can read.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    let opened = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::path("writing", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_can_read_a_kubeconfig_and_it_names_the_user() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(directory.path()).unwrap();
        let path = authority.kubeconfig("web", "https://127.0.0.1:1", "system:serviceaccount:shop:web", None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().contains("system:serviceaccount:shop:web"));
    }
}
