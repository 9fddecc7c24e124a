//! From the source to the cache: batches are read, coalesced, applied and pushed.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::Pusher;
use crate::{
    error::Error,
    jwks::News,
    mesh::Mesh,
    source::{Event, Problem, Source},
};

/// The least time between two pushes: batches that come within it of the last push are pushed together, and one that comes alone at once.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// Events after which no more are waited for, so that a source that never pauses does not hold everything up.
const MOST: usize = 1 << 12;

/// What a source said at one time, or the fetcher of keys.
pub struct Batch {
    events: Vec<Event>,
    /// Of keys that are fetched.
    news: Vec<News>,
    /// What is wrong with the input now; `None` where that was not looked at.
    problems: Option<Arc<Vec<Problem>>>,
}

impl Batch {
    /// What was learned of keys, beside the source.
    pub(crate) fn of_keys(news: Vec<News>) -> Self {
        Self { events: Vec::new(), news, problems: None }
    }
}

/// Reads a source for ever. Batches wait in the channel while one is being pushed; the source waits when they are many.
///
/// # Errors
/// When the source is lost for good.
pub async fn read(mut source: impl Source, batches: mpsc::Sender<Batch>) -> Result<(), Error> {
    loop {
        let events = source.next().await?;
        if batches.send(Batch { events, news: Vec::new(), problems: Some(source.problems()) }).await.is_err() {
            return Ok(());
        }
    }
}

/// Applies batches and pushes what they change, until the reader ends. What gRPC clients see is made beside that.
pub async fn follow(mesh: Arc<Mesh>, pusher: Pusher, batches: mpsc::Receiver<Batch>) {
    let clients = pusher.clients();
    tokio::select! {
        () = push(&mesh, &pusher, batches) => {}
        () = clients.keep(&mesh) => {}
    }
}

async fn push(mesh: &Mesh, pusher: &Pusher, mut batches: mpsc::Receiver<Batch>) {
    // The first batch is the whole state: nobody waits for a second one.
    let mut earliest = None;
    while let Some(Batch { mut events, mut news, mut problems }) = batches.recv().await {
        // What is there already goes along even if the time is over.
        while let Some(earliest) = earliest
            && events.len() < MOST
            && let Ok(Some(more)) = timeout_at(earliest, batches.recv()).await
        {
            events.extend(more.events);
            news.extend(more.news);
            problems = more.problems.or(problems);
        }
        if let Some(problems) = problems {
            for problem in problems.iter().filter(|problem| !mesh.problems().contains(problem)) {
                tracing::warn!(%problem, "the input has a problem");
            }
            mesh.set_problems(problems);
        }
        pusher.apply_with(mesh, events, news);
        mesh.advance();
        earliest = Some(Instant::now() + DEBOUNCE);
    }
}
