//! The watches of the API server: pods of the node, and the labels of all namespaces.
//!
//! `kube::runtime::watcher` is not used: it takes each line of a refusal for a failure of its own, waits without end for an answer that does
//! not come, and asks again without a pause for a watch that ends as soon as it has begun.
//! Rules: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>.
//!
//! | module | purpose |
//! |---|---|
//! | `course` | what is asked for next, and from which version: decided without I/O |
//! | `lines` | the lines of a watch |
//! | `failure` | why the server could not be heard |

mod course;
mod failure;
mod lines;

use std::{fmt::Debug, time::Duration};

use futures::AsyncBufRead;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::WatchParams,
    core::{PartialObjectMeta, Request, WatchEvent},
    runtime::watcher::Event,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{ANSWER, Kubernetes, pauses::Pauses};
use course::Course;
use failure::Failure;
use lines::Lines;

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// A watch ends after this or, so that those of many nodes do not end at once, up to a third sooner, and is asked for again.
    watch: Duration,
    /// One that has not ended by then has a connection that died without a word.
    silence: Duration,
    /// One that ends sooner is a failure: the next one must not follow at once.
    short: Duration,
    /// Before the next one is asked for, at most, when the server has ended one: it may be going, and all nodes then ask those that stay.
    spread: Duration,
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
    spread: Duration::from_millis(500),
    answer: ANSWER,
    page: Duration::from_secs(30),
    apart: Duration::from_secs(2),
    anew: Duration::from_secs(600),
};

/// Keeps what is known as the API server has it, for ever. `holds` says that something was done before by what it told.
pub(super) async fn follow(source: &Kubernetes, holds: bool) {
    follow_within(source, holds, LIMITS).await;
}

async fn follow_within(source: &Kubernetes, holds: bool, limits: Limits) {
    let of_node = Some(format!("spec.nodeName={}", source.node));
    let pods = Api::<Pod>::all(source.client.clone());
    let mut pods = Keeper::new((source, holds), (&source.doubted, limits), (pods, of_node), "pods", |event| {
        source.change(|store| store.pod(event));
    });
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(source.client.clone());
    let doubted = &source.doubted_namespaces;
    let mut namespaces = Keeper::new((source, holds), (doubted, limits), (namespaces, None), "namespaces", |event| {
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
    course: Course,
    /// When all may be asked for again, and when it is to be.
    again: (Instant, Instant),
    /// Whether it cannot be heard.
    failing: bool,
    /// Whether it has just said that what it was asked to go on from is of no use.
    lost: bool,
    pauses: Pauses,
}

impl<'a, K, F> Keeper<'a, K, F>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: FnMut(Event<K>),
{
    fn new(
        (source, holds): (&'a Kubernetes, bool),
        (doubted, limits): (&'a Notify, Limits),
        (api, fields): (Api<K>, Option<String>),
        what: &'static str,
        apply: F,
    ) -> Self {
        let again = (Instant::now(), Instant::now());
        let (course, pauses) = (Course::new(holds), Pauses::new());
        Self { source, doubted, limits, api, fields, what, apply, course, again, failing: false, lost: false, pauses }
    }

    async fn keep(&mut self) {
        loop {
            // However often a watch is refused meanwhile.
            if Instant::now() >= self.again.1 {
                self.course.refresh();
            }
            let told = match self.course.watched().map(str::to_owned) {
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
        let mut page = self.course.ask(self.fields.as_deref());
        let version = loop {
            let list = timeout(limits.page, self.api.list(&page)).await.map_err(|_| Failure::Late("a list", limits.page))??;
            list.items.into_iter().for_each(|object| (self.apply)(Event::InitApply(object)));
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                break list.metadata.resource_version;
            }
        };
        self.course.listed(version)?;
        self.again = (begun + limits.apart, begun + limits.anew.mul_f64(1.0 + fastrand::f64()));
        (self.apply)(Event::InitDone);
        // Where a list is always answered, and nothing can be gone on from it, nothing is well.
        if !self.lost {
            self.heard();
        }
        Ok(())
    }

    /// Hears of changes until the server ends that, or everything is to be asked for.
    async fn watch(&mut self, from: &str) -> Result<(), Failure> {
        let Limits { watch, silence, short, answer, spread, .. } = self.limits;
        let asked = watch.mul_f64(1.0 - fastrand::f64() / 3.0);
        let mut told = Lines::new(Box::pin(self.begin(from, asked, answer).await?), lines::LONGEST);
        let opened = Instant::now();
        loop {
            let line = tokio::select! {
                line = timeout_at(opened + silence, told.next()) => line.map_err(|_| Failure::Silent(silence))?,
                () = self.doubted.notified() => {
                    tracing::info!(what = self.what, "what the API server told may be out of date, and is asked for anew");
                    self.course.doubt();
                    return Ok(());
                }
                () = sleep_until(self.again.1) => {
                    self.course.refresh();
                    return Ok(());
                }
                // A refusal would have come by now.
                () = sleep_until(opened + short), if self.failing || self.lost => {
                    self.goes_on();
                    continue;
                }
            };
            let (version, news) = match line.map_err(Failure::Told)? {
                Some(line) => match event_of::<K>(&line)? {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        (object.resource_version(), Some(Event::Apply(object)))
                    }
                    WatchEvent::Deleted(object) => (object.resource_version(), Some(Event::Delete(object))),
                    WatchEvent::Bookmark(bookmark) => (Some(bookmark.metadata.resource_version), None),
                    WatchEvent::Error(status) => return Err(Failure::Refused(status)),
                },
                None if opened.elapsed() < short => return Err(Failure::Short),
                None => {
                    if opened.elapsed() < asked / 2 {
                        sleep(spread.mul_f64(fastrand::f64())).await;
                    }
                    return Ok(());
                }
            };
            self.course.told(version)?;
            if let Some(news) = news {
                (self.apply)(news);
                self.goes_on();
                // Each step takes it further: however often it ends, it is not in vain.
                self.pauses.begin_anew();
            }
        }
    }

    /// Asks for changes.
    ///
    /// Not by `Api::watch`, which does not look whether it is refused: each line of what is said then would be an event that is none. The
    /// API server writes a refusal in many lines to whoever asks for metadata alone.
    async fn begin(&self, from: &str, asked: Duration, answer: Duration) -> Result<impl AsyncBufRead + use<K, F>, Failure> {
        let ask = WatchParams {
            field_selector: self.fields.clone(),
            timeout: u32::try_from(asked.as_secs()).ok(),
            ..WatchParams::default()
        };
        let request = Request::new(self.api.resource_url());
        let request = if K::metadata_api() { request.watch_metadata(&ask, from) } else { request.watch(&ask, from) };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let begun = timeout(answer, self.source.client.request_stream(request)).await;
        Ok(begun.map_err(|_| Failure::Late("a watch", answer))??)
    }

    /// A watch tells what there is.
    fn goes_on(&mut self) {
        self.lost = false;
        self.heard();
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
        self.course.failed(failure);
        // It answers, as it does after a while away: what it wants to be asked for must not wait as long as the last attempt did. If that
        // ends so, too, it must.
        let again = std::mem::replace(&mut self.lost, failure.is_usual());
        if self.lost && !again {
            tracing::debug!(what, why, "the API server is asked for everything");
            self.pauses.begin_anew();
        } else {
            metrics::counter!("ambit_kubernetes_watch_failures_total", "what" => what).increment(1);
            tracing::debug!(what, why, "the API server was asked in vain");
            // Once, however long it takes.
            if !std::mem::replace(&mut self.failing, true) {
                let so = "the API server cannot be heard; pods stay as they are, and none of which nothing is known starts";
                tracing::warn!(what, why, "{so}");
            }
        }
        self.source.state().failed(what == "pods", why);
        self.pauses.again(false).await;
    }
}

/// The event that a line of a watch is.
fn event_of<K: DeserializeOwned>(line: &[u8]) -> kube::Result<WatchEvent<K>> {
    serde_json::from_slice(line).map_err(kube::Error::SerdeError)
}

#[cfg(test)]
mod tests;
