//! Envoy as a child process.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ambit_runtime::sys::{Step, before_exec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::Config;
use crate::error::{Error, Result};

/// Time Envoy has to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(1);

/// A directory that only this user may enter, removed at the end.
pub fn work_directory(parent: Option<&Path>) -> Result<TempDir> {
    let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("ambit-envoy-")
        .tempdir_in(&parent)
        .map_err(|cause| Error::path("making a directory in", &parent, cause))
}

/// Writes a file.
pub async fn write(path: &Path, text: &str) -> Result<()> {
    tokio::fs::write(path, text).await.map_err(|cause| Error::path("writing", path, cause))
}

/// A running Envoy; killed when dropped.
pub struct Envoy {
    child: Child,
    admin: std::net::SocketAddr,
}

impl Envoy {
    /// Starts it on a bootstrap.
    pub fn start(binary: &Path, bootstrap: &Path, config: &Config) -> Result<Self> {
        let mut command = std::process::Command::new(binary);
        command.arg("--config-path").arg(bootstrap).args(["--log-level", &config.envoy_log_level, "--disable-hot-restart"]);
        // The access log is written as it happens rather than when a buffer is full.
        command.args(["--file-flush-interval-msec", "200"]);
        if let Some(threads) = config.concurrency {
            command.args(["--concurrency", &threads.to_string()]);
        }
        if let Some(path) = &config.access_log {
            let file = OpenOptions::new().create(true).append(true).open(path);
            command.stdout(file.map_err(|cause| Error::path("opening", path, cause))?);
        }
        // A terminal's Ctrl-C goes to us, who let Envoy drain first; and however we end, Envoy does not stay behind.
        command.stdin(Stdio::null()).process_group(0);
        before_exec(&mut command, vec![Step::DieWithParent, Step::UnblockSignals]);
        let child = Command::from(command).kill_on_drop(true).spawn().map_err(|cause| Error::path("starting", binary, cause))?;
        Ok(Self { child, admin: config.admin })
    }

    /// Completes when Envoy ends by itself, which it should not.
    pub async fn ended(&mut self) -> Result<()> {
        let status = self.child.wait().await.map_err(|cause| Error::io("waiting for Envoy", cause))?;
        Err(Error::part("running Envoy", status))
    }

    /// Lets clients know, waits, and ends it.
    pub async fn stop(mut self, drain: Duration) {
        if !drain.is_zero() && self.post("/drain_listeners?graceful&skip_exit").await.is_ok() {
            let _ended = tokio::time::timeout(drain, self.child.wait()).await;
        }
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended since; then there is nobody to tell.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            tracing::warn!("Envoy does not end; killing it");
            let _ended = self.child.kill().await;
        }
    }

    /// A command to the admin interface.
    async fn post(&self, path: &str) -> std::io::Result<()> {
        let mut connection = TcpStream::connect(self.admin).await?;
        let request = format!("POST {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        connection.shutdown().await
    }
}
