//! What containers say, read from their logs through the API server as they say it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::LogParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::scene::Speaker;

/// Longest line that is read, bytes; the rest of a longer one is passed over.
const LINE: u64 = 1 << 20;

/// Lines that wait to be taken; more are not read meanwhile.
const WAITING: usize = 4096;

/// Pause until a log that ended is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Logs are asked for from so long before the line of before: the API server's clock has whole seconds.
const OVERLAP: SignedDuration = SignedDuration::from_secs(2);

/// A line that somebody said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub speaker: Arc<Speaker>,
    pub text: String,
}

/// Who is listened to, and what they said.
pub(super) struct Hearing {
    client: Client,
    /// What was said before is passed over.
    since: Timestamp,
    tasks: JoinSet<()>,
    listening: HashMap<Arc<Speaker>, AbortHandle>,
    said: (mpsc::Sender<Line>, mpsc::Receiver<Line>),
}

impl Hearing {
    /// Listens to nobody yet; with a client that is patient with silence.
    pub(super) fn new(client: Client) -> Self {
        let (tasks, listening, said) = (JoinSet::new(), HashMap::new(), mpsc::channel(WAITING));
        Self { client, since: Timestamp::now(), tasks, listening, said }
    }

    /// Listens to these and no others.
    pub(super) fn listen(&mut self, speakers: &[Speaker]) {
        while self.tasks.try_join_next().is_some() {}
        self.listening.retain(|speaker, task| {
            let stays = speakers.contains(speaker);
            if !stays {
                task.abort();
            }
            stays
        });
        for speaker in speakers {
            if !self.listening.contains_key(speaker) {
                let speaker = Arc::new(speaker.clone());
                let pods = Api::namespaced(self.client.clone(), &speaker.pod.namespace);
                let task = self.tasks.spawn(listen(pods, speaker.clone(), self.since, self.said.0.clone()));
                self.listening.insert(speaker, task);
            }
        }
    }

    /// What was said since the last time, at most as much as can wait.
    pub(super) fn take(&mut self) -> Vec<Line> {
        std::iter::from_fn(|| self.said.1.try_recv().ok()).take(WAITING).collect()
    }
}

/// Reads a log to its end again and again, each line once.
async fn listen(pods: Api<Pod>, speaker: Arc<Speaker>, begin: Timestamp, said: mpsc::Sender<Line>) {
    let mut last = begin;
    loop {
        let params = LogParams {
            container: Some(speaker.container.clone()),
            follow: true,
            since_time: Some(last.checked_sub(OVERLAP).unwrap_or(last)),
            timestamps: true,
            ..LogParams::default()
        };
        if let Ok(log) = pods.log_stream(&speaker.pod.name, &params).await {
            let mut log = pin!(log);
            while let Ok(Some(line)) = read_line(&mut log).await {
                let Some((at, text)) = stamped(&line) else { continue };
                if at <= last {
                    continue;
                }
                last = at;
                if said.send(Line { speaker: speaker.clone(), text: text.to_owned() }).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// When a line was said, and the line.
fn stamped(line: &str) -> Option<(Timestamp, &str)> {
    let (at, text) = line.split_once(' ')?;
    Some((at.parse().ok()?, text))
}

/// The next line, cut at [`LINE`]; nothing at the end. Bytes that are no text are replaced.
async fn read_line(log: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    (&mut *log).take(LINE).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        // Too long, or the last one: what follows until the next line belongs to it.
        let mut rest = Vec::new();
        while (&mut *log).take(LINE).read_until(b'\n', &mut rest).await? > 0 && rest.last() != Some(&b'\n') {
            rest.clear();
        }
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_one_by_one_and_a_line_without_end_is_cut() {
        let long = "x".repeat(3 << 20);
        let text = format!("one\n{long}\nthree");
        let mut log = futures::io::Cursor::new(text.into_bytes());
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut log).await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [3, 1 << 20, 5]);
        assert_eq!((lines[0].as_str(), lines[2].as_str()), ("one", "three"));
    }

    #[test]
    fn the_time_of_a_line_is_read_as_the_runtime_writes_it() {
        let (zulu, text) = stamped("2026-01-02T03:04:05.123456789Z 2026-01-02T03:04:05.1Z access a=b").unwrap();
        assert_eq!(text, "2026-01-02T03:04:05.1Z access a=b");
        assert_eq!(stamped("2026-01-02T04:04:05.123456789+01:00 x").unwrap().0, zulu);
        assert!(stamped("no time").is_none() && stamped("").is_none());
    }
}
