//! Looks at a mesh again and again, and shows what it sees until the time is over.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::report::Report;
use super::screen::Screen;
use super::shown::Shown;
use super::table::Scene;
use super::{UpArgs, Watched};
use crate::local::edges::RefusalSeen;
use crate::local::{Observer, Totals};

/// Pause between two drawings on a terminal.
const DRAW: Duration = Duration::from_secs(1);

/// Pause between two tables where the output is not a terminal.
const PRINT: Duration = Duration::from_secs(5);

/// Time over which rates and latencies of the table are measured.
const WINDOW: Duration = Duration::from_secs(5);

/// Time for which the table shows a refusal.
const REFUSAL: Duration = Duration::from_secs(60);

/// The view of one mesh.
pub(super) struct Viewer<'a, M> {
    json: bool,
    watched: &'a Watched,
    mesh: &'a M,
    observer: Observer,
    history: Vec<(Instant, Totals)>,
    screen: Option<Screen>,
    began: Instant,
    printed: Instant,
}

impl<'a, M: Shown> Viewer<'a, M> {
    /// A view that nothing was seen with yet. On a terminal it takes the whole screen from now on.
    pub(super) fn new(args: &UpArgs, watched: &'a Watched, mesh: &'a M) -> Self {
        let screen = (!args.json && std::io::stdout().is_terminal()).then(Screen::open);
        let (observer, history, began) = (Observer::default(), Vec::new(), Instant::now());
        Self { json: args.json, watched, mesh, observer, history, screen, began, printed: began }
    }

    /// Shows the mesh, which is ready after `ready`, for this time or until nobody waits any more, and gives what the whole of it was.
    pub(super) async fn show(&mut self, duration: Option<Duration>, ready: Duration) -> Report {
        self.begin().await;
        let end = duration.map(|duration| Instant::now() + duration);
        loop {
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() || crate::print::is_unread() {
                break;
            }
            tokio::time::sleep(DRAW.min(left)).await;
            self.draw(end.is_some_and(|end| Instant::now() >= end)).await;
        }
        self.mesh.look(&mut self.observer).await;
        Report::of(self.mesh, self.observer.edges(), ready, self.began.elapsed()).await
    }

    /// Begins to count: what was before everything was ready is the start's business.
    async fn begin(&mut self) {
        self.mesh.look(&mut self.observer).await;
        self.observer.reset();
        self.began = Instant::now();
        self.history = vec![(self.began, self.observer.totals())];
    }

    /// Looks, and shows: on a terminal each time, elsewhere now and then and the `last` time.
    async fn draw(&mut self, last: bool) {
        self.mesh.look(&mut self.observer).await;
        let now = Instant::now();
        self.history.push((now, self.observer.totals()));
        let fresh = self.history.iter().position(|(at, _)| now.duration_since(*at) <= WINDOW).unwrap_or(0);
        self.history.drain(..fresh.saturating_sub(1));
        if self.json || (self.screen.is_none() && !last && self.printed.elapsed() < PRINT) {
            return;
        }
        self.printed = now;
        let Some((since, before)) = self.history.first() else { return };
        let mut edges = self.observer.edges_since(before);
        let old = |refusal: &RefusalSeen| refusal.read.elapsed() > REFUSAL;
        edges.iter_mut().for_each(|edge| edge.refusal = edge.refusal.take().filter(|refusal| !old(refusal)));
        let mut notices = self.mesh.notices().await;
        notices.extend(self.mesh.deaths());
        let scene = Scene {
            edges: &edges,
            window: now.duration_since(*since),
            running: self.began.elapsed(),
            wire: self.mesh.wire().await,
            notices: &notices,
            directory: &self.watched.path,
            demo: self.watched.demo,
            kill_control_plane: self.mesh.kill_control_plane(),
        };
        match &mut self.screen {
            Some(screen) => screen.show(|width| scene.draw(width)),
            None => println!("{}", scene.draw(usize::MAX)),
        }
    }
}
