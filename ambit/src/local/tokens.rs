//! Service-account tokens of the mesh's own pods, as files that are signed again before they expire.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ambit_tls::token::{AUDIENCE, Bound, Claims, ObjectReference, Signer};

use super::overlay::replace;
use crate::error::{Error, Result};

/// How long a token is valid; it is signed again after half of that.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Whom a token speaks for and what it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Namespace of pod and account.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod.
    pub uid: String,
    /// Node of the pod.
    pub node: String,
}

struct Signed {
    bearer: Bearer,
    at: Instant,
}

/// Signs tokens with the key in the control plane's state directory.
pub struct Tokens {
    signer: Signer,
    directory: PathBuf,
    signed: BTreeMap<PathBuf, Signed>,
}

impl Tokens {
    /// Signs with the key in `state` (made if missing) into files in `directory`.
    ///
    /// # Errors
    /// If the key or the directory cannot be made.
    pub fn new(state: &Path, directory: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&directory).map_err(|cause| Error::path("making", &directory, cause))?;
        let signer = Signer::load_or_create(state).map_err(|error| Error::part("making the key of tokens", error))?;
        Ok(Self { signer, directory, signed: BTreeMap::new() })
    }

    /// The file with a fresh token for `bearer`.
    ///
    /// # Errors
    /// If it cannot be signed or written.
    pub fn issue(&mut self, bearer: Bearer) -> Result<PathBuf> {
        let path = self.directory.join(format!("{}.{}.token", bearer.namespace, bearer.pod));
        self.sign(&path, &bearer)?;
        self.signed.insert(path.clone(), Signed { bearer, at: Instant::now() });
        Ok(path)
    }

    /// Signs those again that have lived half their life.
    ///
    /// # Errors
    /// If one cannot be signed or written; it is tried again at the next call.
    pub fn renew(&mut self) -> Result<()> {
        let due: Vec<(PathBuf, Bearer)> = self
            .signed
            .iter()
            .filter(|(_, signed)| signed.at.elapsed() > LIFETIME / 2)
            .map(|(path, signed)| (path.clone(), signed.bearer.clone()))
            .collect();
        due.into_iter().try_for_each(|(_, bearer)| self.issue(bearer).map(drop))
    }

    /// Forgets and removes the token of a pod that is gone.
    pub fn revoke(&mut self, namespace: &str, pod: &str) {
        let path = self.directory.join(format!("{namespace}.{pod}.token"));
        if self.signed.remove(&path).is_some() {
            // A file that stays behind is in a directory of our own and is not renewed.
            let _stays = std::fs::remove_file(&path);
        }
    }

    fn sign(&self, path: &Path, bearer: &Bearer) -> Result<()> {
        let doing = || format!("signing the token of {}/{}", bearer.namespace, bearer.pod);
        let bound = Bound {
            namespace: bearer.namespace.parse().map_err(|error| Error::part(doing(), error))?,
            pod: Some(ObjectReference::new(&bearer.pod, &bearer.uid)),
            serviceaccount: ObjectReference::new(&bearer.service_account, ""),
            node: Some(ObjectReference::new(&bearer.node, "")),
        };
        let token = self.signer.sign(&Claims::new(&[AUDIENCE], bound, LIFETIME)).map_err(|error| Error::part(doing(), error))?;
        replace(path, &token)
    }
}

#[cfg(test)]
mod tests {
    use ambit_tls::token::Verifier;

    use super::*;

    #[test]
    fn a_token_is_bound_to_its_pod_and_node() {
        let dir = tempfile::tempdir().unwrap();
        let mut tokens = Tokens::new(dir.path(), dir.path().join("tokens")).unwrap();
        let bearer = Bearer {
            namespace: "istio-system".into(),
            service_account: "ztunnel".into(),
            pod: "ztunnel-node-1".into(),
            uid: "u1".into(),
            node: "node-1".into(),
        };
        let path = tokens.issue(bearer).unwrap();
        let verifier = Verifier::load(&dir.path().join("token-key.pub.pem")).unwrap();
        let claims = verifier.verify(&std::fs::read_to_string(&path).unwrap(), &[AUDIENCE]).unwrap();
        assert_eq!(claims.sub, "system:serviceaccount:istio-system:ztunnel");
        assert_eq!(claims.kubernetes.node.unwrap().name, "node-1");
        assert_eq!(claims.kubernetes.pod.unwrap(), ObjectReference::new("ztunnel-node-1", "u1"));
        tokens.revoke("istio-system", "ztunnel-node-1");
        assert!(!path.exists());
    }
}
