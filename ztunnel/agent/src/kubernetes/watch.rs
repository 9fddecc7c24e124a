//! The watches of the API server: pods of the node, and the labels of all namespaces.
//!
//! `kube::runtime::watcher` is not used: it takes each line of a refusal for a failure of its own, waits without end for an answer that does
//! not come, and asks again without a pause for a watch that ends as soon as it has begun.
//! Rules: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>.

use std::{fmt::Debug, io, pin::pin, time::Duration};

use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, WatchParams},
    core::{PartialObjectMeta, Request, Status, WatchEvent},
    runtime::watcher::Event,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{ANSWER, Kubernetes, chain, pauses::Pauses};

/// How much is asked for at once.
const PAGE: u32 = 500;

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// A watch ends after this, and is asked for again.
    watch: Duration,
    /// One that has not ended by then has a connection that died without a word.
    silence: Duration,
    /// One that ends sooner is a failure: the next one must not follow at once.
    short: Duration,
    /// So long the server may take to begin a watch.
    answer: Duration,
    /// And to give a page of a list: all nodes ask for it when the server is back.
    page: Duration,
    /// A list is asked for again at most this often.
    apart: Duration,
    /// And at least this often, or up to twice as seldom: a server that was restored from an older state has nothing to tell of what comes
    /// after a version that it will not reach for long, and says nothing of that.
    anew: Duration,
}

const LIMITS: Limits = Limits {
    watch: Duration::from_secs(60),
    silence: Duration::from_secs(75),
    short: Duration::from_secs(1),
    answer: ANSWER,
    page: Duration::from_secs(30),
    apart: Duration::from_secs(2),
    anew: Duration::from_secs(600),
};

/// Keeps what is known as the API server has it, for ever.
pub(super) async fn follow(source: &Kubernetes) {
    follow_within(source, LIMITS).await;
}

async fn follow_within(source: &Kubernetes, limits: Limits) {
    let of_node = Some(format!("spec.nodeName={}", source.node));
    let pods = Api::<Pod>::all(source.client.clone());
    let mut pods = Keeper::new(source, (&source.doubted, limits), (pods, of_node), "pods", |event| {
        source.change(|store| store.pod(event));
    });
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(source.client.clone());
    let mut namespaces = Keeper::new(source, (&source.doubted_namespaces, limits), (namespaces, None), "namespaces", |event| {
        source.change(|store| store.namespace(event));
    });
    tokio::join!(pods.keep(), namespaces.keep());
}

/// Keeps one kind.
struct Keeper<'a, K, F> {
    source: &'a Kubernetes,
    /// Tells that what is known may be out of date.
    doubted: &'a Notify,
    limits: Limits,
    api: Api<K>,
    fields: Option<String>,
    what: &'static str,
    apply: F,
    /// The version that is watched from; nothing when all is to be asked for.
    from: Option<String>,
    /// When all may be asked for again, and when it is to be.
    again: (Instant, Instant),
    /// Whether it cannot be heard.
    failing: bool,
    /// Whether the last failure was that of a version which is too old.
    expired: bool,
    pauses: Pauses,
}

impl<'a, K, F> Keeper<'a, K, F>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: FnMut(Event<K>),
{
    fn new(
        source: &'a Kubernetes,
        (doubted, limits): (&'a Notify, Limits),
        (api, fields): (Api<K>, Option<String>),
        what: &'static str,
        apply: F,
    ) -> Self {
        let again = (Instant::now(), Instant::now());
        let (from, pauses) = (None, Pauses::new());
        Self { source, doubted, limits, api, fields, what, apply, from, again, failing: false, expired: false, pauses }
    }

    async fn keep(&mut self) {
        loop {
            let told = match self.from.clone() {
                None => self.list().await,
                Some(from) => self.watch(&from).await,
            };
            if let Err(failure) = told {
                self.failed(&failure).await;
            }
        }
    }

    /// Asks for everything. A list that is under way removes every doubt, so that it may come to its end.
    async fn list(&mut self) -> Result<(), Failure> {
        sleep_until(self.again.0).await;
        let (begun, limits) = (Instant::now(), self.limits);
        (self.apply)(Event::Init);
        let mut page = ListParams { field_selector: self.fields.clone(), limit: Some(PAGE), ..ListParams::default() };
        let version = loop {
            let list = timeout(limits.page, self.api.list(&page)).await.map_err(|_| Failure::Late("a list", limits.page))??;
            list.items.into_iter().for_each(|object| (self.apply)(Event::InitApply(object)));
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                break list.metadata.resource_version.filter(|version| !version.is_empty());
            }
        };
        self.from = Some(version.ok_or(Failure::NoVersion)?);
        self.again = (begun + limits.apart, begun + limits.anew.mul_f64(1.0 + fastrand::f64()));
        (self.apply)(Event::InitDone);
        self.heard();
        Ok(())
    }

    /// Hears of changes until the server ends that, or everything is to be asked for.
    async fn watch(&mut self, from: &str) -> Result<(), Failure> {
        let Limits { watch, silence, short, answer, .. } = self.limits;
        let ask = WatchParams {
            field_selector: self.fields.clone(),
            timeout: u32::try_from(watch.as_secs()).ok(),
            ..WatchParams::default()
        };
        // Not by `Api::watch`, which does not look whether it is refused: each line of what is said then would be an event that is none. The
        // API server writes a refusal in many lines to whoever asks for metadata alone.
        let request = Request::new(self.api.resource_url());
        let request = if K::metadata_api() { request.watch_metadata(&ask, from) } else { request.watch(&ask, from) };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let begun = timeout(answer, self.source.client.request_stream(request)).await;
        let mut told = pin!(begun.map_err(|_| Failure::Late("a watch", answer))??.lines());
        let opened = Instant::now();
        loop {
            let event = tokio::select! {
                event = timeout_at(opened + silence, told.next()) => event.map_err(|_| Failure::Silent(silence))?,
                () = self.doubted.notified() => {
                    tracing::info!(what = self.what, "what the API server told may be out of date, and is asked for anew");
                    self.from = None;
                    return Ok(());
                }
                () = sleep_until(self.again.1) => {
                    self.from = None;
                    return Ok(());
                }
                // A refusal would have come by now.
                () = sleep_until(opened + short), if self.failing => {
                    self.heard();
                    continue;
                }
            };
            let (version, news) = match event {
                Some(line) => match event_of::<K>(line)? {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        (object.resource_version(), Some(Event::Apply(object)))
                    }
                    WatchEvent::Deleted(object) => (object.resource_version(), Some(Event::Delete(object))),
                    WatchEvent::Bookmark(bookmark) => (Some(bookmark.metadata.resource_version), None),
                    WatchEvent::Error(status) => return Err(Failure::Refused(status)),
                },
                None if opened.elapsed() < short => return Err(Failure::Short),
                None => return Ok(()),
            };
            self.from = Some(version.filter(|version| !version.is_empty()).ok_or(Failure::NoVersion)?);
            if let Some(news) = news {
                (self.apply)(news);
                self.heard();
                // Each step takes it further: however often it ends, it is not in vain.
                self.pauses.begin_anew();
            }
        }
    }

    /// The server tells what there is.
    fn heard(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(what = self.what, "the API server tells again");
        }
    }

    /// Notes a failure, and waits for a while.
    async fn failed(&mut self, failure: &Failure) {
        let (what, why) = (self.what, failure.explained(self.what));
        metrics::counter!("ambit_kubernetes_watch_failures_total", "what" => what).increment(1);
        tracing::debug!(what, why, "the API server was asked in vain");
        // Once, however long it takes.
        if !std::mem::replace(&mut self.failing, true) {
            let so = "the API server cannot be heard; pods stay as they are, and none of which nothing is known starts";
            tracing::warn!(what, why, "{so}");
        }
        self.source.state().failed(what == "pods", why);
        if failure.is_lasting() {
            self.from = None;
        }
        // It answers, as it does after a while away: the list that it wants to be asked for must not wait as long as the last attempt did.
        // If that ends so, too, it must.
        let again = std::mem::replace(&mut self.expired, failure.is_expired());
        if self.expired && !again {
            self.pauses.begin_anew();
        }
        self.pauses.again(false).await;
    }
}

/// The event that a line of a watch is.
fn event_of<K: DeserializeOwned>(line: io::Result<String>) -> kube::Result<WatchEvent<K>> {
    let line = line.map_err(kube::Error::ReadEvents)?;
    serde_json::from_str(&line).map_err(kube::Error::SerdeError)
}

/// Why the server could not be heard.
#[derive(Debug)]
enum Failure {
    /// It could not be asked, or refused it.
    Client(kube::Error),
    /// It ended a watch with this.
    Refused(Box<Status>),
    /// It does not answer in this time.
    Late(&'static str, Duration),
    /// A watch has not ended in this time.
    Silent(Duration),
    /// A watch ended as soon as it had begun.
    Short,
    /// What it told cannot be gone on from.
    NoVersion,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// What the API server said, if it is its answer that is the failure.
    fn refused(&self) -> Option<&Status> {
        match self {
            Self::Client(kube::Error::Api(status)) => Some(status),
            Self::Refused(status) => Some(status),
            _ => None,
        }
    }

    /// Whether it knows no longer what has changed since it was heard last.
    fn is_expired(&self) -> bool {
        self.refused().is_some_and(|status| status.code == 410)
    }

    /// Whether the version that is watched from is of no use any more: all is to be asked for anew.
    fn is_lasting(&self) -> bool {
        self.is_expired() || matches!(self, Self::NoVersion | Self::Client(kube::Error::SerdeError(_)))
    }

    /// What is wrong, and what to do about it where that is known.
    fn explained(&self, what: &str) -> String {
        match (self.refused(), self) {
            (Some(status), _) if status.code == 403 => {
                format!("{}; give the agent's service account the verbs list and watch for {what} (ClusterRole)", status.message)
            }
            (Some(status), _) if status.code == 401 => {
                format!("{}; the agent's token or certificate is not accepted", status.message)
            }
            (Some(status), _) => status.message.clone(),
            (None, Self::Refused(status)) => status.message.clone(),
            (None, Self::Client(error)) => chain(error),
            (None, Self::Late(asked, limit)) => format!("{asked} is not answered within {limit:?}"),
            (None, Self::Silent(limit)) => format!("a watch that was to end earlier has not after {limit:?}"),
            (None, Self::Short) => "a watch ends as soon as it has begun".to_owned(),
            (None, Self::NoVersion) => "an answer has no resourceVersion".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
