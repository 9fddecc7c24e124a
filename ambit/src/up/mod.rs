//! `ambit up`: start a mesh on this machine, show it, report on it, and leave nothing behind.

mod args;
mod demo_files;
mod report;
mod screen;
mod table;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use args::UpArgs;
pub(crate) use args::duration;
pub use report::Report;

use ambit_testbed::Families;

use crate::error::{Error, Result};
use crate::local::edges::RefusalSeen;
use crate::local::{LocalMesh, LocalOptions, Observer, Totals};
use screen::Screen;
use table::Scene;

/// Pause between two drawings on a terminal.
const DRAW: Duration = Duration::from_secs(1);

/// Pause between two tables where the output is not a terminal.
const PRINT: Duration = Duration::from_secs(5);

/// Time over which rates and latencies of the table are measured.
const WINDOW: Duration = Duration::from_secs(5);

/// Time for which the table shows a refusal.
const REFUSAL: Duration = Duration::from_secs(60);

/// Time after which everything must have stopped.
const STOP: Duration = Duration::from_millis(2500);

/// Where the demonstration's files are when nobody is to keep them: in the bed's own `/run`, which is memory and gone with it however
/// it ends.
const UNKEPT: &str = "/run/ambit-demo";

/// Runs `ambit up` to its end. The caller has started no thread yet.
///
/// # Errors
/// If the mesh cannot be started; the message says what is missing and how to get it.
pub fn run(args: UpArgs) -> Result<()> {
    let directory = directory(&args)?;
    ambit_testbed::bed::enter().map_err(|error| Error::part("a private place for nodes and pods cannot be made", error))?;
    if directory.demo {
        demo_files::copy_to(&directory.path)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::io("starting the runtime", cause))?;
    let outcome = runtime.block_on(session(&args, &directory));
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// The directory to watch.
struct Watched {
    path: PathBuf,
    /// Whether the demonstration's files belong into it.
    demo: bool,
}

fn directory(args: &UpArgs) -> Result<Watched> {
    if let Some(path) = &args.manifests {
        if !path.is_dir() {
            return Err(Error::Invalid(format!("{} is not a directory", path.display())));
        }
        return Ok(Watched { path: path.clone(), demo: false });
    }
    let unnamed = || PathBuf::from(if args.json { UNKEPT } else { "ambit-demo" });
    Ok(Watched { path: args.dir.clone().unwrap_or_else(unnamed), demo: true })
}

async fn session(args: &UpArgs, watched: &Watched) -> Result<()> {
    let stop = ambit_runtime::signal::shutdown().map_err(|error| Error::part("waiting for signals", error))?;
    tokio::pin!(stop);
    let families = if args.ipv6_only { Families::Ipv6 } else { Families::Dual };
    let options = LocalOptions { waypoint: args.waypoint, logs: args.logs.clone(), families, ..LocalOptions::new(&watched.path) };
    if !args.json {
        println!("Ambit starts the mesh of {} ...", watched.path.display());
    }
    let mesh = tokio::select! {
        mesh = LocalMesh::start(options) => mesh?,
        // What has been started ends with this process.
        _signal = &mut stop => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = show(args, watched, &mesh) => outcome,
        _signal = &mut stop => Ok(None),
    };
    if !args.json {
        println!("stopping ...");
    }
    let _late = tokio::time::timeout(STOP, mesh.stop()).await;
    if let Some(report) = outcome? {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Error::part("writing the report", error))?;
        println!("{text}");
    }
    Ok(())
}

/// Waits until the mesh is ready, then shows it until the time is over.
async fn show(args: &UpArgs, watched: &Watched, mesh: &LocalMesh) -> Result<Option<Report>> {
    let progress = |waits_for: &str| {
        if !args.json {
            println!("  {:>5.1} s  waiting for {waits_for}", mesh.began().elapsed().as_secs_f64());
        }
    };
    let ready = mesh.wait_ready(args.patience, progress).await?;
    if !args.json {
        println!("  {:>5.1} s  ready", ready.as_secs_f64());
    }
    let mut viewer = Viewer::new(args, watched, mesh);
    viewer.begin().await;
    let end = args.duration.map(|duration| Instant::now() + duration);
    loop {
        let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            break;
        }
        tokio::time::sleep(DRAW.min(left)).await;
        viewer.draw(end.is_some_and(|end| Instant::now() >= end)).await;
    }
    let report = viewer.report(ready).await;
    Ok(args.json.then_some(report))
}

/// Looks at the mesh again and again, and shows what it sees.
struct Viewer<'a> {
    json: bool,
    watched: &'a Watched,
    mesh: &'a LocalMesh,
    observer: Observer,
    history: Vec<(Instant, Totals)>,
    screen: Option<Screen>,
    began: Instant,
    printed: Instant,
}

impl<'a> Viewer<'a> {
    fn new(args: &UpArgs, watched: &'a Watched, mesh: &'a LocalMesh) -> Self {
        let screen = (!args.json && std::io::stdout().is_terminal()).then(Screen::open);
        let (observer, history, began) = (Observer::default(), Vec::new(), Instant::now());
        Self { json: args.json, watched, mesh, observer, history, screen, began, printed: began }
    }

    /// Begins to count: what was before everything was ready is the start's business.
    async fn begin(&mut self) {
        self.observer.look(self.mesh).await;
        self.observer.reset();
        self.began = Instant::now();
        self.history = vec![(self.began, self.observer.totals())];
    }

    /// Looks, and shows: on a terminal each time, elsewhere now and then and the `last` time.
    async fn draw(&mut self, last: bool) {
        self.observer.look(self.mesh).await;
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
        let notices = self.notices().await;
        let scene = Scene {
            edges: &edges,
            window: now.duration_since(*since),
            running: self.began.elapsed(),
            wire: self.mesh.wire(),
            notices: &notices,
            directory: &self.watched.path,
            demo: self.watched.demo,
            kill_control_plane: format!("pkill -9 -f 'istiod --source-dir {}'", self.mesh.manifests().display()),
        };
        match &mut self.screen {
            Some(screen) => screen.show(|width| scene.draw(width)),
            None => println!("{}", scene.draw(usize::MAX)),
        }
    }

    /// What is wrong: with the files as the control plane reads them, with what the objects refer to, with pods, with processes that died.
    async fn notices(&self) -> Vec<String> {
        let mut notices: Vec<String> = self.mesh.problems().iter().map(ToString::to_string).collect();
        notices.extend(self.mesh.notices());
        notices.extend(self.mesh.unmet().await);
        for (name, process) in self.mesh.processes() {
            let state = process.state();
            if let (None, Some(end)) = (state.pid, state.last_end) {
                notices.push(format!("{name} is down: {end}"));
            } else if state.restarts > 0 {
                notices.push(format!("{name} was started again {} times", state.restarts));
            }
        }
        notices
    }

    async fn report(&mut self, ready: Duration) -> Report {
        let topology = self.mesh.topology().borrow().clone();
        self.observer.look(self.mesh).await;
        let mut report = Report::of(self.mesh, &topology, self.observer.edges(), ready, self.began.elapsed());
        report.notices.extend(self.mesh.unmet().await);
        report
    }
}
