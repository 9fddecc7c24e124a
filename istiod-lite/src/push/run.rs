//! From the source to the cache: batches are read, coalesced, applied and pushed.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::Pusher;
use crate::{
    error::Error,
    mesh::Mesh,
    source::{Event, Problem, Source},
};

/// Batches that come within this time of the first are pushed together.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// What a source said at one time.
pub struct Batch {
    events: Vec<Event>,
    problems: Arc<Vec<Problem>>,
}

/// Reads a source for ever. Batches wait in the channel while one is being pushed; the source waits when they are many.
///
/// # Errors
/// When the source is lost for good.
pub async fn read(mut source: impl Source, batches: mpsc::Sender<Batch>) -> Result<(), Error> {
    loop {
        let events = source.next().await?;
        if batches.send(Batch { events, problems: source.problems() }).await.is_err() {
            return Ok(());
        }
    }
}

/// Applies batches and pushes what they change, until the reader ends.
pub async fn follow(mesh: Arc<Mesh>, mut pusher: Pusher, mut batches: mpsc::Receiver<Batch>) {
    while let Some(Batch { mut events, mut problems }) = batches.recv().await {
        // The first batch is the whole state: nobody waits for a second one.
        let deadline = Instant::now() + DEBOUNCE;
        while pusher.started()
            && let Ok(Some(more)) = timeout_at(deadline, batches.recv()).await
        {
            events.extend(more.events);
            problems = more.problems;
        }
        for problem in problems.iter().filter(|problem| !mesh.problems().contains(problem)) {
            tracing::warn!(%problem, "the input has a problem");
        }
        mesh.set_problems(problems);
        pusher.apply(&mesh, events);
        mesh.advance();
    }
}
