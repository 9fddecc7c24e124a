//! The small variant: etcd and kube-apiserver on loopback, for tests of a control plane.
//!
//! No nodes and no controllers: a test writes pods, their status and EndpointSlices itself, and service accounts where it needs them. Works
//! as any user. Everything ends with the value, or with the test however it ends, by SIGKILL: without its etcd kube-apiserver never heeds
//! another signal.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::audit;
use crate::control::{self, ApiServerArguments};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::loopback::{self, Ports, etcd_request};
use crate::manifests::{self, Channel};
use crate::pki::{Authority, MASTERS, Signed};
use crate::programs::{self, Programs, Progress};

/// How long a program may take to be ready: generous, since tests share two processors with builds.
const PATIENCE: Duration = Duration::from_secs(90);

/// Pause between two questions whether a program is ready.
const ASK: Duration = Duration::from_millis(50);

/// How often another port is tried when somebody else took it in the meantime.
const TRIES: usize = 5;

/// What can be different from test to test.
#[derive(Clone, Debug, Default)]
pub struct ApiServerOptions {
    /// More arguments of kube-apiserver. What is said twice counts as said last.
    pub arguments: Vec<String>,
    /// More arguments of etcd.
    pub etcd_arguments: Vec<String>,
    /// Writes down who asks for what: [`ApiServer::requests_of`].
    pub audit: bool,
}

/// A running API server with its etcd.
#[derive(Debug)]
pub struct ApiServer {
    programs: Programs,
    options: ApiServerOptions,
    authority: Authority,
    serving: Signed,
    ports: Ports,
    kubeconfig: PathBuf,
    etcd: Option<Daemon>,
    server: Option<Daemon>,
    // Last, so that the programs are gone when it is removed.
    directory: TempDir,
}

impl ApiServer {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// A program is missing, or does not become ready.
    pub async fn start() -> Result<Self> {
        Self::start_with(ApiServerOptions::default()).await
    }

    /// The same with options.
    ///
    /// # Errors
    /// A program is missing, or does not become ready.
    pub async fn start_with(mut options: ApiServerOptions) -> Result<Self> {
        let programs = tokio::task::spawn_blocking(|| Programs::get(&mut tell)).await;
        let programs = programs.map_err(|error| Error::failed("building Kubernetes", error))??;
        let directory =
            tempfile::Builder::new().prefix("ambit-api-").tempdir().map_err(Error::io("making a temporary directory"))?;
        if options.audit {
            options.arguments.extend(audit::arguments(directory.path())?);
        }
        let authority = Authority::create(&directory.path().join("pki"))?;
        let serving = authority
            .server("kube-apiserver", &["127.0.0.1".to_owned(), "localhost".to_owned(), "kubernetes.default.svc".to_owned()])?;
        let ports = Ports::free()?;
        let kubeconfig = authority.kubeconfig("admin", &ports.url(), "admin", Some(MASTERS))?;
        let mut api = Self { programs, options, authority, serving, ports, kubeconfig, etcd: None, server: None, directory };
        for attempt in 1..=TRIES {
            let Err(error) = api.start_both().await else { break };
            // Only what others hold counts: our own etcd may have its ports.
            api.stop();
            if attempt == TRIES || api.ports.are_free() {
                return Err(error);
            }
            api.ports = Ports::free()?;
            api.kubeconfig = api.authority.kubeconfig("admin", &api.ports.url(), "admin", Some(MASTERS))?;
        }
        Ok(api)
    }

    async fn start_both(&mut self) -> Result<()> {
        self.start_etcd().await?;
        self.start_api_server().await
    }

    fn stop(&mut self) {
        self.kill_api_server();
        self.kill_etcd();
    }

    /// Its address, such as `https://127.0.0.1:20001`. It stays the same when it is killed and started again.
    #[must_use]
    pub fn url(&self) -> String {
        self.ports.url()
    }

    /// The certificate that its own is signed by, PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        self.authority.pem()
    }

    /// A kubeconfig of a user who may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig of another user, in this group, if any: for tests of roles. A service account is the user
    /// `system:serviceaccount:NAMESPACE:NAME`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn kubeconfig_of(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        self.authority.kubeconfig(user, &self.url(), user, group)
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        client_of(self.kubeconfig()).await
    }

    /// The directory of its files, and for those of a test: gone with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The program kubectl.
    #[must_use]
    pub fn kubectl_program(&self) -> PathBuf {
        self.programs.path("kubectl")
    }

    /// Runs kubectl as the user who may do everything, and returns what it prints.
    ///
    /// # Errors
    /// It fails; the message has what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with_input(arguments, "").await
    }

    /// Applies these YAML documents, server-side.
    ///
    /// # Errors
    /// The API server refuses one.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], yaml).await
    }

    async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = tokio::process::Command::new(self.kubectl_program());
        // A home of its own, so that it neither reads nor writes what it keeps about clusters of the user.
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.directory()).kill_on_drop(true);
        run(command, &format!("kubectl {}", arguments.join(" ")), input).await
    }

    /// Installs custom resource definitions from YAML files and waits until they are served.
    ///
    /// # Errors
    /// The API server refuses one, or does not serve it within a minute.
    pub async fn install_definitions(&self, files: &[PathBuf]) -> Result<()> {
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        let apply = ["apply", "--server-side", "--force-conflicts"].into_iter();
        let arguments: Vec<_> = apply.chain(files.iter().flat_map(|file| ["-f", file.as_str()])).collect();
        self.kubectl(&arguments).await?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"];
        self.kubectl(&wait).await.map(|_| ())
    }

    /// Installs the definitions of the Gateway API.
    ///
    /// # Errors
    /// They cannot be had, or the API server refuses one.
    pub async fn install_gateway_api(&self, channel: Channel) -> Result<()> {
        let files = tokio::task::spawn_blocking(move || manifests::gateway_api(channel)).await;
        self.install_definitions(&files.map_err(|error| Error::failed("asking for the Gateway API", error))??).await
    }

    /// Kills the API server and waits until it is gone: connections to it are refused from then on.
    pub fn kill_api_server(&mut self) {
        self.server = None;
    }

    /// Starts the API server, if it does not run, at the same address, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready; the message has the end of its log.
    pub async fn start_api_server(&mut self) -> Result<()> {
        if self.server.as_ref().is_some_and(Daemon::is_running) {
            return Ok(());
        }
        let arguments = ApiServerArguments {
            address: [127, 0, 0, 1].into(),
            port: self.ports.server,
            etcd: self.ports.etcd,
            authority: &self.authority,
            serving: &self.serving,
            kubelets: None,
            directory: self.directory.path(),
        };
        let mut command = Command::new(self.programs.path("kube-apiserver"));
        command.args(arguments.list()).args(&self.options.arguments).current_dir(self.directory());
        let server = Daemon::start("kube-apiserver", command, &self.directory().join("kube-apiserver.log"))?;
        let client = self.client().await?;
        ready(&server, async || {
            let request = Request::get("/readyz").body(Vec::new()).unwrap_or_default();
            client.request_text(request).await.is_ok()
        })
        .await?;
        self.server = Some(server);
        Ok(())
    }

    /// Kills etcd and waits until it is gone. What was written stays.
    pub fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    /// Starts etcd, if it does not run, with what it held, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready; the message has the end of its log.
    pub async fn start_etcd(&mut self) -> Result<()> {
        if self.etcd.as_ref().is_some_and(Daemon::is_running) {
            return Ok(());
        }
        let mut command = Command::new(programs::system("etcd", "etcd-server")?);
        command.args(control::etcd(&self.directory().join("etcd"), self.ports.etcd, self.ports.peers));
        command.args(&self.options.etcd_arguments).current_dir(self.directory());
        let etcd = Daemon::start("etcd", command, &self.directory().join("etcd.log"))?;
        let port = self.ports.etcd;
        ready(&etcd, async || etcd_request(port, "GET", "/health", "").await.is_ok_and(|answer| answer.contains("\"true\"")))
            .await?;
        self.etcd = Some(etcd);
        Ok(())
    }

    /// Forgets all but the newest revision of everything in etcd. A watch from an older revision is answered with 410 then, if the API server
    /// does not have it in its memory either, as after [`ApiServer::kill_api_server`].
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn compact(&self) -> Result<()> {
        let port = self.ports.etcd;
        loopback::compact(async |method, path, body| etcd_request(port, method, path, body).await).await
    }
}

/// A client of the user of a kubeconfig.
///
/// # Errors
/// It cannot be read or used.
pub async fn client_of(kubeconfig: &Path) -> Result<Client> {
    let failed = |error: String| Error::failed(format!("using the kubeconfig {}", kubeconfig.display()), error);
    let read = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.to_string()))?;
    let mut config =
        Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|error| failed(error.to_string()))?;
    // From HTTPS_PROXY: no kubeconfig of ours has one, and no proxy has a way to addresses of this machine.
    config.proxy_url = None;
    Client::try_from(config).map_err(|error| failed(error.to_string()))
}

/// Runs a program to its end with this input.
pub(crate) async fn run(mut command: tokio::process::Command, what: &str, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Error::io(format!("starting {what}")))?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that ends without reading all of it says why itself.
            let _unread = stdin.write_all(input.as_bytes()).await;
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    let output = output.map_err(Error::io(format!("waiting for {what}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::failed(what, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Waits until a program is ready, or has ended. Where another has the port that ours was to have, the other one answers.
async fn ready(daemon: &Daemon, mut ask: impl AsyncFnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let answers = ask().await;
        if !daemon.is_running() {
            return Err(daemon.report("ended instead of becoming ready"));
        }
        if answers {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(daemon.report(&format!("was not ready within {PATIENCE:?}")));
        }
        tokio::time::sleep(ASK).await;
    }
}

/// What a test says while Kubernetes is being built for it.
fn tell(progress: Progress<'_>) {
    match progress {
        Progress::Waiting => eprintln!("Kubernetes is being built by another process; waiting for it"),
        Progress::Downloading { program, modules } if modules % 50 == 1 => {
            eprintln!("downloading what {program} is made of, once: module {modules}");
        }
        Progress::Downloading { .. } => {}
        Progress::Building { program, compiled, packages } if compiled % 200 == 1 => {
            eprintln!("building {program} once: {compiled} of at most {packages} packages");
        }
        Progress::Building { .. } => {}
        Progress::Built { program } => eprintln!("{program} is built"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_another_program_answers_does_not_make_ours_ready() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo address already in use; exit 1"]);
        let daemon = Daemon::start("ours", command, &directory.path().join("log")).unwrap();
        let began = Instant::now();
        while daemon.is_running() {
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(ASK).await;
        }
        let error = ready(&daemon, async || true).await.unwrap_err().to_string();
        assert!(error.contains("ended instead of becoming ready") && error.contains("address already in use"), "{error}");
    }
}
