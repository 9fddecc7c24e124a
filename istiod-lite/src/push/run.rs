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

/// The least time between two pushes: batches that come within it of the last push are pushed together, and one that comes alone at once.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// Events after which no more are waited for, so that a source that never pauses does not hold everything up.
const MOST: usize = 1 << 12;

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
    while let Some(Batch { mut events, mut problems }) = batches.recv().await {
        // What is there already goes along even if the time is over.
        while let Some(earliest) = earliest
            && events.len() < MOST
            && let Ok(Some(more)) = timeout_at(earliest, batches.recv()).await
        {
            events.extend(more.events);
            problems = more.problems;
        }
        for problem in problems.iter().filter(|problem| !mesh.problems().contains(problem)) {
            tracing::warn!(%problem, "the input has a problem");
        }
        mesh.set_problems(problems);
        pusher.apply(mesh, events);
        mesh.advance();
        earliest = Some(Instant::now() + DEBOUNCE);
    }
}
