//! Somebody with a cluster: what they run, and what they wait for.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_cluster::Cluster;
use ambit_integration::{suite, tools, wait};
use ambit_testbed::{
    Command,
    wire::{Capture, Report},
};
use anyhow::{Context, ensure};

use crate::load::Load;

/// Packets between the nodes that are enough to say something about them: the demonstration sends some 600 a second.
const ENOUGH: u64 = 3000;

/// Patience with what takes part of a second on a machine that has nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How soon a change has to be seen, seconds: the aim is 1, and what it took is printed; a busy machine may need more.
const SOON: f64 = 10.0;

/// So many answers in a row show that a change has come to stay.
const IN_A_ROW: usize = 20;

/// Pause between two questions by kubectl.
pub const PAUSE: Duration = Duration::from_millis(300);

/// How far the mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Nothing,
    Begun,
    Meshed,
}

/// Somebody with a cluster.
pub struct User<'a> {
    pub cluster: &'a Cluster,
    /// For files. Gone with the cluster.
    pub directory: &'a Path,
    /// The CRDs of the Gateway API.
    pub definitions: &'a [PathBuf],
    pub stage: &'a Cell<Stage>,
    /// The load, once it was started.
    pub load: &'a RefCell<Option<Arc<Load>>>,
    /// Told how far it is.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

impl User<'_> {
    /// Waits until the observer is answered like this and nothing else, and gives how long after `asked` that began, seconds.
    pub async fn settled(&self, what: &str, asked: f64, is: fn(&str) -> bool) -> anyhow::Result<f64> {
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let said = self.cluster.kubectl(&["logs", "-n", "shop", "observer", "--tail=200"]).await.unwrap_or_default();
            let answers = said
                .lines()
                .filter_map(|line| line.split_once(' '))
                .filter_map(|(at, said)| Some((at.parse::<f64>().ok()?, said)));
            let mut after: Vec<(f64, &str)> = answers.filter(|(at, _)| *at > asked).collect();
            let last = after.last().map(|(_, said)| (*said).to_owned());
            let run = after.iter().rev().take_while(|(_, said)| is(said)).count();
            after.drain(..after.len() - run);
            match after.first() {
                Some((at, _)) if run >= IN_A_ROW => Ok(at - asked),
                _ => Err(format!("{run} in a row; the last answer is {last:?}")),
            }
        };
        Ok(wait::until(what, PATIENCE, look).await?.0)
    }

    /// The same for what has to be soon.
    pub async fn soon(&self, what: &str, asked: f64, is: fn(&str) -> bool) -> anyhow::Result<()> {
        let took = self.settled(what, asked, is).await?;
        ensure!(took < SOON, "{what}: only after {took:.2} s");
        (self.tell)(&format!("{what}: {took:.2} s after kubectl was started"));
        Ok(())
    }

    /// Waits until enough has crossed the wire since then, and says what.
    pub async fn crossed(&self, wire: &Capture, since: Report) -> anyhow::Result<Seen> {
        let look = async || {
            let seen = Seen::between(&since, &wire.report()).map_err(|error| error.to_string())?;
            if seen.packets >= ENOUGH { Ok(seen) } else { Err(format!("{seen:?}")) }
        };
        Ok(wait::until("traffic between the nodes", PATIENCE, look).await?.0)
    }

    /// Waits until nothing crosses the wire in clear any more, and gives the moment since when.
    pub async fn encrypted(&self, wire: &Capture) -> anyhow::Result<Report> {
        let began = Instant::now();
        loop {
            let since = wire.report();
            let seen = self.crossed(wire, since.clone()).await?;
            if seen.marker_v4 + seen.marker_v6 == 0 {
                return Ok(since);
            }
            ensure!(began.elapsed() < PATIENCE, "still in clear: {seen:?}");
        }
    }

    /// Applies a document through a file of this name.
    pub async fn apply(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(file);
        std::fs::write(&path, text)?;
        self.cluster.kubectl(&["apply", "-f", &path.display().to_string()]).await?;
        Ok(())
    }

    /// Runs the program where the API server is in reach, and gives what it prints.
    pub async fn ambit(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run(Command::new(suite::program()?).args(arguments)).await
    }

    /// The same with Helm.
    pub async fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(tools::installed("helm")?).args(arguments);
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command = command.env(variable, self.directory.join("helm"));
        }
        self.run(command).await
    }

    async fn run(&self, command: Command) -> anyhow::Result<String> {
        let command = command.env("KUBECONFIG", self.cluster.kubeconfig_inside());
        let what = format!("{command:?}");
        let done = self.cluster.control_plane().run(command).await?;
        ensure!(done.status.success(), "{what} failed: {}{}", done.stdout, done.stderr);
        Ok(done.stdout)
    }

    /// What there is when something went wrong.
    pub async fn state(&self) -> String {
        let mut text = String::new();
        let logs = |name| ["logs", "-n", "istio-system", "-l", name, "--all-containers", "--prefix", "--tail=15"];
        for arguments in [
            &["get", "pods", "--all-namespaces", "-o", "wide"][..],
            &["get", "events", "--all-namespaces", "--field-selector=type=Warning"],
            &logs("app.kubernetes.io/name=istiod-lite"),
            &logs("app.kubernetes.io/name=ambit-node"),
            &logs("app.kubernetes.io/name=ztunnel"),
        ] {
            let said = self.cluster.kubectl(arguments).await.unwrap_or_else(|error| error.to_string());
            text.push_str(&format!("kubectl {}\n{said}\n", arguments.join(" ")));
        }
        text
    }
}

/// What crossed the wire between two moments.
#[derive(Debug)]
pub struct Seen {
    pub packets: u64,
    /// Packets with the demonstration's marker in clear, by family.
    pub marker_v4: u64,
    pub marker_v6: u64,
}

impl Seen {
    pub fn between(before: &Report, after: &Report) -> anyhow::Result<Self> {
        ensure!(after.dropped == before.dropped, "{} packets were not looked at", after.dropped - before.dropped);
        let (old, new) = (before.markers.first().context("no marker")?, after.markers.first().context("no marker")?);
        Ok(Self {
            packets: after.total.packets - before.total.packets,
            marker_v4: new.ipv4 - old.ipv4,
            marker_v6: new.ipv6 - old.ipv6,
        })
    }
}

/// Seconds since the machine started, on the clock that the observer reads.
pub fn uptime() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    text.split_whitespace().next().and_then(|word| word.parse().ok()).context("/proc/uptime says no time")
}
