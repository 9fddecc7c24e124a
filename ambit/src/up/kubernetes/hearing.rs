//! What containers say, read from their logs through the API server as they say it.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::AsyncBufRead;
use istiod_lite::source::NamespacedName;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::SignedDuration;
use kube::api::LogParams;
use kube::{Api, Client};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::log::{Known, LINE, Mark, read_line, stamped};
use super::scene::Speaker;
use crate::demo::stats;
use crate::local::access::AccessLine;

/// Bytes of lines that wait to be taken, of all logs together; more is not read meanwhile.
const WAITING: u32 = 32 << 20;

/// What a line that waits needs besides its text, bytes.
const LINE_ITSELF: usize = 256;

/// Pause until a log that ended is asked for again, and the longest one, when it cannot be read.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(15);

/// Logs are asked for from so long before the line of before: the API server's clock has whole seconds.
const OVERLAP: Duration = Duration::from_secs(2);

/// A line that somebody said.
#[derive(Debug)]
pub(super) struct Line {
    pub speaker: Arc<Speaker>,
    pub text: String,
    /// Its part of [`WAITING`].
    _room: OwnedSemaphorePermit,
}

/// Why logs cannot be read, in words, by who says them.
type Deaf = Arc<Mutex<BTreeMap<NamespacedName, String>>>;

/// Who is listened to, and what they said.
pub(super) struct Hearing {
    client: Client,
    /// What was said before is passed over.
    since: Instant,
    tasks: JoinSet<()>,
    listening: HashMap<Arc<Speaker>, AbortHandle>,
    said: (mpsc::UnboundedSender<Line>, mpsc::UnboundedReceiver<Line>),
    room: Arc<Semaphore>,
    deaf: Deaf,
    /// Whether more was said than there was room for, the last time.
    behind: bool,
}

impl Hearing {
    /// Listens to nobody yet; with a client that is patient with silence.
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            since: Instant::now(),
            tasks: JoinSet::new(),
            listening: HashMap::new(),
            said: mpsc::unbounded_channel(),
            room: Arc::new(Semaphore::new(WAITING as usize)),
            deaf: Deaf::default(),
            behind: false,
        }
    }

    /// Listens to these and no others.
    pub(super) fn listen(&mut self, speakers: &[Speaker]) {
        while self.tasks.try_join_next().is_some() {}
        self.listening.retain(|speaker, task| {
            let stays = speakers.contains(speaker);
            if !stays {
                task.abort();
                heard(&self.deaf, &speaker.pod);
            }
            stays
        });
        for speaker in speakers {
            if !self.listening.contains_key(speaker) {
                let speaker = Arc::new(speaker.clone());
                let listener = Listener {
                    pods: Api::namespaced(self.client.clone(), &speaker.pod.namespace),
                    speaker: speaker.clone(),
                    begin: self.since,
                    said: self.said.0.clone(),
                    room: self.room.clone(),
                    deaf: self.deaf.clone(),
                };
                let task = self.tasks.spawn(listener.listen());
                self.listening.insert(speaker, task);
            }
        }
    }

    /// What was said since the last time.
    pub(super) fn take(&mut self) -> Vec<Line> {
        self.behind = self.room.available_permits() < LINE as usize;
        std::iter::from_fn(|| self.said.1.try_recv().ok()).collect()
    }

    /// What is not heard, in words.
    pub(super) fn notices(&self) -> Vec<String> {
        let behind = "more is logged than can be read: counts and refusals lag behind, and may miss some".to_owned();
        let deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        deaf.values().cloned().chain(self.behind.then_some(behind)).collect()
    }
}

fn heard(deaf: &Deaf, pod: &NamespacedName) {
    deaf.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
}

/// Reads one log to its end again and again, each line once.
struct Listener {
    pods: Api<Pod>,
    speaker: Arc<Speaker>,
    begin: Instant,
    said: mpsc::UnboundedSender<Line>,
    room: Arc<Semaphore>,
    deaf: Deaf,
}

impl Listener {
    async fn listen(self) {
        let (mut mark, mut pause) = (None, AGAIN);
        loop {
            match self.pods.log_stream(&self.speaker.pod.name, &self.params(mark)).await {
                Ok(log) => {
                    heard(&self.deaf, &self.speaker.pod);
                    pause = AGAIN;
                    self.read(log, &mut mark).await;
                }
                // The container does not run, or not any more; who watches pods tells that.
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404) => {}
                Err(error) => {
                    let reason = match &error {
                        kube::Error::Api(status) => status.message.clone(),
                        _ => error.to_string(),
                    };
                    let sentence =
                        format!("the log of pod {} cannot be read, and what it tells is not shown: {reason}", self.speaker.pod);
                    self.deaf.lock().unwrap_or_else(PoisonError::into_inner).insert(self.speaker.pod.clone(), sentence);
                    pause = (pause * 2).min(AGAIN_AT_MOST);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// From where the log is asked for. By how long ago that is, not by the time here, which may be another one than there.
    fn params(&self, mark: Option<Mark>) -> LogParams {
        let overlap = SignedDuration::try_from(OVERLAP).unwrap_or(SignedDuration::ZERO);
        LogParams {
            container: Some(self.speaker.container.clone()),
            follow: true,
            since_time: mark.map(|mark| mark.at.checked_sub(overlap).unwrap_or(mark.at)),
            since_seconds: mark.is_none().then(|| i64::try_from((self.begin.elapsed() + OVERLAP).as_secs()).unwrap_or(i64::MAX)),
            timestamps: true,
            ..LogParams::default()
        }
    }

    async fn read(&self, log: impl AsyncBufRead, mark: &mut Option<Mark>) {
        let mut log = pin!(log);
        let mut known = Known::until(*mark);
        while let Ok(Some(line)) = read_line(&mut log).await {
            let Some((at, text)) = stamped(&line) else { continue };
            if !known.is_new(at) {
                continue;
            }
            *mark = Some(Mark::after(*mark, at));
            // Whoever talks much of other things takes no room.
            if !matters(&self.speaker, text) {
                continue;
            }
            let size = u32::try_from(text.len() + LINE_ITSELF).unwrap_or(WAITING).min(WAITING);
            let Ok(room) = self.room.clone().acquire_many_owned(size).await else { return };
            let line = Line { speaker: self.speaker.clone(), text: text.to_owned(), _room: room };
            if self.said.send(line).is_err() {
                return;
            }
        }
    }
}

/// Whether somebody wants to know this.
fn matters(speaker: &Speaker, text: &str) -> bool {
    if speaker.proxy.is_some() { AccessLine::is_one(text) } else { stats::is_line(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_said_only_what_is_shown_is_kept() {
        let speaker = |proxy: Option<&str>| Speaker {
            pod: NamespacedName::new("shop", "web"),
            uid: "1".into(),
            container: "web".into(),
            proxy: proxy.map(str::to_owned),
        };
        assert!(matters(&speaker(Some("ztunnel/n")), "2026-01-02T03:04:05.1Z access direction=outbound reason=ok"));
        assert!(!matters(&speaker(Some("ztunnel/n")), "2026-01-02T03:04:05.1Z INFO ztunnel: ready"));
        assert!(matters(&speaker(None), "counts {}") && !matters(&speaker(None), "GET /"));
    }
}
