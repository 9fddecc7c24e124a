//! A mesh from a directory of YAML in `integration/manifests/`, copied so that a test may change it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ambit::local::{LocalMesh, LocalOptions, WaypointKind, access::AccessLine};
use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use istiod_lite::source::NamespacedName;
use tempfile::TempDir;

use crate::{client::Client, wait};

/// How long a mesh may take until it is ready: generous, since tests are built without optimisation and share two processors.
const PATIENCE: Duration = Duration::from_secs(40);

/// A running mesh and its directory.
pub struct Suite {
    /// The mesh.
    pub mesh: LocalMesh,
    fixture: PathBuf,
    words: Vec<(String, String)>,
    _directory: TempDir,
    files: TempDir,
}

/// The `ambit` program that was built beside this test.
///
/// # Errors
/// When it is not there.
pub fn program() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.parent().and_then(Path::parent).context("a test program lies in <profile>/deps")?;
    let program = profile.join("ambit");
    ensure!(program.exists(), "{} is missing: run `cargo build -p ambit` first", program.display());
    Ok(program)
}

impl Suite {
    /// Starts the mesh of the fixture of that name, with these IP families, and waits until it is ready. `ECHO` and
    /// `AUTHORIZER` in its YAML become the paths of those programs, `DIRECTORY` a directory that ends with the mesh.
    ///
    /// # Errors
    /// When it does not become ready; the message has what was missing.
    pub async fn start(fixture: &str, waypoint: WaypointKind, families: Families) -> anyhow::Result<Self> {
        Self::start_with(fixture, waypoint, families, &[]).await
    }

    /// The same with these words of its YAML, besides `ECHO`, replaced.
    ///
    /// # Errors
    /// When it does not become ready; the message has what was missing.
    pub async fn start_with(
        fixture: &str,
        waypoint: WaypointKind,
        families: Families,
        words: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let (directory, files) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(fixture);
        // Keys of issuers are fetched again at once, so that a test may change them.
        let control_plane_flags = vec!["--jwks-refresh-seconds=1".to_owned()];
        let defaults = LocalOptions::new(directory.path());
        let options = LocalOptions { program: program()?, waypoint, families, control_plane_flags, ..defaults };
        let echo = program()?.with_file_name("echo");
        ensure!(echo.exists(), "{} is missing: run `cargo build -p ambit-integration` first", echo.display());
        let own = |(word, text): &(&str, &str)| ((*word).to_owned(), (*text).to_owned());
        let authorizer = program()?.with_file_name("authorizer");
        let programs = [("ECHO", &echo), ("AUTHORIZER", &authorizer)];
        let programs = programs.map(|(word, program)| (word.to_owned(), program.display().to_string()));
        let written = ("DIRECTORY".to_owned(), files.path().display().to_string());
        let words: Vec<_> = words.iter().map(own).chain(programs).chain([written]).collect();
        for entry in fixture.read_dir().with_context(|| format!("reading {}", fixture.display()))? {
            let entry = entry?;
            std::fs::write(directory.path().join(entry.file_name()), Self::text(&entry.path(), &words)?)?;
        }
        let mesh = LocalMesh::start(options).await?;
        mesh.wait_ready(PATIENCE, |_| {}).await?;
        Ok(Self { mesh, fixture, words, _directory: directory, files })
    }

    fn text(path: &Path, words: &[(String, String)]) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(words.iter().fold(text, |text, (word, replacement)| text.replace(word, replacement)))
    }

    /// The directory that `DIRECTORY` stands for, in which programs of the mesh may write.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.files.path()
    }

    /// A file of the fixture as it was when the mesh started, to change and write again.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn original(&self, file: &str) -> anyhow::Result<String> {
        Self::text(&self.fixture.join(file), &self.words)
    }

    /// Applies one more object, or a changed one, as the file of that name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn apply(&self, file: &str, yaml: &str) -> anyhow::Result<()> {
        Ok(self.mesh.write_manifest(file, yaml)?)
    }

    /// A pod by `namespace/name`.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        let (namespace, name) = name.split_once('/').context("namespace/name")?;
        Ok(self.mesh.pod(namespace, name)?)
    }

    /// The IP families of the mesh.
    #[must_use]
    pub fn families(&self) -> Families {
        self.mesh.bed().families()
    }

    /// The addresses of a service by `namespace/name`, IPv4 first.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn service(&self, name: &str) -> anyhow::Result<Vec<std::net::IpAddr>> {
        let (namespace, short) = name.split_once('/').context("namespace/name")?;
        let topology = self.mesh.topology().borrow().clone();
        let mut addresses = topology.services.get(&NamespacedName::new(namespace, short)).cloned().unwrap_or_default();
        ensure!(!addresses.is_empty(), "the service {name} has no address");
        addresses.sort();
        Ok(addresses)
    }

    /// An HTTP client in the pod `from` that calls the service `to` on `port` over IPv4, or over IPv6 if there is no other.
    ///
    /// # Errors
    /// When there is no such pod or service.
    pub fn client(&self, from: &str, to: &str, port: u16) -> anyhow::Result<Client> {
        Ok(Client::new(self.pod(from)?, (self.service(to)?[0], port).into()))
    }

    /// The same over IPv6.
    ///
    /// # Errors
    /// When there is no such pod, or the service has no IPv6 address.
    pub fn client_v6(&self, from: &str, to: &str, port: u16) -> anyhow::Result<Client> {
        let addresses = self.service(to)?;
        let v6 = addresses.iter().find(|address| address.is_ipv6()).context("an IPv6 address")?;
        Ok(Client::new(self.pod(from)?, (*v6, port).into()))
    }

    /// Waits for a line in the access log of a proxy that `wanted` accepts.
    ///
    /// # Errors
    /// When there is none within five seconds; the message has the newest lines.
    pub async fn logged(&self, proxy: &str, wanted: impl Fn(&AccessLine) -> bool) -> anyhow::Result<AccessLine> {
        let what = format!("a line in the access log of {proxy}");
        let ask = async || {
            let lines = self.mesh.access_log(proxy);
            let newest = || format!("it ends with {:#?}", lines.iter().rev().take(1).collect::<Vec<_>>());
            lines.iter().rev().find(|line| wanted(line)).cloned().ok_or_else(newest)
        };
        Ok(wait::until(&what, Duration::from_secs(5), ask).await?.0)
    }

    /// The newest refusals that the proxies logged: what a failed test is explained with.
    #[must_use]
    pub fn refusals(&self) -> String {
        let proxies = self.mesh.topology().borrow().proxies.clone();
        let mut text = String::new();
        for proxy in proxies {
            let lines = self.mesh.access_log(&proxy.name);
            for line in lines.iter().filter(|line| line.reason() != "ok").rev().take(1) {
                text.push_str(&format!("{} {line:?}\n", proxy.name));
            }
        }
        text
    }

    /// Ends the mesh in order.
    pub async fn stop(self) {
        self.mesh.stop().await;
    }
}
