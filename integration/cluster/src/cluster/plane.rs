//! The control plane: etcd, API server, controllers and scheduler, in a place of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use ambit_testbed::{Command, Node, Output, Process};
use kube::Client;
use serde_json::Value;

use super::{ASK, PATIENCE, ask};
use crate::control::{self, ApiServerArguments};
use crate::error::{Error, Result};
use crate::node::requirements::Requirements;
use crate::pki::{Authority, MASTERS, Signed};
use crate::programs::Programs;

const PORT: u16 = 6443;
pub(super) const ETCD: (u16, u16) = (2379, 2380);

/// Names of the parts.
pub(super) const STORE: &str = "etcd";
pub(super) const SERVER: &str = "kube-apiserver";
pub(super) const CONTROLLERS: &str = "kube-controller-manager";
pub(super) const SCHEDULER: &str = "kube-scheduler";

/// Names by which the API server is reached: in pods, and from outside through the front.
const NAMES: [&str; 9] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "::1",
    // The first addresses of the services' ranges are its own.
    "10.96.0.1",
    "fd96::1",
];

/// What would send requests to the API server to somebody outside of the bed.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// The control plane and what it is told.
#[derive(Debug)]
pub(super) struct ControlPlane {
    place: Node,
    directory: PathBuf,
    authority: Authority,
    programs: Programs,
    etcd: PathBuf,
    serving: Signed,
    kubelets: Signed,
    /// That of a user who may do everything, from this place.
    admin: PathBuf,
    running: Mutex<Vec<Process>>,
}

impl ControlPlane {
    pub(super) fn create(
        place: Node,
        directory: &Path,
        authority: Authority,
        programs: Programs,
        machine: &Requirements,
    ) -> Result<Self> {
        let mut names: Vec<_> = NAMES.into_iter().map(str::to_owned).collect();
        names.extend(place.ips().iter().map(ToString::to_string));
        let serving = authority.server("kube-apiserver", &names)?;
        let kubelets = authority.client("kubelet-client", "kube-apiserver", Some(MASTERS))?;
        let url = url_of(SocketAddr::new(place.ip(), PORT));
        let admin = authority.kubeconfig("admin", &url, "admin", Some(MASTERS))?;
        let (directory, etcd, running) = (directory.to_owned(), machine.etcd.clone(), Mutex::default());
        Ok(Self { place, directory, authority, programs, etcd, serving, kubelets, admin, running })
    }

    pub(super) fn place(&self) -> &Node {
        &self.place
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.place.ip(), PORT)
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    pub(super) fn url(&self) -> String {
        url_of(self.address())
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Starts everything, and returns when the API server is ready.
    pub(super) async fn start(&self) -> Result<()> {
        self.start_etcd()?;
        self.start_server().await
    }

    /// Starts etcd with what it held, if anything.
    pub(super) fn start_etcd(&self) -> Result<()> {
        let data = self.directory.join("etcd");
        self.spawn(STORE, &self.etcd, control::etcd(&data, ETCD.0, ETCD.1))
    }

    /// Starts the API server, and once it is ready those who ask it.
    pub(super) async fn start_server(&self) -> Result<()> {
        let arguments = ApiServerArguments {
            address: self.place.ip(),
            port: PORT,
            etcd: ETCD.0,
            authority: &self.authority,
            serving: &self.serving,
            kubelets: Some(&self.kubelets),
            directory: &self.directory,
        };
        self.spawn_part(SERVER, arguments.list())?;
        self.await_server().await?;
        let url = self.url();
        let own = |part: &str| self.authority.kubeconfig(part, &url, &format!("system:{part}"), None);
        let controllers = control::controller_manager(&self.authority, &own(CONTROLLERS)?);
        self.spawn_part(CONTROLLERS, controllers)?;
        self.spawn_part(SCHEDULER, control::scheduler(&own(SCHEDULER)?))?;
        Ok(())
    }

    /// Kills these parts and waits until they are gone.
    pub(super) async fn kill(&self, names: &[&str]) {
        let is_one = |process: &mut Process| names.contains(&process.name());
        let killed: Vec<_> =
            self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extract_if(.., is_one).collect();
        for process in &killed {
            process.kill_group();
        }
        for process in killed {
            process.wait().await;
        }
    }

    fn spawn_part(&self, name: &str, arguments: Vec<String>) -> Result<()> {
        self.spawn(name, &self.programs.path(name), arguments)
    }

    fn spawn(&self, name: &str, program: &Path, arguments: Vec<String>) -> Result<()> {
        let command = without_proxies(Command::new(program)).name(name).args(arguments).current_dir(&self.directory);
        let command = command.output(Output::File(self.log(name)));
        let process = self.place.spawn(command).map_err(|error| Error::failed(format!("starting {name}"), error))?;
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(process);
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    async fn await_server(&self) -> Result<()> {
        let began = Instant::now();
        let is_ready = async |client: Client| {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap_or_default();
            client.request_text(request).await
        };
        while self.ask(is_ready).await.is_err() {
            if let Some(error) = self.dead() {
                return Err(error);
            }
            if began.elapsed() > PATIENCE {
                return Err(self.report(SERVER, &format!("was not ready within {PATIENCE:?}")));
            }
            tokio::time::sleep(ASK).await;
        }
        Ok(())
    }

    /// The part that has ended, if one has: none of them should.
    pub(super) fn dead(&self) -> Option<Error> {
        let running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dead = running.iter().find(|process| !process.is_running())?;
        Some(self.report(dead.name(), "ended"))
    }

    /// What a part did wrong, with the end of its log.
    fn report(&self, name: &str, what: &str) -> Error {
        let log = fs::read(self.log(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let end: Vec<_> = log.lines().rev().take(8).collect();
        let end = end.into_iter().rev().collect::<Vec<_>>().join("\n  ");
        Error::failed(format!("{name} {what}"), format!("its log ends with\n  {end}"))
    }

    /// Asks the API server.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl AsyncFnOnce(Client) -> kube::Result<T> + Send + 'static,
    ) -> Result<T> {
        ask::ask(&self.place, self.admin.clone(), question).await
    }

    /// Applies an object, or a list of them, through a file of this name.
    pub(super) async fn apply(&self, name: &str, object: &Value) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, object.to_string()).map_err(Error::path("writing", &path))?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &path.display().to_string()]).await.map(drop)
    }

    /// Runs kubectl here.
    pub(super) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let what = format!("kubectl {}", arguments.join(" "));
        let command =
            without_proxies(Command::new(self.programs.path("kubectl"))).arg("--kubeconfig").arg(&self.admin).args(arguments);
        let command = command.env("HOME", &self.directory);
        let done = self.place.run(command).await.map_err(|error| Error::failed(what.clone(), error))?;
        if done.status.success() { Ok(done.stdout) } else { Err(Error::failed(what, done.stderr.trim())) }
    }

    /// Kills everything: without its etcd the API server heeds no other signal.
    pub(super) async fn stop(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for process in &running {
            process.kill_group();
        }
        for process in running {
            process.wait().await;
        }
    }
}

fn without_proxies(command: Command) -> Command {
    PROXIES.into_iter().fold(command, Command::env_remove)
}

fn url_of(address: SocketAddr) -> String {
    format!("https://{address}")
}
