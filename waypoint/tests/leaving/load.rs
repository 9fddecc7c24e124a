//! Sessions of every kind, back to back, and what became of each.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{LocalBoxFuture, join_all},
};

use super::sessions::{Clients, Said};

/// How many clients of a kind there are.
const OF_A_KIND: usize = 2;

/// What became of a session.
#[derive(Debug)]
pub struct Outcome {
    pub what: &'static str,
    pub begun: Instant,
    pub ended: Instant,
    pub said: Said,
}

/// Sessions until it is told to end.
#[derive(Default)]
pub struct Load {
    pub outcomes: RefCell<Vec<Outcome>>,
    over: Cell<bool>,
}

impl Load {
    /// No session begins any more.
    pub fn end(&self) {
        self.over.set(true);
    }

    /// Completes when it was told to end, and all sessions have.
    pub async fn run(&self, clients: &Clients<'_>) {
        let mut all = Vec::new();
        for _ in 0..OF_A_KIND {
            let mut kept = None;
            all.push(self.again("HTTP/2", async move || {
                tokio::time::sleep(Duration::from_millis(10)).await;
                clients.unary(&mut kept).await
            }));
            all.push(self.again("stream", async move || clients.call().await));
            all.push(self.again("upload", async move || clients.upload().await));
            all.push(self.again("download", async move || clients.download().await));
            all.push(self.again("WebSocket", async move || clients.websocket().await));
        }
        join_all(all).await;
    }

    fn again<'a>(&'a self, what: &'static str, mut session: impl AsyncFnMut() -> Said + 'a) -> LocalBoxFuture<'a, ()> {
        async move {
            while !self.over.get() {
                let begun = Instant::now();
                let said = session().await;
                let failed = said.is_err();
                self.outcomes.borrow_mut().push(Outcome { what, begun, ended: Instant::now(), said });
                if failed {
                    // So that one that fails at once is not all that there is.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        .boxed_local()
    }
}
