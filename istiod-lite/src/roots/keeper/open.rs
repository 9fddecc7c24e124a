//! The start: the issuer that is there, or the first one, on which all replicas agree.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    super::{
        CACERTS, RootsConfig, RootsError, STATE,
        issuer::{Issuer, unix},
        publish::{Bundle, MANAGER},
        report::Report,
        rotation::{Held, Plugged},
        secret::{self, Input},
    },
    LOOK, Roots, View, answered, reading,
};
use crate::ca::Issuing;

/// Attempts to write before somebody else does; each loser reads what the winner wrote.
const ATTEMPTS: usize = 10;

impl Roots {
    /// Reads the issuer, or makes the first one: from the Secret `cacerts` if it is there, else self-signed. Of several replicas that do so
    /// at once one is first, and the others take what it wrote. While the API server is away this waits.
    ///
    /// # Errors
    /// When a Secret does not hold what it must, or cannot be written.
    pub async fn open(client: kube::Client, config: RootsConfig) -> Result<Self, RootsError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &config.namespace);
        for _ in 0..ATTEMPTS {
            let (began, own, plugged) = read(&secrets, &config).await;
            let now = SystemTime::now();
            let input = Input::read(plugged.as_ref(), &config.trust_domain, now);
            let (held, known) = first(own.as_ref(), &input, &config, now)?;
            let secret = match known {
                true => own,
                false => {
                    let report = Report::of_kept(&held, &config, input.problems.clone());
                    write(&secrets, &config, &held, &report, own.as_ref()).await?
                }
            };
            // Somebody was faster: what they wrote counts.
            let Some(secret) = secret else { continue };
            let mut roots = Self::with(client, secrets, config, held, input, &secret)?;
            roots.plugged_version = reading::version(plugged.as_ref());
            roots.issuing.good_until(began + reading::good_for(roots.config.margin));
            return Ok(roots);
        }
        let doing = format!("writing Secret {}/{STATE}", config.namespace);
        Err(RootsError::Api { doing, cause: format!("others wrote it {ATTEMPTS} times meanwhile") })
    }

    fn with(
        client: kube::Client,
        secrets: Api<Secret>,
        config: RootsConfig,
        held: Held,
        input: Input,
        secret: &Secret,
    ) -> Result<Self, RootsError> {
        for problem in &input.problems {
            tracing::error!(problem, "the plug-in CA cannot be used; the issuer in Secret {STATE} signs");
        }
        let authority = held.active.authority(&config.trust_domain, config.life, &held.bundle(), SystemTime::now());
        let issuing = Issuing::new(authority.map_err(RootsError::New)?);
        let roots = held.bundle().into();
        let bundle = watch::Sender::new(Bundle { roots, crl: input.crl.as_deref().map(Into::into) });
        let phase = held.phase();
        tracing::info!(issuer = held.active.id, origin = %held.active.origin, ?phase, "the authority of the mesh was read");
        let roots = Self {
            client,
            config,
            secrets,
            issuing,
            view: View::default(),
            version: secret.metadata.resource_version.clone(),
            request: secret::request(&secret.metadata),
            reported: secret::reported(&secret.metadata),
            held,
            input,
            plugged_version: None,
            wrong: None,
            bundle,
            refused: None,
        };
        roots.show();
        Ok(roots)
    }
}

/// Our Secret and that of the plug-in CA, when the API server answers, and since when that is known.
async fn read(secrets: &Api<Secret>, config: &RootsConfig) -> (Instant, Option<Secret>, Option<Secret>) {
    let doing = |name| format!("reading Secret {}/{name}", config.namespace);
    loop {
        let began = Instant::now();
        let both = async {
            let own = answered(doing(STATE), secrets.get_opt(STATE)).await?;
            Ok::<_, RootsError>((own, answered(doing(CACERTS), secrets.get_opt(CACERTS)).await?))
        };
        match both.await {
            Ok((own, plugged)) => return (began, own, plugged),
            Err(error) => tracing::warn!(%error, "the control plane waits for its authority"),
        }
        sleep(LOOK).await;
    }
}

/// The state to start with, and whether it is what our Secret says. Pure, but for the key of a new root.
fn first(own: Option<&Secret>, input: &Input, config: &RootsConfig, now: SystemTime) -> Result<(Held, bool), RootsError> {
    let (life, at) = (config.life.as_secs(), unix(now));
    let plugged = match &input.plugged {
        Plugged::Is(issuer) => Some(Issuer::clone(issuer)),
        Plugged::Absent | Plugged::Unknown => None,
    };
    let Some(own) = own else {
        let issuer = match (plugged, input.problems.first()) {
            (Some(issuer), _) => issuer,
            // Whoever plugs in a CA does not want another one in its place because of a typing error.
            (None, Some(problem)) if input.plugged == Plugged::Unknown => return Err(RootsError::New(problem.clone())),
            (None, _) => Issuer::self_signed(&config.trust_domain, now)?,
        };
        return Ok((Held::first(issuer, life, at), false));
    };
    match (secret::read(own, &config.trust_domain, now), plugged) {
        (Ok(mut held), _) => {
            // Before this replica signs for longer than any did, the state says so.
            let known = held.state.life >= life;
            if !known {
                held.state.allow(life, at);
            }
            Ok((held, known))
        }
        (Err(error), Some(issuer)) => {
            tracing::error!(%error, "the Secret of the authority cannot be used; the plug-in CA takes its place");
            Ok((Held::first(issuer, life, at), false))
        }
        (Err(error), None) => Err(error),
    }
}

/// Writes a state over the one that was read; `None` when somebody else did meanwhile.
async fn write(
    secrets: &Api<Secret>,
    config: &RootsConfig,
    held: &Held,
    report: &Report,
    own: Option<&Secret>,
) -> Result<Option<Secret>, RootsError> {
    let version = own.and_then(|own| own.metadata.resource_version.as_deref());
    let mut written = secret::write(held, &config.namespace, version)?;
    // What people ask for is for the leader.
    written.metadata.annotations = own.and_then(|own| own.metadata.annotations.clone());
    let written = secret::with_report(written, report)?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let call = async {
        match own {
            Some(_) => secrets.replace(STATE, &params, &written).await.map(Some),
            None => secrets.create(&params, &written).await.map(Some),
        }
    };
    let call = async {
        match call.await {
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(None),
            other => other,
        }
    };
    answered(format!("writing Secret {}/{STATE}", config.namespace), call).await
}
