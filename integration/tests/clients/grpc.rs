//! grpc-go (`integration/xds-client/`), configured by its bootstrap file as the documentation has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ambit_integration::{tools, wait};
use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::world::{PATIENCE, World, pod};

const ADDRESS: &str = "10.96.0.20";
const TARGET: &str = "xds:///echo.shop.svc.cluster.local:80";
/// What users copy.
const DOCUMENTED: &str = include_str!("../../../docs/grpc.md");

/// The services of two versions; `echo` itself is the first one.
fn objects(first: u16, second: u16) -> String {
    let service = |name: &str, address: &str, version: &str, port: u16| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{{address} \
             selector: {{version: {version}}}, ports: [{{name: grpc, port: 80, targetPort: {port}}}]}}}}\n"
        )
    };
    [
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n".to_owned(),
        service("echo", &format!("clusterIP: {ADDRESS},"), "v1", first),
        service("echo-v1", "", "v1", first),
        service("echo-v2", "", "v2", second),
        pod("v1", "{version: v1}"),
        pod("v2", "{version: v2}"),
        pod("caller", "{}"),
    ]
    .concat()
}

fn route(first: u32, second: u32) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: echo, namespace: shop}}, spec: {{\
         parentRefs: [{{group: '', kind: Service, name: echo}}], rules: [\
         {{matches: [{{method: {{service: grpc.health.v1.Health}}, headers: [{{name: version, value: v2}}]}}], backendRefs: [{{name: echo-v2, port: 80}}]}}, \
         {{matches: [{{method: {{service: grpc.health.v1.Health}}}}], \
           backendRefs: [{{name: echo-v1, port: 80, weight: {first}}}, {{name: echo-v2, port: 80, weight: {second}}}]}}]}}}}"
    )
}

/// A gRPC server.
struct Server {
    port: u16,
    _process: Child,
}

impl Server {
    async fn start(address: &str, name: &str) -> anyhow::Result<Self> {
        let mut process = program()?.args(["serve", address, name]).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        let said = timeout(PATIENCE, lines.next_line()).await.context("the server says no address")??;
        let said: std::net::SocketAddr = said.context("the server ended")?.parse()?;
        Ok(Self { port: said.port(), _process: process })
    }
}

fn program() -> anyhow::Result<Command> {
    let mut command = Command::new(tools::installed("xds-client")?);
    command.kill_on_drop(true);
    Ok(command)
}

/// A client with one channel.
struct Caller {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Caller {
    fn start(world: &World, token: &Path, name: &str) -> anyhow::Result<Self> {
        let bootstrap = bootstrap(world, token, name)?;
        let mut command = program()?;
        command.args(["call", TARGET]).env("GRPC_XDS_BOOTSTRAP", bootstrap);
        // File-based tokens (gRFC A97) have to be asked for.
        command.env("GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS", "true");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = process.stdin.take().context("its input")?;
        let lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        Ok(Self { stdin, lines, _process: process })
    }

    /// Makes calls, and says who answered how many, and what became of the others.
    async fn call(&mut self, what: &str) -> anyhow::Result<BTreeMap<String, u32>> {
        self.stdin.write_all(format!("{what}\n").as_bytes()).await?;
        let line = timeout(PATIENCE, self.lines.next_line()).await.context("the client does not answer")??;
        Ok(serde_json::from_str(&line.context("the client ended")?)?)
    }

    /// Waits until 20 calls in a row come to this.
    async fn until(&mut self, headers: &str, what: &str) -> anyhow::Result<()> {
        let (_, took) = wait::until(&format!("calls {headers} that come to {what}"), PATIENCE, async || {
            let answers = self.call(&format!("20 {headers}")).await.map_err(|error| error.to_string())?;
            if answers.len() == 1 && answers.contains_key(what) { Ok(()) } else { Err(format!("{answers:?}")) }
        })
        .await?;
        println!("calls {headers} come to {what} after {took:?}");
        Ok(())
    }
}

/// The documented bootstrap file, with the addresses and files of this machine.
fn bootstrap(world: &World, token: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let (_, text) = DOCUMENTED.split_once("```json\n").context("the bootstrap file in the documentation")?;
    let (mut text, _) = text.split_once("```").map(|(json, rest)| (json.to_owned(), rest)).context("its end")?;
    for (documented, here) in [
        ("istiod.istio-system.svc:15012", world.discovery.to_string()),
        ("/var/run/secrets/istio/root-cert.pem", world.roots.display().to_string()),
        ("/var/run/secrets/tokens/istio-token", token.display().to_string()),
    ] {
        ensure!(text.contains(documented), "{documented} is not in {text}");
        text = text.replace(documented, &here);
    }
    let path = world.api.directory().join(format!("bootstrap-{name}.json"));
    std::fs::write(&path, text)?;
    Ok(path)
}

pub async fn follows(definitions: &[PathBuf]) -> anyhow::Result<()> {
    // On loopback, which is brought up by the world: the servers come after it, and their ports are told then.
    let world = World::start(definitions, &objects(1, 1)).await?;
    let (first, second) = (Server::start("127.0.1.1:0", "v1").await?, Server::start("127.0.1.2:0", "v2").await?);
    world.api.apply(&objects(first.port, second.port)).await?;
    world.pod_is("v1", "127.0.1.1", true).await?;
    world.pod_is("v2", "127.0.1.2", true).await?;

    let mut caller = Caller::start(&world, &world.token("caller", "istio-ca").await?, "caller")?;
    caller.until("", "v1").await?;
    world.api.apply(&route(3, 1)).await?;
    // Once the route is in force its first rule is.
    caller.until("version=v2", "v2").await?;
    let answers = caller.call("400").await?;
    let second_of = answers.get("v2").copied().unwrap_or_default();
    ensure!(answers.values().sum::<u32>() == 400 && answers.len() == 2 && answers.contains_key("v1"), "{answers:?}");
    // Of 400 a quarter, give or take five times the standard deviation.
    ensure!((57..=143).contains(&second_of), "weights 3 and 1 made {answers:?}");
    world.api.apply(&route(0, 1)).await?;
    caller.until("", "v2").await?;

    // A pod that is not ready gets no calls, and nobody else gets them in its place.
    world.pod_is("v2", "127.0.1.2", false).await?;
    caller.until("", "Unavailable").await?;
    world.pod_is("v2", "127.0.1.2", true).await?;
    caller.until("", "v2").await?;

    // A service that is to go through a waypoint is not reached around it, even while there is none: calls go to its own address, where a
    // node proxy would lead them to the waypoint.
    world.add_address(ADDRESS).await?;
    let _itself = Server::start(&format!("{ADDRESS}:80"), "the address of the service").await?;
    world.api.kubectl(&["label", "service", "echo", "-n", "shop", "istio.io/use-waypoint=waypoint"]).await?;
    caller.until("", "the address of the service").await?;

    // Who has no token for the control plane is told nothing.
    let mut stranger = Caller::start(&world, &world.token("caller", "vault").await?, "stranger")?;
    let answers = stranger.call("1").await?;
    ensure!(answers.keys().all(|answer| ["Unavailable", "DeadlineExceeded"].contains(&answer.as_str())), "{answers:?}");
    Ok(())
}
