//! Somebody with a cluster: what they install, and what they wait for.

use std::cell::Cell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ambit_cluster::Cluster;
use ambit_integration::{suite, tools, wait};
use ambit_runtime::netns::NetNs;
use ambit_testbed::{Command, HostEntry, Output, Process};
use anyhow::{Context, ensure};

use crate::documented;

/// Patience with what takes seconds on a machine that has nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two questions by kubectl.
pub const PAUSE: Duration = Duration::from_millis(300);

/// Objects of the test, besides those of the documentation.
const SHOP: &str = include_str!("../../manifests/ecosystem/10-shop.yaml");

/// Programs of others, and definitions of their kinds, as `integration/ecosystem.sh` left them.
pub struct Outside {
    pub cert_manager: PathBuf,
    pub prometheus: PathBuf,
    pub flagger: PathBuf,
    /// Directories with CRDs.
    cert_manager_kinds: PathBuf,
    flagger_kinds: PathBuf,
}

impl Outside {
    pub fn find() -> anyhow::Result<Self> {
        let hint = "run integration/ecosystem.sh, which brings it";
        let kinds = |name: &str| {
            let directory = tools::directory().with_file_name("ecosystem").join(name);
            ensure!(directory.is_dir(), "{} is not there: {hint}", directory.display());
            Ok(directory)
        };
        Ok(Self {
            cert_manager: tools::installed("cert-manager").context(hint)?,
            prometheus: tools::installed("prometheus").context(hint)?,
            flagger: tools::installed("flagger").context(hint)?,
            cert_manager_kinds: kinds("cert-manager")?,
            flagger_kinds: kinds("flagger")?,
        })
    }
}

/// Somebody with a cluster.
pub struct User<'a> {
    pub cluster: &'a Cluster,
    /// For files. Gone with the cluster.
    pub directory: &'a Path,
    /// The CRDs of the Gateway API.
    pub definitions: &'a [PathBuf],
    pub outside: &'a Outside,
    /// Whether the mesh is there, with what the tests look at.
    pub meshed: &'a Cell<bool>,
    /// Whether Prometheus runs.
    pub scraped: &'a Cell<bool>,
    /// Told how far it is.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

impl User<'_> {
    /// The mesh, with cert-manager as its issuer, and the objects of the tests.
    pub async fn in_the_mesh(&self) -> anyhow::Result<()> {
        if self.meshed.get() {
            return Ok(());
        }
        let mut files: Vec<_> = self.definitions.iter().map(|file| file.display().to_string()).collect();
        files.extend([&self.outside.cert_manager_kinds, &self.outside.flagger_kinds].map(|path| path.display().to_string()));
        for file in &files {
            self.cluster.kubectl(&["apply", "--server-side", "-f", file]).await?;
        }
        self.cluster
            .kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"])
            .await?;

        self.issuer().await?;
        self.install().await?;
        self.apply("shop.yaml", SHOP).await?;
        for namespace in ["data", "shop"] {
            self.cluster.kubectl(&["wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", "--timeout=120s"]).await?;
        }
        self.cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Programmed", "gateway/waypoint", "--timeout=120s"]).await?;
        let captured = r"--for=jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}=enabled";
        self.cluster.kubectl(&["wait", "-n", "shop", captured, "pod", "-l", "app", "--timeout=120s"]).await?;
        (self.tell)("the mesh runs, and the services that the tests look at");
        self.meshed.set(true);
        Ok(())
    }

    /// Starts cert-manager, and has it make the authority of the mesh as the documentation says.
    async fn issuer(&self) -> anyhow::Result<()> {
        for namespace in ["cert-manager", "istio-system"] {
            self.cluster.kubectl(&["create", "namespace", namespace]).await?;
        }
        let command = Command::new(&self.outside.cert_manager).arg("--kubeconfig").arg(self.cluster.kubeconfig_inside());
        self.start("cert-manager", command)?;
        self.apply("cert-manager.yaml", documented::block("cert-manager.yaml")?).await?;
        let ready = ["wait", "-n", "istio-system", "--for=condition=Ready", "certificate/cacerts", "--timeout=120s"];
        self.cluster.kubectl(&ready).await?;
        (self.tell)("cert-manager has made the authority of the mesh");
        Ok(())
    }

    async fn install(&self) -> anyhow::Result<()> {
        let archive = self.directory.join("ambit.tar").display().to_string();
        self.ambit(&["image", "--output", archive.as_str()]).await?;
        self.cluster.load(Path::new(&archive)).await?;
        std::fs::remove_file(&archive)?;
        self.ambit(&["install", "--wait"]).await?;
        (self.tell)("ambit install --wait");
        Ok(())
    }

    /// Starts a program beside the API server; its words go to a file of its name.
    pub fn start(&self, name: &str, command: Command) -> anyhow::Result<Process> {
        let place = self.cluster.control_plane();
        place.set_hosts(&[HostEntry::new(IpAddr::from([127, 0, 0, 1]), ["prometheus.monitoring"])])?;
        Ok(place.spawn(command.name(name).output(Output::File(self.log(name))))?)
    }

    fn log(&self, program: &str) -> PathBuf {
        self.directory.join(format!("{program}.log"))
    }

    /// Applies YAML through a file of this name.
    pub async fn apply(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(file);
        std::fs::write(&path, text)?;
        self.cluster.kubectl(&["apply", "-f", &path.display().to_string()]).await?;
        Ok(())
    }

    /// What a jsonpath gives for an object of this namespace.
    pub async fn read(&self, namespace: &str, object: &str, path: &str) -> anyhow::Result<String> {
        let path = format!("jsonpath={path}");
        Ok(self.cluster.kubectl(&["get", "-n", namespace, object, "-o", &path]).await?)
    }

    /// Waits until a jsonpath gives something that is wanted.
    pub async fn wait_for(
        &self,
        (namespace, object, path): (&str, &str, &str),
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let said = self.read(namespace, object, path).await.map_err(|error| error.to_string())?;
            if wanted(&said) { Ok(said) } else { Err(format!("{said:?}")) }
        };
        Ok(wait::until(&format!("{path} of {object}"), PATIENCE, look).await?.0)
    }

    /// The first address of a service.
    pub async fn address(&self, service: &str) -> anyhow::Result<IpAddr> {
        let said = self.read("shop", &format!("service/{service}"), "{.spec.clusterIP}").await?;
        said.parse().with_context(|| format!("the address of {service}: {said:?}"))
    }

    /// The network of the pod `shop/NAME` of this test.
    pub async fn network(&self, name: &str) -> anyhow::Result<NetNs> {
        let wanted = format!("AMBIT_PLACE=shop/{name}");
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let found = with_variable(&wanted).map_err(|error| error.to_string())?;
            match found.as_slice() {
                [one] => NetNs::open(one.join("ns/net")).map_err(|error| error.to_string()),
                several => Err(format!("{} processes have it", several.len())),
            }
        };
        Ok(wait::until(&format!("a process with {wanted}"), PATIENCE, look).await?.0)
    }

    /// Runs the program where the API server is in reach.
    async fn ambit(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let command = Command::new(suite::program()?).args(arguments).env("KUBECONFIG", self.cluster.kubeconfig_inside());
        let done = self.cluster.control_plane().run(command).await?;
        ensure!(done.status.success(), "ambit {arguments:?} failed: {}{}", done.stdout, done.stderr);
        Ok(())
    }

    /// What there is when something went wrong.
    pub async fn state(&self) -> String {
        let mut text = String::new();
        for arguments in [
            &["get", "pods", "--all-namespaces", "-o", "wide"][..],
            &["get", "events", "--all-namespaces", "--field-selector=type=Warning"],
            &["get", "canaries,httproutes,services", "-n", "shop", "-o", "wide"],
            &["get", "certificates,certificaterequests", "--all-namespaces"],
            &["logs", "-n", "istio-system", "-l", "app.kubernetes.io/name=istiod-lite", "--prefix", "--tail=15"],
        ] {
            let said = self.cluster.kubectl(arguments).await.unwrap_or_else(|error| error.to_string());
            text.push_str(&format!("kubectl {}\n{said}\n", arguments.join(" ")));
        }
        for program in ["cert-manager", "prometheus", "flagger"] {
            let said = std::fs::read_to_string(self.log(program)).unwrap_or_default();
            let end: Vec<_> = said.lines().rev().take(25).collect();
            text.push_str(&format!("{program}\n{}\n", end.into_iter().rev().collect::<Vec<_>>().join("\n")));
        }
        text
    }
}

fn with_variable(wanted: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        // It may have ended since, or belong to nobody, like those of the kernel.
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found.push(path);
        }
    }
    Ok(found)
}
