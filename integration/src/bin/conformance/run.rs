//! On the cluster: Ambit installed, then the suite.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_cluster::Cluster;
use ambit_testbed::{Command, Output};
use anyhow::{Context, bail, ensure};

use crate::Options;
use crate::build::Built;

/// The time that the suite gets for one run.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// Whose the report is.
const OWNER: [&str; 5] = [
    "--organization=ambit-mesh",
    "--project=ambit",
    "--url=https://github.com/ambit-mesh/ambit",
    "--contact=https://github.com/ambit-mesh/ambit/issues",
    concat!("--version=v", env!("CARGO_PKG_VERSION")),
];

/// A run of the suite, once or several times, on a cluster.
pub struct Run<'a> {
    pub cluster: &'a Cluster,
    /// For files. Gone with the cluster.
    pub directory: &'a Path,
    pub built: &'a Built,
    pub report: &'a Path,
    pub options: &'a Options,
    /// Told how far it is.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

impl Run<'_> {
    /// All of it, on a cluster that has nothing yet.
    pub async fn whole(&self, definitions: &[PathBuf]) -> anyhow::Result<()> {
        self.install(definitions).await?;
        let log = self.report.with_extension("log");
        std::fs::write(&log, "").with_context(|| format!("writing {}", log.display()))?;
        for time in 1..=self.options.repeat {
            (self.tell)(&format!("the suite, {time} of {}", self.options.repeat));
            self.suite(&log).await?;
        }
        (self.tell)("the suite passed");
        if self.options.changes {
            self.tests(&["-test.run=^TestChanges$".to_owned()], &log).await?;
        }
        if self.options.test.is_none() {
            println!("the report is in {}, the suite's log in {}", self.report.display(), log.display());
        }
        Ok(())
    }

    async fn install(&self, definitions: &[PathBuf]) -> anyhow::Result<()> {
        for file in definitions {
            self.cluster.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]).await?;
        }
        let archive = self.directory.join("image.tar");
        self.ambit(&["image", "--output", &archive.display().to_string()]).await?;
        self.cluster.load(&archive).await?;
        tokio::task::block_in_place(|| self.built.image.write(&archive))?;
        self.cluster.load(&archive).await?;
        std::fs::remove_file(&archive)?;
        (self.tell)("the images are on the nodes");
        self.ambit(&["install", "--wait"]).await?;
        (self.tell)("ambit install --wait");
        Ok(())
    }

    /// The suite, and the tests of ours that look closer.
    async fn suite(&self, log: &Path) -> anyhow::Result<()> {
        let mut arguments = vec!["-test.run=^Test(Mesh|Stricter)$".to_owned()];
        match &self.options.test {
            Some(test) => arguments = vec!["-test.run=^TestMesh$".to_owned(), format!("--run-test={test}")],
            None => {
                arguments.extend(OWNER.map(str::to_owned));
                arguments.push(format!("--report-output={}", self.report.display()));
            }
        }
        self.tests(&arguments, log).await
    }

    async fn tests(&self, arguments: &[String], log: &Path) -> anyhow::Result<()> {
        let command = Command::new(&self.built.suite)
            .arg("-test.v")
            .arg(format!("-test.timeout={}s", LONGEST.as_secs()))
            .arg(format!("-waypoint-class={}", self.options.waypoint_class))
            .args(arguments)
            .env("KUBECONFIG", self.cluster.kubeconfig_inside())
            .stdout(Output::File(log.to_owned()))
            .stderr(Output::Inherit);
        let process = self.cluster.control_plane().spawn(command)?;
        // It ends itself before that, and says where it was.
        let Ok(status) = tokio::time::timeout(LONGEST + Duration::from_secs(60), process.wait()).await else {
            process.kill_group();
            bail!("the suite did not end");
        };
        let failed = || -> anyhow::Result<String> { Ok(failures(&std::fs::read_to_string(log)?)) };
        ensure!(status.success(), "the suite failed; its log is {}, with\n{}", log.display(), failed()?);
        Ok(())
    }

    /// Runs the program beside this one where the API server is in reach.
    async fn ambit(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let program = std::env::current_exe()?.with_file_name("ambit");
        ensure!(program.exists(), "{} is missing: integration/conformance/run.sh builds it", program.display());
        let command = Command::new(program).args(arguments).env("KUBECONFIG", self.cluster.kubeconfig_inside());
        let done = self.cluster.control_plane().run(command).await?;
        ensure!(done.status.success(), "ambit {arguments:?} failed: {}{}", done.stdout, done.stderr);
        Ok(())
    }

    /// What there is when something went wrong.
    pub async fn state(&self) -> String {
        let mut text = String::new();
        let logs = |name| ["logs", "-n", "istio-system", "-l", name, "--all-containers", "--prefix", "--tail=15"];
        for arguments in [
            &["get", "pods", "--all-namespaces", "-o", "wide"][..],
            &["get", "gateways,httproutes,grpcroutes", "--all-namespaces"],
            &["get", "events", "--all-namespaces", "--field-selector=type=Warning"],
            &logs("app.kubernetes.io/name=istiod-lite"),
            &logs("app.kubernetes.io/name=ztunnel"),
            &["logs", "-n", "gateway-conformance-mesh", "-l", "gateway.networking.k8s.io/gateway-name=waypoint", "--tail=30"],
        ] {
            let said = self.cluster.kubectl(arguments).await.unwrap_or_else(|error| error.to_string());
            text.push_str(&format!("kubectl {}\n{said}\n", arguments.join(" ")));
        }
        text
    }
}

/// The lines of the suite's log that say which tests failed, and why if that is said beside it.
fn failures(log: &str) -> String {
    let tells = |line: &&str| ["--- FAIL", "Error:", "Error Trace:", "panic:"].iter().any(|word| line.contains(word));
    let found: Vec<_> = log.lines().filter(tells).collect();
    found.iter().rev().take(60).rev().copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::failures;

    #[test]
    fn failed_tests_are_found_in_the_log() {
        let log = "=== RUN   TestMesh\n    --- FAIL: TestMesh/MeshPorts (30.00s)\n    --- PASS: TestMesh/MeshBasic (1.00s)\n";
        assert_eq!(failures(log), "    --- FAIL: TestMesh/MeshPorts (30.00s)");
    }
}
