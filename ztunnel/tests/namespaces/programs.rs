//! Unmodified programs through the mesh. Those that are not installed are reported as ignored; `integration/test.sh` installs them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use ambit_testbed::{Command, Output, Pod};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{Mesh, PATIENCE, call_until_it_works, echo},
    test,
};

const GRPC: &str = r#"
import grpc, sys
from concurrent import futures
same = lambda data: data
if sys.argv[1] == "serve":
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(lambda request, context: request + b" from " + context.peer().encode(), same, same),
        "All": grpc.stream_stream_rpc_method_handler(lambda requests, context: (r.upper() for r in requests), same, same),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Echo", handlers)])
    assert server.add_insecure_port("[::]:8080")
    server.start()
    server.wait_for_termination()
with grpc.insecure_channel(sys.argv[2]) as channel:
    say = channel.unary_unary("/Echo/Say", same, same)
    print(say(b"hello", wait_for_ready=True, timeout=20).decode())
    every = channel.stream_stream("/Echo/All", same, same)
    print(b" ".join(every(iter([b"a", b"b", b"c"]), timeout=20)).decode())
"#;

const WEBSOCKET: &str = r#"
import asyncio, sys, websockets
async def echo(socket):
    async for message in socket:
        await socket.send(f"{socket.remote_address[0]} {message}")
async def main():
    if sys.argv[1] == "serve":
        async with websockets.serve(echo, None, 8080):
            await asyncio.Future()
    for attempt in range(200):
        try:
            async with websockets.connect(sys.argv[2]) as socket:
                for message in ("one", "two" * 10000):
                    await socket.send(message)
                    print((await socket.recv())[:20])
                return
        except (OSError, websockets.exceptions.InvalidMessage):
            await asyncio.sleep(0.05)
    raise SystemExit("no connection")
asyncio.run(main())
"#;

pub fn tests() -> Vec<Trial> {
    vec![
        test("curl_gets_a_file_from_nginx_which_sees_the_clients_address", nginx)
            .with_ignored_flag(program("nginx").is_none() || program("curl").is_none()),
        test("a_python_grpc_client_talks_to_a_python_grpc_server", grpc).with_ignored_flag(!python_has("grpc")),
        test("a_python_websocket_echoes", websocket).with_ignored_flag(!python_has("websockets")),
        test("a_gigabyte_arrives_whole_in_both_directions", gigabyte),
    ]
}

fn program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.map(|place| place.join(name)).find(|path| path.exists())
}

fn python_has(module: &str) -> bool {
    let Some(python) = program("python3") else { return false };
    let mut command = std::process::Command::new(python);
    command.args(["-c", &format!("import {module}")]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

async fn pair(mesh: &Mesh) -> anyhow::Result<(Pod, Pod, Vec<SocketAddr>)> {
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let vips: [IpAddr; 2] = ["10.96.0.10".parse()?, "fd96::10".parse()?];
    mesh.service("api", &vips, &["api"], |_| {});
    let pods = server.ips().map(|ip| SocketAddr::new(ip, 8080));
    Ok((client, server, vips.map(|ip| SocketAddr::new(ip, 80)).into_iter().chain(pods).collect()))
}

async fn nginx() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server, addresses) = pair(&mesh).await?;
    let dir = mesh.bed.dir().join("nginx");
    std::fs::create_dir_all(dir.join("files"))?;
    std::fs::set_permissions(mesh.bed.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::write(dir.join("files/page"), "a page of nginx\n".repeat(10_000))?;
    let place = dir.display();
    let settings = format!(
        "daemon off; user root; pid {place}/pid; error_log {place}/error.log; events {{}}\n\
         http {{ access_log {place}/access.log; client_body_temp_path {place}/body; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f; \
         uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
         server {{ listen 8080; listen [::]:8080; root {place}/files; }} }}"
    );
    std::fs::write(dir.join("nginx.conf"), settings)?;
    let nginx = Command::new(program("nginx").context("nginx")?).arg("-c").arg(dir.join("nginx.conf")).args(["-e", "stderr"]);
    server.spawn(nginx.output(Output::File(dir.join("output"))))?;
    for address in addresses {
        let curl =
            Command::new("curl").args(["-sS", "--fail", "--retry", "20", "--retry-all-errors", "--retry-delay", "1", "-g"]);
        let got = client.run(curl.arg(format!("http://{address}/page"))).await?;
        ensure!(
            got.status.success() && got.stdout == "a page of nginx\n".repeat(10_000),
            "{address}: {} {}",
            got.status,
            got.stderr
        );
    }
    let log = std::fs::read_to_string(dir.join("access.log"))?;
    let from = client.ips().map(|ip| format!("{ip} - -"));
    ensure!(log.lines().all(|line| from.iter().any(|ip| line.starts_with(ip))), "{log}");
    ensure!(from.iter().all(|ip| log.contains(ip)), "{log}");
    mesh.bed.shutdown().await;
    Ok(())
}

/// Runs one Python program as server and as client, and returns what the client printed.
async fn python(mesh: &Mesh, server: &Pod, client: &Pod, text: &str, target: &str) -> anyhow::Result<String> {
    let file = mesh.bed.dir().join("program.py");
    std::fs::write(&file, text)?;
    let python = || Command::new(program("python3").unwrap_or_default()).arg(&file);
    let output = mesh.bed.dir().join("server.log");
    let serving = server.spawn(python().arg("serve").output(Output::File(output.clone())))?;
    let run = client.run(python().arg("call").arg(target));
    let run = tokio::time::timeout(Duration::from_secs(60), run).await.context("the client does not end")??;
    serving.kill();
    let said = std::fs::read_to_string(output).unwrap_or_default();
    ensure!(run.status.success(), "{}\n{}\nserver: {said}", run.status, run.stderr);
    Ok(run.stdout)
}

async fn grpc() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server, addresses) = pair(&mesh).await?;
    for (address, own) in addresses.iter().zip(client.ips()) {
        let target = if address.is_ipv6() { format!("ipv6:{address}") } else { format!("ipv4:{address}") };
        let said = python(&mesh, &server, &client, GRPC, &target).await?;
        let own = if own.is_ipv6() { format!("%5B{own}%5D") } else { own.to_string() };
        ensure!(said.contains("hello from ipv") && said.contains(&own) && said.ends_with("A B C\n"), "{said} has no {own}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn websocket() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server, addresses) = pair(&mesh).await?;
    for (address, own) in addresses.iter().zip(client.ips()) {
        let said = python(&mesh, &server, &client, WEBSOCKET, &format!("ws://{address}/")).await?;
        ensure!(said.lines().count() == 2 && said.starts_with(&format!("{own} one")), "{said}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

/// A byte of the stream, by its place: no part of it looks like another part.
fn pattern(from: u64, length: usize) -> Vec<u8> {
    (from..).take(length).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

async fn gigabyte() -> anyhow::Result<()> {
    const SIZE: u64 = 1 << 30;
    const PART: usize = 1 << 20;
    let mesh = Mesh::start().await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let (mut read, mut write) = client.connect(to).await?.into_split();
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.push(read.read_u8().await?);
    }
    // One part of the pattern serves for all: what differs from part to part is its first eight bytes, the number of the part.
    let template = pattern(0, PART);
    let part_of = move |number: u64| [&number.to_be_bytes()[..], &template[8..]].concat();
    let writer = tokio::spawn({
        let part_of = part_of.clone();
        async move {
            for number in 0..SIZE / PART as u64 {
                write.write_all(&part_of(number)).await?;
            }
            write.shutdown().await
        }
    });
    let mut got = vec![0; PART];
    for number in 0..SIZE / PART as u64 {
        tokio::time::timeout(PATIENCE, read.read_exact(&mut got)).await??;
        ensure!(got == part_of(number), "part {number} came back changed");
    }
    writer.await??;
    let mut end = Vec::new();
    read.read_to_end(&mut end).await?;
    ensure!(end == b"bye", "{end:?}");
    let bytes = format!("bytes_sent={SIZE} bytes_recv={} ", SIZE + line.len() as u64 + 3);
    mesh.logged(0, &["direction=outbound", &bytes]).await?;
    mesh.logged(1, &["direction=inbound", &bytes]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}
