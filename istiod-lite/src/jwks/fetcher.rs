//! Fetches what the index asks for, and tells it what came.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::client::Client;
use super::course::{Course, Line, Outcome};
use super::{KeySource, News, NoKeys, Options};
use crate::mesh::Mesh;
use crate::push::Batch;
use crate::retry;

/// How long a control plane that starts waits for keys before it serves. One that starts again would otherwise tell waypoints for a moment
/// that there are none.
const FIRST: Duration = Duration::from_secs(6);

/// Fetches for one mesh.
pub(crate) struct Fetcher {
    mesh: Arc<Mesh>,
    batches: mpsc::Sender<Batch>,
    view: View,
    client: Client,
}

/// What is known of all sources, for the pages.
#[derive(Debug, Clone)]
pub(crate) struct View(Arc<Mutex<Course>>);

impl View {
    /// Nothing has been fetched yet.
    pub(crate) fn new(options: &Options) -> Self {
        Self(Arc::new(Mutex::new(Course::new(options.refresh()))))
    }

    /// One line for each source.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lock().lines(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Course> {
        // Each change is made whole, so that a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fetcher {
    /// Fetches what `mesh` asks for, and puts what came among the batches of its source.
    pub(crate) fn new(mesh: Arc<Mesh>, batches: mpsc::Sender<Batch>, view: View, options: &Options) -> Self {
        Self { mesh, batches, view, client: Client::new(options) }
    }

    /// Fetches until nobody takes what came any more.
    pub(crate) async fn run(self) {
        let mut generation = self.mesh.generation();
        // The first batch is the source's: it is everything there is.
        if generation.wait_for(|generation| *generation > 0).await.is_err() {
            return;
        }
        let mut fetches = FuturesUnordered::new();
        loop {
            generation.mark_unchanged();
            let wanted = self.mesh.index().wanted_keys();
            let news = self.view.lock().want(Instant::now(), &wanted);
            if !self.tell(news).await {
                return;
            }
            while let Some((source, patience)) = self.next() {
                let client = &self.client;
                fetches.push(Box::pin(async move {
                    let result = client.keys(&source, patience).await;
                    (source, result)
                }));
            }
            let due = self.view.lock().due();
            tokio::select! {
                changed = generation.changed() => if changed.is_err() { return },
                Some((source, result)) = fetches.next() => {
                    let news = self.ended(&source, result);
                    if !self.tell(Vec::from_iter(news)).await {
                        return;
                    }
                }
                () = retry::at(due) => {}
            }
        }
    }

    fn next(&self) -> Option<(KeySource, Duration)> {
        self.view.lock().next(Instant::now())
    }

    fn ended(&self, source: &KeySource, result: Result<Arc<str>, NoKeys>) -> Option<News> {
        let error = result.as_ref().err().map(|none| none.why().to_owned());
        let (outcome, news) = self.view.lock().ended(Instant::now(), source, result, fastrand::f64());
        let label = if error.is_some() { "failed" } else { "fetched" };
        metrics::counter!("istiod_lite_jwks_fetches_total", "result" => label).increment(1);
        let error = error.unwrap_or_default();
        match outcome {
            Some(Outcome::Changed) => tracing::info!(address = %source, "new keys of an issuer of tokens"),
            Some(Outcome::Withdrawn) => {
                tracing::warn!(address = %source, %error, "an issuer of tokens has withdrawn its keys: none of its tokens is believed");
            }
            Some(Outcome::Failed) => tracing::warn!(address = %source, %error, "no keys of an issuer of tokens; trying again"),
            Some(Outcome::FailedAgain) => tracing::debug!(address = %source, %error, "still no keys of an issuer of tokens"),
            Some(Outcome::Unchanged) => tracing::debug!(address = %source, "the same keys of an issuer of tokens"),
            None => {}
        }
        news
    }

    /// Whether there was somebody to tell.
    async fn tell(&self, news: Vec<News>) -> bool {
        news.is_empty() || self.batches.send(Batch::of_keys(news)).await.is_ok()
    }
}

/// Completes when all keys that are asked for were fetched once, or could not be, and the index knows; but not after long.
pub(crate) async fn first_round(mesh: &Mesh) {
    let mut generation = mesh.generation();
    let all = async {
        while mesh.index().awaits_keys() {
            if generation.changed().await.is_err() {
                return;
            }
        }
    };
    if timeout(FIRST, all).await.is_err() {
        tracing::warn!(
            "not all keys of issuers of tokens have been fetched; serving without, so that their tokens are refused until then"
        );
    }
}
