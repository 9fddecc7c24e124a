//! What signs, whom it believes and what is shown of it, by where objects come from.

use std::time::Duration;

use ambit_tls::{authority::Authority, token::Signer};

use crate::{
    ca::{Issuing, Tokens},
    config::Config,
    error::Error,
    roots::{Report, Roots, RootsConfig, View},
};

/// The authority of a control plane.
pub(crate) struct Signing {
    /// What signs.
    pub issuing: Issuing,
    /// Who says what a token is worth.
    pub tokens: Tokens,
    /// What people are shown.
    pub view: View,
    /// What has it follow its Secrets, on Kubernetes.
    pub roots: Option<Roots>,
}

impl Signing {
    /// The root, its key and the key of the tokens are files of the state directory.
    ///
    /// # Errors
    /// When they cannot be read or made.
    pub fn in_files(config: &Config) -> Result<Self, Error> {
        std::fs::create_dir_all(&config.state_dir).map_err(|cause| Error::State { path: config.state_dir.clone(), cause })?;
        let authority = Authority::load_or_create(&config.state_dir, &config.trust_domain)?;
        let authority = authority.with_max_lifetime(Duration::from_secs(config.certificate_seconds));
        let kept = format!("directory {}", config.state_dir.display());
        let view = View::of(Report::of_files(&authority, kept, config.certificate_seconds));
        let tokens = Tokens::new(Signer::load_or_create(&config.state_dir)?.verifier()?);
        Ok(Self { issuing: Issuing::new(authority), tokens, view, roots: None })
    }

    /// The issuers are in Secrets, and the API server says what a token is worth. Waits until it answers.
    ///
    /// # Errors
    /// When a Secret does not hold what it must.
    pub async fn in_cluster(config: &Config, client: &kube::Client) -> Result<Self, Error> {
        let life = Duration::from_secs(config.certificate_seconds);
        let mut wanted = RootsConfig::new(&*config.mesh().root_namespace, config.trust_domain.clone(), life);
        wanted.margin = Duration::from_secs(config.root_margin_seconds);
        let roots = Roots::open(client.clone(), wanted).await?;
        let (issuing, view) = (roots.issuing(), roots.view());
        Ok(Self { issuing, tokens: Tokens::reviewed(client.clone()), view, roots: Some(roots) })
    }
}
