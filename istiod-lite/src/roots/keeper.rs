//! Reads the two Secrets, has the authority follow them, and on the leader writes the next state.

mod open;
mod reading;
mod view;
mod writing;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher, watcher::watch_object},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    CACERTS, RootsConfig, RootsError, STATE,
    issuer::{Issuer, unix},
    pauses::Pauses,
    publish::{Bundle, Publisher},
    report::Report,
    rotation::{Facts, Held, Phase, Plugged},
    secret::{self, Input, Request},
};
use crate::{ca::Issuing, mesh::Mesh};
pub use view::View;

/// Until a call to the API server has to be answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// The clock is looked at this often when nothing else happens.
const LOOK: Duration = Duration::from_secs(2);

/// Whether this replica may write now.
pub(super) type Leads = Arc<dyn Fn() -> bool + Send + Sync>;

/// The issuers of a mesh on Kubernetes.
pub struct Roots {
    client: kube::Client,
    config: RootsConfig,
    secrets: Api<Secret>,
    issuing: Issuing,
    view: View,
    held: Held,
    /// Of the Secret as it was read last; `None` when it is gone.
    version: Option<String>,
    request: Option<Request>,
    /// What it shows people.
    reported: Option<Report>,
    input: Input,
    /// Of the Secret of the plug-in CA as it was read last; `None` when it is not there.
    plugged_version: Option<String>,
    /// What is wrong with our own Secret.
    wrong: Option<String>,
    bundle: watch::Sender<Bundle>,
    /// What the API server last refused, so that it is said once.
    refused: Option<String>,
}

impl Roots {
    /// The handle on what signs.
    #[must_use]
    pub fn issuing(&self) -> Issuing {
        self.issuing.clone()
    }

    /// What people are shown.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Follows the Secrets; while this replica `leads`, which is asked before each write, moves a rotation on and writes the roots to
    /// every namespace of `mesh`. Never completes.
    pub async fn run(mut self, leads: impl Fn() -> bool + Send + Sync + 'static, mesh: Arc<Mesh>) {
        let leads: Leads = Arc::new(leads);
        let published = watch::Sender::new(None);
        let publisher = Publisher::new(self.client.clone(), self.bundle.subscribe(), mesh, Arc::clone(&leads));
        let seen = published.subscribe();
        tokio::join!(publisher.run(published), self.follow(&leads, seen));
    }

    async fn follow(&mut self, leads: &Leads, mut published: watch::Receiver<Option<Bundle>>) {
        let mut own = std::pin::pin!(self.watch(STATE));
        let mut plugged = std::pin::pin!(self.watch(CACERTS));
        let often = reading::often(self.config.margin);
        let mut due = Instant::now() + often;
        loop {
            let changed = tokio::select! {
                Some(seen) = own.next() => self.seen(STATE, seen, Self::adopt),
                Some(seen) = plugged.next() => self.seen(CACERTS, seen, Self::plug),
                Ok(()) = published.changed() => true,
                () = sleep_until(due) => {
                    self.read_anew().await;
                    due = Instant::now() + often;
                    true
                }
                () = sleep(LOOK) => true,
            };
            if changed && leads() {
                let distributed = published.borrow().as_ref().is_some_and(|bundle| *bundle.roots == *self.held.bundle());
                self.drive(distributed, leads).await;
            }
        }
    }

    fn watch(&self, name: &str) -> impl Stream<Item = watcher::Result<Option<Secret>>> + Send + use<> {
        watch_object(self.secrets.clone(), name).backoff(Pauses::default())
    }

    /// Takes what a watch brought; whether it brought anything.
    fn seen(&mut self, name: &str, seen: watcher::Result<Option<Secret>>, take: impl FnOnce(&mut Self, Option<Secret>)) -> bool {
        match seen {
            Ok(secret) => {
                self.refused = None;
                take(self, secret);
                true
            }
            Err(error) => {
                self.api_refused(format!("cannot watch Secret {}/{name}: {error}", self.config.namespace));
                false
            }
        }
    }

    /// Our own Secret is as it is now.
    fn adopt(&mut self, secret: Option<Secret>) {
        let Some(secret) = secret else {
            if self.version.take().is_none() {
                return;
            }
            tracing::error!(secret = %self.name(), "the Secret of the authority is gone; the leader writes it again");
            return;
        };
        self.version.clone_from(&secret.metadata.resource_version);
        self.request = secret::request(&secret.metadata);
        self.reported = secret::reported(&secret.metadata);
        match secret::read(&secret, &self.config.trust_domain, SystemTime::now()) {
            Ok(held) => {
                self.wrong = None;
                self.take_over(held);
            }
            Err(error) => {
                let error = error.to_string();
                if self.wrong.as_ref() != Some(&error) {
                    tracing::error!(error, "the Secret of the authority cannot be used; what it said before stays in force");
                }
                self.wrong = Some(error);
            }
        }
        self.show();
    }

    /// Signs by this state from now on.
    fn take_over(&mut self, held: Held) {
        let (before, after) = (self.held.phase(), held.phase());
        if before != after || held.active.id != self.held.active.id {
            let issuer = &held.active.id;
            tracing::info!(?before, ?after, issuer, roots = held.state.roots.len(), "the roots of the mesh change");
        }
        let bundle = held.bundle();
        if held.active.id != self.held.active.id || bundle != self.held.bundle() {
            match held.active.authority(&self.config.trust_domain, self.config.life, &bundle, SystemTime::now()) {
                Ok(authority) => self.issuing.replace(authority),
                Err(error) => {
                    tracing::error!(error, "the issuer cannot be used; the one before signs on");
                    self.wrong = Some(error);
                    return;
                }
            }
        }
        self.held = held;
        self.announce();
    }

    /// The Secret of the plug-in CA is as it is now.
    fn plug(&mut self, secret: Option<Secret>) {
        self.plugged_version = reading::version(secret.as_ref());
        let input = Input::read(secret.as_ref(), &self.config.trust_domain, SystemTime::now());
        if input.problems != self.input.problems {
            for problem in &input.problems {
                tracing::error!(problem, "the plug-in CA cannot be used; what was there before stays in force");
            }
        }
        // A list that cannot be read, or is gone, leaves the one before it in force: nobody who heeds lists means to heed none.
        let crl = input.crl.clone().or(self.input.crl.take());
        self.input = Input { crl, ..input };
        self.announce();
        self.show();
    }

    fn announce(&self) {
        let bundle = Bundle { roots: self.held.bundle().into(), crl: self.input.crl.as_deref().map(Into::into) };
        self.bundle.send_if_modified(|before| {
            let changed = *before != bundle;
            *before = bundle;
            changed
        });
    }

    /// The steps that are due, written.
    async fn drive(&mut self, distributed: bool, leads: &Leads) {
        // What cannot be read is for people to mend, unless they have plugged in another CA: then what was read last goes on from here.
        let now = SystemTime::now();
        let usable = |issuer: &Issuer| issuer.id != self.held.active.id && !issuer.has_ended(unix(now));
        let another = matches!(&self.input.plugged, Plugged::Is(issuer) if usable(issuer));
        if self.wrong.is_some() && !another {
            return;
        }
        let asked = match self.request {
            Some(Request::Rotate) => true,
            // What is under way is brought to its end; nobody asked for yet another root.
            Some(Request::AtOnce) => self.held.phase() == Phase::Stable,
            None => false,
        };
        let fresh = if self.held.wants_fresh(&self.input.plugged, asked, unix(now)) {
            match Issuer::self_signed(&self.config.trust_domain, now) {
                Ok(issuer) => Some(Box::new(issuer)),
                Err(error) => return tracing::error!(%error, "a new root cannot be made"),
            }
        } else {
            None
        };
        if asked && fresh.is_none() && self.held.next.is_none() {
            tracing::warn!("a new root was asked for, but there is a plug-in CA: change Secret {CACERTS} instead");
        }
        let facts = Facts {
            now: unix(now),
            life: self.config.life.as_secs(),
            margin: self.config.margin.as_secs(),
            distributed,
            plugged: self.input.plugged.clone(),
            fresh,
            at_once: self.request == Some(Request::AtOnce),
        };
        let next = self.held.advance(&facts);
        // A request is taken away with the answer to it, and people are shown what is so.
        let shown = self.reported.as_ref() == Some(&self.report(&self.held));
        let write = self.request.is_some() || self.version.is_none() || !shown;
        let Some(held) = next.or_else(|| write.then(|| self.held.clone())) else { return self.show() };
        if leads() {
            self.write(held).await;
        }
    }

    fn name(&self) -> String {
        format!("{}/{STATE}", self.config.namespace)
    }

    fn api_refused(&mut self, what: String) {
        if self.refused.as_ref() != Some(&what) {
            tracing::warn!(reason = what, "the API server does not serve the roots");
            self.refused = Some(what);
        }
    }

    fn show(&self) {
        let own = self.wrong.iter().chain(&self.refused);
        let problems = own.chain(&self.input.problems).cloned().collect();
        self.view.set(&self.held, &self.config, problems);
    }
}

/// A call to the API server, in time.
pub(super) async fn answered<T>(doing: String, call: impl Future<Output = kube::Result<T>>) -> Result<T, RootsError> {
    match timeout(PATIENCE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(RootsError::Api { doing, cause: error.to_string() }),
        Err(_) => Err(RootsError::Api { doing, cause: format!("no answer within {} s", PATIENCE.as_secs()) }),
    }
}
