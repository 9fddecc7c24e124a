//! On the cluster: Ambit installed, then the suite.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use ambit_cluster::Cluster;
use ambit_cluster::programs::system;
use ambit_integration::tools;
use ambit_testbed::{Command, Output};
use anyhow::{Context, bail, ensure};

use crate::build::Built;
use crate::options::{Options, Waypoint};

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

/// The range that Services of type LoadBalancer have their addresses from: beside that of the cluster's own, 10.96.0.0/16.
const BALANCED: &str = "10.97.0.0/16";

/// What would send requests to somebody outside of the bed.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// The image that all parts of Ambit run.
const IMAGE: &str = concat!("ghcr.io/ambit-mesh/ambit:", env!("CARGO_PKG_VERSION"));

/// Tests of the mesh that pass without a waypoint, and tests that cannot. The others may pass by chance, as either of two pods answers.
const WITHOUT: [&str; 1] = ["MeshBasic"];
const NOT_WITHOUT: [&str; 15] = [
    "MeshConsumerRoute",
    "MeshFrontend",
    "MeshFrontendHostname",
    "MeshGRPCRouteWeight",
    "MeshHTTPRoute303Redirect",
    "MeshHTTPRoute307Redirect",
    "MeshHTTPRoute308Redirect",
    "MeshHTTPRouteBackendRequestHeaderModifier",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectHostAndStatus",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRequestHeaderModifier",
    "MeshHTTPRouteSchemeRedirect",
    "MeshPorts",
];

/// A run of the suite, once or several times, on a cluster.
pub struct Run<'a> {
    pub cluster: &'a Cluster,
    /// For files. Gone with the cluster.
    pub directory: &'a Path,
    pub built: &'a Built,
    /// The Envoy that is the waypoint, where one is.
    pub envoy: Option<&'a Path>,
    pub report: &'a Path,
    pub options: &'a Options,
    /// Told how far it is.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

impl Run<'_> {
    /// All of it, on a cluster that has nothing yet.
    pub async fn whole(&self, definitions: &[PathBuf]) -> anyhow::Result<()> {
        self.install(definitions).await?;
        if self.options.gateway {
            self.lead_to_addresses().await?;
        }
        let log = self.report.with_extension("log");
        std::fs::write(&log, "").with_context(|| format!("writing {}", log.display()))?;
        for time in 1..=self.options.repeat {
            (self.tell)(&format!("the suite, {time} of {}", self.options.repeat));
            self.suite(&log).await?;
        }
        let all_is_well = match self.options.waypoint {
            Waypoint::None => "without a waypoint those tests failed that need one",
            Waypoint::Ours | Waypoint::Envoy => "the suite passed",
        };
        (self.tell)(all_is_well);
        if self.options.changes {
            let mut arguments = self.what_is_tested()?;
            arguments.push("-test.run=^TestChanges$".to_owned());
            self.tests(&arguments, &log).await?;
        }
        if self.options.test.is_none() && self.options.waypoint != Waypoint::None {
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
        for image in &self.built.images {
            tokio::task::block_in_place(|| image.write(&archive))?;
            self.cluster.load(&archive).await?;
        }
        std::fs::remove_file(&archive)?;
        (self.tell)("the images are on the nodes");
        self.ambit(&["install", "--wait"]).await?;
        (self.tell)("ambit install --wait");
        Ok(())
    }

    /// Has the place where the suite runs reach the addresses of Services by way of a node, whose kube-proxy serves them.
    async fn lead_to_addresses(&self) -> anyhow::Result<()> {
        let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
        let addresses = self.cluster.kubectl(&["get", "node", "node-1", "-o", path]).await?;
        let node = addresses.split_whitespace().find(|address| address.contains('.')).context("node-1 has no IPv4 address")?;
        let command = Command::new(system("ip", "iproute2")?).args(["route", "replace", BALANCED, "via", node]);
        let done = self.cluster.control_plane().run(command).await?;
        ensure!(done.status.success(), "no route to {BALANCED} by way of {node}: {}", done.stderr);
        Ok(())
    }

    /// The suite, and the tests of ours that look closer.
    async fn suite(&self, log: &Path) -> anyhow::Result<()> {
        let (of_suite, ours) =
            if self.options.gateway { ("^TestGateway$", "^TestGateway$") } else { ("^TestMesh$", "^Test(Mesh|Stricter)$") };
        let mut arguments = self.what_is_tested()?;
        if self.options.waypoint == Waypoint::None {
            arguments.push(format!("-test.run={of_suite}"));
            return self.without_waypoint(&arguments, log).await;
        }
        match &self.options.test {
            Some(test) => arguments.extend([format!("-test.run={of_suite}"), format!("--run-test={test}")]),
            None => {
                arguments.push(format!("-test.run={ours}"));
                arguments.extend(OWNER.map(str::to_owned));
                arguments.push(format!("--report-output={}", self.report.display()));
                if self.options.gateway {
                    arguments.push("--mode=gateway".to_owned());
                }
            }
        }
        self.tests(&arguments, log).await
    }

    /// What the tests are told of what they meet.
    fn what_is_tested(&self) -> anyhow::Result<Vec<String>> {
        let mut arguments = match self.options.waypoint {
            Waypoint::None => vec!["-waypoint-class=".to_owned()],
            Waypoint::Ours | Waypoint::Envoy => Vec::new(),
        };
        if let Some(envoy) = self.envoy {
            arguments.push(format!("-waypoint-envoy={}", envoy.display()));
            arguments.push(format!("-waypoint-libraries={}", tools::libraries()?.display()));
            arguments.push(format!("-waypoint-image={IMAGE}"));
        }
        if self.options.gateway {
            arguments.push(format!("-addresses={BALANCED}"));
            arguments.push(format!("-without={}", self.options.without.join(",")));
            arguments.push(format!("-backends-in-mesh={}", self.options.backends_in_mesh));
        }
        Ok(arguments)
    }

    /// The suite has to fail where a waypoint is needed, and nowhere else for sure.
    async fn without_waypoint(&self, arguments: &[String], log: &Path) -> anyhow::Result<()> {
        std::fs::write(log, "")?;
        let status = self.run_tests(arguments, log).await?;
        ensure!(!status.success(), "the suite passed without a waypoint; its log is {}", log.display());
        let text = std::fs::read_to_string(log)?;
        let is = |outcome: &str, test: &&&str| ended(&text, outcome).contains(**test);
        let failed: Vec<_> = WITHOUT.iter().filter(|test| !is("PASS", test)).collect();
        ensure!(failed.is_empty(), "these need no waypoint and did not pass: {failed:?}; the log is {}", log.display());
        let passed: Vec<_> = NOT_WITHOUT.iter().filter(|test| !is("FAIL", test)).collect();
        ensure!(
            passed.is_empty(),
            "these cannot pass without a waypoint and did not fail: {passed:?}; the log is {}",
            log.display()
        );
        Ok(())
    }

    async fn tests(&self, arguments: &[String], log: &Path) -> anyhow::Result<()> {
        let status = self.run_tests(arguments, log).await?;
        let failed = || -> anyhow::Result<String> { Ok(failures(&std::fs::read_to_string(log)?)) };
        ensure!(status.success(), "the suite failed; its log is {}, with\n{}", log.display(), failed()?);
        Ok(())
    }

    async fn run_tests(&self, arguments: &[String], log: &Path) -> anyhow::Result<ExitStatus> {
        let longest = if self.options.gateway { 2 * LONGEST } else { LONGEST };
        let command = Command::new(&self.built.suite)
            .arg("-test.v")
            .arg(format!("-test.timeout={}s", longest.as_secs()))
            .args(arguments)
            .env("KUBECONFIG", self.cluster.kubeconfig_inside())
            .stdout(Output::File(log.to_owned()))
            .stderr(Output::Inherit);
        // The suite asks Gateways itself, and no proxy of the user's knows the way.
        let command = PROXIES.into_iter().fold(command, Command::env_remove);
        let process = self.cluster.control_plane().spawn(command)?;
        // It ends itself before that, and says where it was.
        let Ok(status) = tokio::time::timeout(longest + Duration::from_secs(60), process.wait()).await else {
            process.kill_group();
            bail!("the suite did not end");
        };
        Ok(status)
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
            &["get", "services,gateways,httproutes,grpcroutes", "--all-namespaces"],
            &["get", "events", "--all-namespaces", "--field-selector=type=Warning"],
            &logs("app.kubernetes.io/name=istiod-lite"),
            &logs("app.kubernetes.io/name=ztunnel"),
            &[
                "logs",
                "-n",
                "gateway-conformance-infra",
                "-l",
                "gateway.networking.k8s.io/gateway-name=same-namespace",
                "--tail=30",
            ],
            &["logs", "-n", "gateway-conformance-mesh", "-l", "gateway.networking.k8s.io/gateway-name=waypoint", "--tail=30"],
        ] {
            let said = self.cluster.kubectl(arguments).await.unwrap_or_else(|error| error.to_string());
            text.push_str(&format!("kubectl {}\n{said}\n", arguments.join(" ")));
        }
        text
    }
}

/// The tests of the suite, not the parts of them, that ended like that.
fn ended<'a>(log: &'a str, outcome: &str) -> BTreeSet<&'a str> {
    let head = format!("--- {outcome}: TestMesh/");
    let tests = log.lines().filter_map(|line| line.trim_start().strip_prefix(&head)?.split_once(" (")).map(|(test, _)| test);
    tests.filter(|test| !test.contains('/')).collect()
}

/// The lines of the suite's log that say which tests failed, and why if that is said beside it.
fn failures(log: &str) -> String {
    let tells = |line: &&str| ["--- FAIL", "Error:", "Error Trace:", "panic:"].iter().any(|word| line.contains(word));
    let found: Vec<_> = log.lines().filter(tells).collect();
    found.iter().rev().take(60).rev().copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{ended, failures};

    #[test]
    fn failed_tests_are_found_in_the_log() {
        let log = "=== RUN   TestMesh\n    --- FAIL: TestMesh/MeshPorts (30.00s)\n    --- PASS: TestMesh/MeshBasic (1.00s)\n";
        assert_eq!(failures(log), "    --- FAIL: TestMesh/MeshPorts (30.00s)");
    }
    #[test]
    fn tests_are_told_from_their_parts() {
        let log = "    --- FAIL: TestMesh/MeshPorts (30.00s)\n        --- PASS: TestMesh/MeshPorts/0_request (0.10s)\n    --- PASS: TestMesh/MeshBasic (1.00s)\n";
        assert_eq!(ended(log, "PASS").into_iter().collect::<Vec<_>>(), ["MeshBasic"]);
        assert_eq!(ended(log, "FAIL").into_iter().collect::<Vec<_>>(), ["MeshPorts"]);
    }
}
