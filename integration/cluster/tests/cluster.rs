//! The large variant: two nodes come up, pods on both reach each other by name and address, and nothing of it is left.
//!
//! A program without the standard harness, since it has to enter its bed before any thread is started.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ambit_cluster::image::Image;
use ambit_cluster::programs::{self, Programs};
use ambit_cluster::temporary::Temporary;
use ambit_cluster::{Cluster, ClusterOptions, ProxyMode};
use ambit_testbed::bed;
use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

/// Patience with what pods do.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server on each node, a client on the first that stays, and the service of both servers.
const PODS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers:
  - {name: web, image: "test.local/web:1", imagePullPolicy: Never, args: ["node-1"], readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, labels: {app: web}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 0
  containers:
  - {name: web, image: "test.local/web:1", imagePullPolicy: Never, args: ["node-2"], readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers:
  - {name: client, image: "ambit.local/busybox:1", imagePullPolicy: Never}
"#;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    // In the bed every program has the same number.
    let place = match Temporary::of_this_process("test") {
        Ok(place) => place,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // Made before the bed is entered: it is how this machine reaches the cluster.
    let front = match TcpListener::bind("127.0.0.1:0") {
        Ok(front) => front,
        Err(error) => {
            eprintln!("no port on 127.0.0.1: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let body = move || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(two_nodes(place, front)).map_err(|error| Failed::from(format!("{error:#}")))
    };
    let name = "two nodes come up, their pods reach each other by name and through a service, and nothing is left";
    libtest_mimic::run(&arguments, vec![Trial::test(name, body)]).exit_code()
}

async fn two_nodes(place: Temporary, front: TcpListener) -> anyhow::Result<()> {
    let programs = Programs::get(&mut |_| {})?;
    let (name, directory) = (place.name.clone(), place.directory.clone());
    let options = ClusterOptions { name: name.clone(), nodes: 2, directory: directory.clone(), proxy: ProxyMode::default() };
    let began = Instant::now();
    let cluster =
        Cluster::start(options, programs, front, &|part| eprintln!("{:>5.1} s  {part}", began.elapsed().as_secs_f64())).await?;
    let tried = try_it(&cluster, &directory).await;
    let ended = Instant::now();
    let stopped = cluster.stop().await;
    eprintln!("gone after {:.1} s", ended.elapsed().as_secs_f64());
    tried?;
    stopped?;
    ensure!(!directory.exists(), "{} is left", directory.display());
    let left = left_groups(Path::new("/sys/fs/cgroup"), &name);
    ensure!(left.is_empty(), "control groups are left: {left:?}");
    let processes = processes_but(&[1, std::process::id()])?;
    ensure!(processes.is_empty(), "processes are left: {processes:?}");
    Ok(())
}

async fn try_it(cluster: &Cluster, directory: &Path) -> anyhow::Result<()> {
    let archive = directory.join("web.tar");
    let busybox = programs::system("busybox", "busybox-static")?;
    let serve = "#!/bin/sh\nmkdir -p /www && echo \"$1\" > /www/index.html && exec httpd -f -p 8080 -h /www\n";
    let image = Image {
        name: "test.local/web:1".to_owned(),
        entrypoint: ["/bin/sh", "/serve"].map(str::to_owned).to_vec(),
        ..Image::default()
    };
    let image = ["sh", "mkdir", "echo", "httpd"]
        .into_iter()
        .fold(image.program("bin/busybox", busybox).text("serve", serve), |image, applet| {
            image.link(format!("bin/{applet}"), "busybox")
        });
    image.write(&archive)?;
    ensure!(cluster.load(&archive).await? == "test.local/web:1");

    let file = directory.join("pods.yaml");
    std::fs::write(&file, PODS)?;
    cluster.kubectl(&["apply", "-f", &file.display().to_string()]).await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=90s", "pod", "--all"]).await?;

    // By the short name, through the service's address, from one node to both: asked until each has answered.
    // Not with wget's own limit of time: Debian's busybox dies of it.
    let client = ["exec", "client", "--", "timeout", "5", "wget", "-q", "-O", "-"];
    for url in ["http://web/", "http://web.default.svc.cluster.local/"] {
        let (mut seen, began) = (Vec::new(), Instant::now());
        while seen.len() < 2 {
            ensure!(began.elapsed() < PATIENCE, "{url} was answered by {seen:?} alone");
            let answer = cluster.kubectl(&[&client[..], &[url]].concat()).await.unwrap_or_default().trim().to_owned();
            if answer.starts_with("node-") && !seen.contains(&answer) {
                seen.push(answer);
            }
        }
    }
    // Each family, straight to the pod on the other node.
    let ips = cluster.kubectl(&["get", "pod", "web-2", "-o", "jsonpath={.status.podIPs[*].ip}"]).await?;
    let ips: Vec<_> = ips.split_whitespace().collect();
    ensure!(ips.len() == 2 && ips[0].starts_with("10.244.2.") && ips[1].starts_with("fd44:0:0:2:"), "{ips:?}");
    for url in [format!("http://{}:8080/", ips[0]), format!("http://[{}]:8080/", ips[1])] {
        let answer = cluster.kubectl(&[&client[..], &[url.as_str()]].concat()).await?;
        ensure!(answer.trim() == "node-2", "{url}: {answer}");
    }
    let status = cluster.status().await?;
    ensure!(status.dns && status.nodes.len() == 2 && status.nodes.iter().all(|node| node.ready && node.pods > 0), "{status:?}");
    ensure!(cluster.kubectl(&["logs", "web-1"]).await.is_ok(), "logs come from the kubelet");
    Ok(())
}

/// Directories of control groups with this name in theirs.
fn left_groups(root: &Path, name: &str) -> Vec<PathBuf> {
    let entries =
        |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let trees = entries(root).into_iter().chain([root.to_owned()]);
    trees.flat_map(|tree| entries(&tree)).filter(|path| path.to_string_lossy().contains(&format!("ambit-{name}"))).collect()
}

/// Command lines of what runs in this bed, besides these.
fn processes_but(own: &[u32]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // What has ended but was not waited for has no program.
        if !own.contains(&pid) && std::fs::read_link(entry.path().join("exe")).is_ok() {
            found.push(std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " "));
        }
    }
    Ok(found)
}
