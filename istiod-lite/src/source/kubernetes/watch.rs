//! One kind of object: asks the API server what the reflector wants, and passes on what that changes.

use std::pin::pin;
use std::time::Duration;

use kube::Client;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{ObjectList, request};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_stream::StreamExt;

use super::failure::{Failure, Verb, chain};
use super::merge::{Trouble, Update};
use super::reflector::{Pause, Reflector, Request};
use super::{Timing, trim};
use crate::source::{Event, Kind};

/// Time between two looks at whether a watch still says something.
const TICK: Duration = Duration::from_secs(1);
/// A watch that ends sooner than this, without a word, is a failure: the next one must not follow at once.
const SHORT: Duration = Duration::from_secs(1);

/// How a watch ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The server ended it, as it was asked to after a time.
    Closed,
    /// It said nothing for too long.
    Stale,
}

/// The list and watch of one kind.
pub(super) struct Watch {
    client: Client,
    reflector: Reflector,
    timing: Timing,
    updates: mpsc::Sender<Update>,
    /// Which watch this is, where several follow each other for one object.
    number: u64,
    /// When the server last said anything about the kind.
    heard: Instant,
    trouble: Option<Trouble>,
    absent: bool,
    /// Whether the last watch was given up without an event or bookmark.
    mute: bool,
    /// What the last update said of all but events.
    told: Option<(bool, Option<Trouble>, usize)>,
}

/// Why a step ends before its end.
enum Stop {
    /// The receiver of updates is gone.
    Unwanted,
    /// What was asked failed.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Watch {
    pub(super) fn new(client: Client, reflector: Reflector, timing: Timing, updates: mpsc::Sender<Update>) -> Self {
        let heard = Instant::now();
        Self { client, reflector, timing, updates, number: 0, heard, trouble: None, absent: false, mute: false, told: None }
    }

    /// The same, of this number.
    pub(super) fn numbered(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// Goes on until nobody wants updates any more.
    pub(super) async fn run(mut self) {
        loop {
            let (verb, result) = match self.reflector.request() {
                Request::List { path, limit, token } => (Verb::List, self.list(&path, limit, token).await),
                Request::Watch { path, from } => (Verb::Watch, self.watch(&path, &from).await),
            };
            let result = match result {
                Err(Stop::Failed(Failure::Missing)) if self.reflector.doubts() => {
                    let failure = self.confirm().await;
                    self.fail(verb, &failure).await
                }
                Err(Stop::Failed(failure)) => self.fail(verb, &failure).await,
                result => result,
            };
            if result.is_err() {
                return;
            }
        }
    }

    async fn list(&mut self, path: &str, limit: Option<u32>, token: Option<String>) -> Result<(), Stop> {
        let label_selector = trim::wanted(self.reflector.kind()).map(str::to_owned);
        let field_selector = self.reflector.selector();
        let params = ListParams { limit, continue_token: token, label_selector, field_selector, ..ListParams::default() };
        let request = request::Request::new(path).list(&params).map_err(|error| Failure::Broken(chain(&error)))?;
        let answer = timeout(self.timing.answer, self.client.request::<ObjectList<Value>>(request)).await;
        let page =
            answer.map_err(|_| Failure::Unreachable("a list takes too long".into()))?.map_err(|error| Failure::of(&error))?;
        self.heard = Instant::now();
        let events = self.reflector.page(page.items, page.metadata.resource_version, page.metadata.continue_)?;
        self.trouble = None;
        if std::mem::take(&mut self.absent) {
            let kind = self.reflector.kind();
            tracing::info!(kind = kind.as_str(), group = kind.group(), "the API server has the kind now");
        }
        self.send(events).await
    }

    /// Whether the server that said it has no such kind leaves it out where it says what it has, too; otherwise what is wrong.
    async fn confirm(&self) -> Failure {
        let answer = timeout(self.timing.answer, served(&self.client, self.reflector.kind(), self.reflector.version())).await;
        match answer {
            Ok(Ok(false)) => Failure::Missing,
            Ok(Ok(true)) => Failure::Broken("the answer is 404, though the server says that it has the kind".into()),
            Ok(Err(error)) => match Failure::of(&error) {
                failure @ (Failure::Busy { .. } | Failure::Unreachable(_)) => failure,
                _ => Failure::Broken(format!(
                    "the answer is 404, and which kinds the server has cannot be asked: {}",
                    chain(&error)
                )),
            },
            Err(_) => Failure::Unreachable("to say which kinds it has takes the server too long".into()),
        }
    }

    async fn watch(&mut self, path: &str, from: &str) -> Result<(), Stop> {
        let began = Instant::now();
        let end = self.follow(path, from).await;
        let kind = self.reflector.kind().as_str();
        let reason = match &end {
            Ok(End::Closed) => "closed",
            Ok(End::Stale) => "stale",
            Err(Stop::Failed(failure)) => failure.label(),
            Err(Stop::Unwanted) => "unwanted",
        };
        metrics::counter!("pilot_k8s_watch_restarts", "kind" => kind, "reason" => reason).increment(1);
        match end? {
            End::Closed if began.elapsed() < SHORT && self.heard <= began => {
                Err(Failure::Unreachable("the watch was closed at once".into()).into())
            }
            End::Closed => Ok(()),
            End::Stale => {
                let seconds = self.heard.elapsed().as_secs();
                tracing::warn!(kind, seconds, "a watch said nothing for too long and is begun anew");
                // The second in a row: not the connection, then, but the version asked from, which a server that was restored from
                // an older state reaches only in the future.
                if std::mem::replace(&mut self.mute, true) {
                    self.mute = false;
                    self.reflector.list_again();
                }
                Ok(())
            }
        }
    }

    /// Passes on the events of one watch until it ends.
    async fn follow(&mut self, path: &str, from: &str) -> Result<End, Stop> {
        let longest = self.timing.watch.as_secs_f64() * (1.0 - 0.2 * fastrand::f64());
        let label_selector = trim::wanted(self.reflector.kind()).map(str::to_owned);
        let field_selector = self.reflector.selector();
        let timeout_seconds = Some(longest as u32);
        let params =
            WatchParams { timeout: timeout_seconds, bookmarks: true, label_selector, field_selector, ..WatchParams::default() };
        let request = request::Request::new(path).watch(&params, from).map_err(|error| Failure::Broken(chain(&error)))?;
        let answer = timeout(self.timing.answer, self.client.request_events::<Value>(request)).await;
        let answer = answer.map_err(|_| Failure::Unreachable("a watch takes too long to begin".into()))?;
        let mut stream = pin!(answer.map_err(|error| Failure::of(&error))?);
        let opened = Instant::now();
        let mut tick = interval(TICK.min(self.timing.stale / 2));
        tick.tick().await;
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                _ = tick.tick() => {
                    // A refusal would have come at once.
                    self.reflector.lives();
                    self.trouble = None;
                    self.send(Vec::new()).await?;
                    if self.heard.max(opened).elapsed() >= self.timing.stale {
                        return Ok(End::Stale);
                    }
                    continue;
                }
            };
            let Some(item) = item else { return Ok(End::Closed) };
            let event = self.reflector.watched(item.map_err(|error| Failure::of(&error))?)?;
            self.heard = Instant::now();
            self.mute = false;
            self.trouble = None;
            self.send(Vec::from_iter(event)).await?;
        }
    }

    async fn fail(&mut self, verb: Verb, failure: &Failure) -> Result<(), Stop> {
        let kind = self.reflector.kind();
        metrics::counter!("pilot_k8s_watch_errors", "kind" => kind.as_str(), "reason" => failure.label()).increment(1);
        let (events, pause) = self.reflector.failed(failure);
        tracing::debug!(
            kind = kind.as_str(),
            verb = verb.as_str(),
            reason = failure.text(verb, kind),
            "asking the API server failed"
        );
        self.trouble = match (failure, pause) {
            // Neither keeps anything from being in force that should be, or the other way round.
            (Failure::Expired, _) | (Failure::Missing, Pause::None | Pause::Absent) => None,
            _ => Some(Trouble { reason: failure.text(verb, kind), unreachable: matches!(failure, Failure::Unreachable(_)) }),
        };
        if self.reflector.is_absent() && pause == Pause::Absent && !std::mem::replace(&mut self.absent, true) {
            let versions = kind.versions().join(", ");
            tracing::info!(
                kind = kind.as_str(),
                group = kind.group(),
                versions,
                "the API server has no such kind; looked for again"
            );
        }
        self.send(events).await?;
        let pause = match (pause, failure) {
            (Pause::None, _) => Duration::ZERO,
            (Pause::Absent, _) => self.timing.absent_pause,
            (Pause::Failures(failures), Failure::Busy { after: Some(after), .. }) => self.pause(failures).max(*after),
            (Pause::Failures(failures), _) => self.pause(failures),
        };
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.updates.closed() => Err(Stop::Unwanted),
        }
    }

    /// Twice as long after each failure up to a limit, and up to a half less at random, so that not all ask again at once.
    fn pause(&self, failures: u32) -> Duration {
        let longest = self.timing.first_pause.saturating_mul(1 << failures.min(16)).min(self.timing.longest_pause);
        longest.mul_f64(1.0 - 0.5 * fastrand::f64())
    }

    /// Sends events, and whatever else changed.
    async fn send(&mut self, events: Vec<Event>) -> Result<(), Stop> {
        let kind = self.reflector.kind();
        let only = self.reflector.only().map(|name| (name.clone(), self.number));
        // One of many is not the kind.
        if only.is_none() {
            metrics::gauge!("pilot_k8s_last_event_seconds", "kind" => kind.as_str()).set(self.heard.elapsed().as_secs_f64());
            metrics::gauge!("pilot_k8s_objects", "kind" => kind.as_str()).set(self.reflector.len() as f64);
        }
        let problems = self.reflector.problems();
        let state = (self.reflector.is_listed(), self.trouble.clone(), std::sync::Arc::as_ptr(&problems) as usize);
        if events.is_empty() && self.told.as_ref() == Some(&state) {
            return Ok(());
        }
        self.told = Some(state);
        let (listed, trouble) = (self.reflector.is_listed(), self.trouble.clone());
        let update = Update { kind, only, listed, events, problems, trouble };
        self.updates.send(update).await.map_err(|_| Stop::Unwanted)
    }
}

/// Whether the server says that it has a kind in this version. Anybody may ask that whom it knows.
async fn served(client: &Client, kind: Kind, version: &str) -> kube::Result<bool> {
    let groups = client.list_api_groups().await?.groups;
    let version = format!("{}/{version}", kind.group());
    let versions = groups.iter().filter(|group| group.name == kind.group()).flat_map(|group| &group.versions);
    if !versions.map(|version| &version.group_version).any(|served| *served == version) {
        return Ok(false);
    }
    let resources = client.list_api_group_resources(&version).await?.resources;
    Ok(resources.iter().any(|resource| resource.name == kind.plural()))
}
