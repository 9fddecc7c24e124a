//! `ambit cluster` as a user runs it: up in the background, reached from this machine, given the image of Ambit, down, and nothing left.

#[path = "common/left.rs"]
mod left;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ambit_cluster::image::Image;
use ambit_integration::{run_here, suite, test};
use anyhow::{Context, bail, ensure};

/// A pod of the image of Ambit, which is to say its version and end, and one of an image that was loaded.
const PODS: &str = concat!(
    r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ambit"}, "spec": {"restartPolicy": "Never",
    "containers": [{"name": "ambit", "image": "ghcr.io/ambit-mesh/ambit:"#,
    env!("CARGO_PKG_VERSION"),
    r#"", "args": ["--version"]}]}}
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "small"}, "spec": {"restartPolicy": "Never",
    "containers": [{"name": "small", "image": "test.local/small:1", "imagePullPolicy": "Never", "args": ["echo", "loaded"]}]}}"#
);

/// Generous, since builds may go on beside it.
const PATIENCE: Duration = Duration::from_secs(300);

/// A process that is not left behind.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn main() -> ExitCode {
    run_here(vec![
        test(
            "a cluster in the background is reached from here, runs the image of Ambit, and leaves nothing when it is taken down",
            whole_life,
        ),
        test("of a cluster that does not run nothing is said to be there", no_cluster),
        test("a cluster in the foreground ends when nobody reads what it says any more, and leaves nothing", async || unread()),
    ])
}

/// Runs the program with these arguments and waits for its end, patiently.
async fn ambit(arguments: &[&str]) -> anyhow::Result<Output> {
    let (program, arguments) = (suite::program()?, arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let run = move || Command::new(program).args(arguments).output();
    Ok(tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(run)).await???)
}

async fn succeeds(arguments: &[&str]) -> anyhow::Result<String> {
    let output = ambit(arguments).await?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(output.status.success(), "ambit {arguments:?} failed: {said:?}");
    Ok(said[0].clone())
}

async fn no_cluster() -> anyhow::Result<()> {
    let name = format!("none-{}", std::process::id());
    let down = succeeds(&["cluster", "down", "--name", &name]).await?;
    ensure!(down.contains("no cluster named"), "{down}");
    let status = ambit(&["cluster", "status", "--name", &name]).await?;
    let said = String::from_utf8_lossy(&status.stderr);
    ensure!(!status.status.success() && said.contains("ambit cluster up --name"), "{said}");
    Ok(())
}

fn unread() -> anyhow::Result<()> {
    let name = format!("unread-{}", std::process::id());
    let mut command = Command::new(suite::program()?);
    command.args(["cluster", "up", "--bare", "--nodes", "1", "--name", &name]);
    let mut child = Guarded(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    let mut said = BufReader::new(child.0.stdout.take().context("no output")?);
    let (heard, hears) = mpsc::channel();
    // Until one part runs; then nobody reads any more.
    std::thread::spawn(move || {
        let mut line = String::new();
        while !line.contains(" s  ") {
            line.clear();
            if said.read_line(&mut line).unwrap_or(0) == 0 {
                return heard.send(false);
            }
        }
        drop(said);
        heard.send(true)
    });
    ensure!(hears.recv_timeout(PATIENCE).context("it says nothing")?, "it ended by itself");
    let began = Instant::now();
    let status = loop {
        match child.0.try_wait()? {
            Some(status) => break status,
            None if began.elapsed() > PATIENCE => bail!("it goes on, though nobody reads what it says"),
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    let mut errors = String::new();
    child.0.stderr.take().context("no errors")?.read_to_string(&mut errors)?;
    ensure!(status.success() && errors.contains("nobody reads"), "{status}: {errors}");
    let left = left::left_of(&name)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

async fn whole_life() -> anyhow::Result<()> {
    let name = format!("life-{}", std::process::id());
    let up = succeeds(&["cluster", "up", "--background", "--nodes", "1", "--for", "10m", "--name", &name]).await?;
    let tried = while_it_runs(&name, &up).await;
    let began = Instant::now();
    let down = succeeds(&["cluster", "down", "--name", &name]).await?;
    eprintln!("down after {:.1} s", began.elapsed().as_secs_f64());
    tried?;
    ensure!(down.contains("is gone"), "{down}");
    let left = left::left_of(&name)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

async fn while_it_runs(name: &str, up: &str) -> anyhow::Result<()> {
    let again = ambit(&["cluster", "up", "--name", name]).await?;
    let refused = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(!again.status.success() && refused.contains("runs already"), "{refused}");

    let status: serde_json::Value = serde_json::from_str(&succeeds(&["cluster", "status", "--json", "--name", name]).await?)?;
    ensure!(status["dns"] == true && status["nodes"][0]["ready"] == true, "{status}");

    let directory = tempfile::tempdir()?;
    let archive = directory.path().join("small.tar");
    let busybox = ambit_cluster::programs::system("busybox", "busybox-static")?;
    let entrypoint = vec!["/busybox".to_owned()];
    let image = Image { name: "test.local/small:1".to_owned(), entrypoint, ..Image::default() };
    image.program("busybox", busybox).write(&archive)?;
    let loaded = succeeds(&["cluster", "load", &archive.display().to_string(), "--name", name]).await?;
    ensure!(loaded.contains("test.local/small:1"), "{loaded}");

    let word = |after: &str| up.lines().find_map(|line| line.trim().strip_prefix(after)).context("the way in is not printed");
    let kubeconfig = PathBuf::from(word("export KUBECONFIG=")?);
    let kubectl =
        up.lines().find_map(|line| line.trim().strip_suffix(" get pods --all-namespaces")).context("kubectl is not printed")?;
    let pods = directory.path().join("pods.json");
    std::fs::write(&pods, PODS)?;
    let kubectl = async |arguments: &[&str]| kubectl_says(kubectl, &kubeconfig, arguments).await;
    kubectl(&["apply", "-f", &pods.display().to_string()]).await?;
    for (pod, says) in [("ambit", "ambit "), ("small", "loaded")] {
        let ended = ["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s", "pod", pod];
        kubectl(&ended).await?;
        let said = kubectl(&["logs", pod]).await?;
        ensure!(said.starts_with(says), "{pod}: {said}");
    }
    Ok(())
}

async fn kubectl_says(kubectl: &str, kubeconfig: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(kubectl);
    command.args(arguments).env("KUBECONFIG", kubeconfig);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
