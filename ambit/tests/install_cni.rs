//! `ambit install-cni` as a program, on a real API server: when the plugin stays in the chain and when it leaves it, with the rights that
//! an installation gives it.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ambit_cluster::{ApiServer, ApiServerOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

/// Long enough for a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(90);
const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}"#;
const FILE: &str = "net.d/10-pods.conflist";

/// The program, killed if it does not end before the test does.
struct InstallCni(Child);

impl Drop for InstallCni {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl InstallCni {
    /// Starts it on the node in `directory`, and waits until the plugin is in the chain.
    async fn start(directory: &Path, kubeconfig: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
        command.arg("install-cni").args(["--daemon-set", "ambit-node", "--namespace", "istio-system", "--ready", "127.0.0.1:0"]);
        for (flag, name) in [("--plugin", "plugin"), ("--conf-dir", "net.d"), ("--bin-dir", "bin"), ("--socket", "cni.sock")] {
            command.arg(flag).arg(directory.join(name));
        }
        let running = Self(command.env("KUBECONFIG", kubeconfig).spawn().unwrap());
        until("the plugin in the chain", || chained(directory)).await;
        running
    }

    /// Tells it to end, and waits until it has.
    async fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        until("its end", || self.0.try_wait().unwrap().is_some()).await;
        assert!(self.0.wait().unwrap().success());
    }
}

fn chained(directory: &Path) -> bool {
    std::fs::read_to_string(directory.join(FILE)).unwrap().contains("ambit-cni")
}

async fn until(what: &str, mut good: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !good() {
        assert!(begin.elapsed() < PATIENCE, "{what} did not come about");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The two verbs that it has on its DaemonSet are needed: without `get` it would take a restart for the end of the mesh, as refusals mean
/// that the roles are gone; without `watch` it would not know of the end when nobody answers any more.
#[tokio::test]
async fn the_plugin_outlives_a_restart_and_leaves_with_the_daemon_set() {
    let mut api = ApiServer::start_with(ApiServerOptions { audit: true, ..ApiServerOptions::default() }).await.unwrap();
    let mut install = Command::new(env!("CARGO_BIN_EXE_ambit"));
    assert!(install.args(["install", "--kubeconfig"]).arg(api.kubeconfig()).status().unwrap().success());
    let account = api.account_as_it_is("ambit-node").await.unwrap();
    let node = tempfile::tempdir().unwrap();
    for name in ["net.d", "bin"] {
        std::fs::create_dir(node.path().join(name)).unwrap();
    }
    std::fs::write(node.path().join("plugin"), "program").unwrap();
    std::fs::write(node.path().join(FILE), LIST).unwrap();
    let _agent = std::os::unix::net::UnixListener::bind(node.path().join("cni.sock")).unwrap();

    InstallCni::start(node.path(), account.kubeconfig()).await.stop().await;
    assert!(chained(node.path()), "pods that start now wait for the next agent");

    let watches = || {
        let requests = api.requests_of(&account.user).unwrap();
        requests.iter().filter(|request| request.verb == "watch" && request.code == 200).count()
    };
    // The first one may have ended before its watch began.
    let before = watches();
    let last = InstallCni::start(node.path(), account.kubeconfig()).await;
    until("its own watch", || watches() > before).await;
    api.uses_each_right(&account, |right| right.resource == "daemonsets").await.unwrap();
    api.kubectl(&["delete", "daemonset", "ambit-node", "-n", "istio-system"]).await.unwrap();
    // Nothing shows that it was told; it is within milliseconds.
    sleep(Duration::from_secs(5)).await;
    api.kill_api_server();
    last.stop().await;
    assert_eq!(std::fs::read_to_string(node.path().join(FILE)).unwrap(), LIST, "as it was before");
}
