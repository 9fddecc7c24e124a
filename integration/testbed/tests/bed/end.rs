//! However a bed ends, nothing is left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ambit_testbed::{Bed, BedConfig, Output, PodSpec};
use anyhow::{Context, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{network, test};

/// First argument that makes this program hold a bed instead of testing; the second says how it is to end.
const HOLD: &str = "--hold-a-bed";
/// An environment variable by which all processes of a held bed are found.
const TAG: &str = "AMBIT_TESTBED_TAG";
const NOBODY: u32 = 65534;

/// Which process of the held bed is signalled.
#[derive(Clone, Copy, Debug)]
enum Target {
    Parent,
    /// The process with this id in the innermost pid namespace: 1 is its init, 2 the program.
    Inside(u32),
}

pub fn tests() -> Vec<Trial> {
    let ordinary_user = [
        test("an_ordinary_user_can_make_a_bed_and_kill_9_leaves_nothing", async || {
            ended("wait", true, kill_9(Target::Parent), None)
        }),
        test("a_machine_that_refuses_namespaces_is_told_how_to_allow_them", async || refused()),
    ];
    // The suite may itself be run by an ordinary user, who cannot become another.
    let cannot = !can_be_nobody();
    let mut tests = vec![
        test("kill_9_of_the_parent_leaves_nothing", async || ended("wait", false, kill_9(Target::Parent), None)),
        test("kill_9_of_the_init_leaves_nothing", async || ended("wait", false, kill_9(Target::Inside(1)), Some(137))),
        test("kill_9_of_the_program_leaves_nothing", async || ended("wait", false, kill_9(Target::Inside(2)), Some(137))),
        test("a_panic_leaves_nothing", async || ended("panic", false, None, Some(101))),
        test("an_ordinary_exit_leaves_nothing_and_returns_its_code", async || ended("exit", false, None, Some(7))),
        test("sigterm_to_the_parent_reaches_the_program", async || {
            ended("wait", false, Some((Target::Parent, Signal::SIGTERM)), Some(42))
        }),
    ];
    tests.extend(ordinary_user.map(|test| test.with_ignored_flag(cannot)));
    tests
}

type Blow = (Target, Signal);

fn kill_9(target: Target) -> Option<Blow> {
    Some((target, Signal::SIGKILL))
}

/// Runs a bed in a process of its own, ends it by `signal` (or lets it end), and checks its exit code and that all is gone.
fn ended(how: &str, as_nobody: bool, signal: Option<Blow>, code: Option<i32>) -> anyhow::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let tag = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut child = hold(how, &tag, as_nobody)?;
    let outcome = observe(&mut child, &tag, signal, code);
    let _ = child.kill();
    let _ = child.wait();
    outcome
}

/// In a user namespace that may have no more network namespaces, a second bed must say why it cannot be.
fn refused() -> anyhow::Result<()> {
    let output = hold("refuse", "refuse", true)?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.contains("how to get it") && text.contains("user.max_net_namespaces"), "{text}");
    Ok(())
}

fn observe(child: &mut Child, tag: &str, signal: Option<Blow>, code: Option<i32>) -> anyhow::Result<()> {
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let ready = lines.next().context("the held bed ended before it was ready")??;
    ensure!(ready == "ready", "{ready}");
    let before = tagged(tag)?;
    // The waiting parent, process 1 of the namespace, the program, and the sleepers in node and pod.
    ensure!(before.len() >= 5, "only {before:?}");
    // Reading the network namespace of a process of another user is not allowed.
    let namespaces: Vec<_> = before.iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok()).collect();
    ensure!(namespaces.len() == before.len());
    match signal {
        Some((Target::Parent, signal)) => kill(Pid::from_raw(child.id().try_into()?), signal)?,
        Some((Target::Inside(inner), signal)) => kill(Pid::from_raw(outer_pid(&before, inner)?.try_into()?), signal)?,
        None => drop(child.stdin.take()),
    }
    let status = child.wait()?;
    match code {
        Some(code) => ensure!(status.code() == Some(code), "{status}"),
        None => ensure!(status.signal() == signal.map(|(_, signal)| signal as i32), "{status}"),
    }
    let patience = Instant::now() + Duration::from_secs(3);
    loop {
        let left = tagged(tag)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > patience {
            bail!("these are left: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes (zombies have no environment any more) of the bed with this tag.
fn tagged(tag: &str) -> anyhow::Result<Vec<u32>> {
    let wanted = format!("{TAG}={tag}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A copy of this program in memory of our own, where another user may read it wherever the build directory lies.
const COPY: &str = "/run/bed-test";

/// Makes the copy. Before any thread starts: a child forked meanwhile would inherit the file open for writing, and then it cannot be
/// executed ("text file busy").
pub fn prepare() -> std::io::Result<()> {
    fs::copy("/proc/self/exe", COPY)?;
    fs::set_permissions(COPY, fs::Permissions::from_mode(0o755))
}

/// The id here of the process that has this id in the innermost pid namespace of the held bed.
fn outer_pid(candidates: &[u32], inner: u32) -> anyhow::Result<u32> {
    let found = candidates.iter().copied().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ids: Vec<_> =
            status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default().split_whitespace().collect();
        ids.len() > 1 && ids.last().is_some_and(|last| *last == inner.to_string())
    });
    found.with_context(|| format!("no process {inner} in the held bed"))
}

fn hold(how: &str, tag: &str, as_nobody: bool) -> anyhow::Result<Child> {
    let mut command = Command::new(COPY);
    command.args([HOLD, how]).env(TAG, tag).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    if how == "panic" {
        command.stderr(Stdio::null());
    }
    if as_nobody {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.spawn().context("start a bed in a process of its own")
}

/// Whether this user namespace has that user at all.
fn can_be_nobody() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let length = map.split_whitespace().nth(2).and_then(|length| length.parse::<u64>().ok());
        length.is_some_and(|length| length > u64::from(NOBODY))
    })
}

/// The held bed itself, when the arguments ask for it.
pub fn held_program() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let how = arguments.next().filter(|first| first == HOLD).and_then(|_| arguments.next())?;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    Some(ExitCode::from(runtime.block_on(held(&how)).expect("a bed")))
}

/// Forbids further network namespaces in this user namespace (which is the bed's own), then tries to make a bed inside.
fn hold_in_vain() -> anyhow::Result<u8> {
    fs::write("/proc/sys/user/max_net_namespaces", "0")?;
    let output = Command::new("/proc/self/exe").args([HOLD, "exit"]).stdin(Stdio::null()).output()?;
    println!("{}", String::from_utf8_lossy(&output.stderr));
    Ok(u8::from(output.status.code() != Some(1)))
}

async fn held(how: &str) -> anyhow::Result<u8> {
    if how == "refuse" {
        return hold_in_vain();
    }
    let bed = Bed::new(BedConfig::default()).await?;
    let one = bed.add_node("node-1").await?;
    let two = bed.add_node("node-2").await?;
    let (client, server) = (one.add_pod(PodSpec::new("a", "client")).await?, two.add_pod(PodSpec::new("a", "server")).await?);
    for ip in server.ips() {
        let address = network::serve(&server, ip, 80, "held")?;
        client.connect(address).await?;
    }
    // One that ignores signals, and one whose parent goes first, so that process 1 has to reap it.
    let sleep = |script: &str| ambit_testbed::Command::new("sh").args(["-c", script]).output(Output::Null);
    one.spawn(sleep("trap '' INT TERM HUP; sleep 1000"))?;
    server.spawn(sleep("sleep 1000 & exit 0"))?.wait().await;
    let shutdown = ambit_runtime::signal::shutdown()?;
    println!("ready");
    match how {
        "wait" => {
            let signal = shutdown.await;
            Ok(if signal == ambit_runtime::signal::Shutdown::Terminate { 42 } else { 43 })
        }
        "panic" => {
            end_of_input();
            panic!("on purpose")
        }
        _ => {
            end_of_input();
            Ok(7)
        }
    }
}

fn end_of_input() {
    let _ = std::io::stdin().lines().count();
}
