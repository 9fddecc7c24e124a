//! What people and programs can see of the proxy.

mod profiles;
pub mod series;
mod spans;

use std::{
    ffi::OsString,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ambit_api::security::{Action, Match, StringMatch, string_match::MatchType};
use ambit_testbed::Families;
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{Mesh, PATIENCE, call_until_it_works, echo},
    over, test,
};

pub fn tests(families: Families) -> Vec<Trial> {
    vec![
        over(families, "metrics_name_both_workloads_and_the_reason_and_policy_of_a_refusal", metrics),
        over(families, "the_admin_pages_show_what_is_held_and_no_key", admin),
        over(families, "open_connections_are_listed_with_their_bytes_and_policy_and_both_logs_name_one_trace", open_connections),
        over(families, "what_is_logged_is_changed_while_the_proxy_runs", log_level),
    ]
}

/// Those that have nothing to do with addresses.
pub fn of_the_process() -> Vec<Trial> {
    vec![
        test("series_that_nobody_uses_leave_for_new_ones_and_those_of_open_connections_stay", series::leave),
        test("spans_of_one_connection_come_to_the_collectors_of_both_nodes", spans::come),
        test("the_access_log_is_json_if_asked_for_and_what_is_refused_is_in_every_sample", json_log),
        test("profiles_name_the_functions_that_use_processor_time_and_memory", profiles::name),
    ]
}

pub async fn get(mesh: &Mesh, node: usize, port: u16, path: &str) -> anyhow::Result<String> {
    ask(mesh, node, port, &format!("GET {path}")).await
}

async fn ask(mesh: &Mesh, node: usize, port: u16, what: &str) -> anyhow::Result<String> {
    let (status, body) = answer(mesh, node, port, what).await?;
    ensure!(status == 200, "{what}: {status}");
    Ok(String::from_utf8(body)?)
}

/// The status and the body.
async fn answer(mesh: &Mesh, node: usize, port: u16, what: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = mesh.nodes[node].node.connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    stream.write_all(format!("{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("no head")?;
    let status = std::str::from_utf8(&answer[..head])?.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, answer.split_off(head + 4)))
}

async fn metrics(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let suffix = StringMatch { match_type: Some(MatchType::Suffix("/sa/web".to_owned())) };
    mesh.policy("no-web", Action::Deny, vec![Match { principals: vec![suffix], ..Default::default() }]);
    mesh.logged_by_calling(&client, to, 0, &["reason=policy_denied_explicit "]).await?;
    for (node, reporter) in [(0, "source"), (1, "destination")] {
        mesh.logged(node, &["reason=policy_denied_explicit "]).await?;
        let text = get(&mesh, node, 15020, "/metrics").await?;
        let line = |name: &str, parts: &[&str]| {
            text.lines().any(|line| line.starts_with(&format!("{name}{{")) && parts.iter().all(|part| line.contains(part)))
        };
        let reporter = format!("reporter=\"{reporter}\"");
        let names =
            ["source_workload=\"web\"", "destination_workload=\"api\"", "connection_security_policy=\"mutual_tls\"", &reporter];
        for name in ["opened_total", "closed_total"] {
            ensure!(line(&format!("istio_tcp_connections_{name}"), &names), "{name}:\n{text}");
        }
        ensure!(line("istio_tcp_sent_bytes_total", &names) && line("istio_tcp_received_bytes_total", &names), "{text}");
        let refused = ["reason=\"policy_denied_explicit\"", "policy=\"shop/no-web\"", "source_workload=\"web\"", &reporter];
        ensure!(line("istio_tcp_connections_failed_total", &refused), "{text}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn admin(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    // It is asked for when the pod is captured, not when it calls for the first time.
    let until = Instant::now() + PATIENCE;
    while !get(&mesh, 0, 15000, "/config_dump").await?.contains("\"state\": \"Available\"") {
        ensure!(Instant::now() < until, "no certificate: {}", mesh.program_log(0));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _echo = echo(&server, 8080)?;
    call_until_it_works(&client, SocketAddr::new(server.ip(), 8080), PATIENCE).await?;
    ensure!(get(&mesh, 0, 15021, "/healthz/ready").await? == "ready\n");
    let dump = get(&mesh, 0, 15000, "/config_dump").await?;
    let read: serde_json::Value = serde_json::from_str(&dump)?;
    let names = |list: &str, field: &str| {
        let items = read[list].as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|item| item[field].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    ensure!(names("workloads", "name") == ["api", "web"], "{dump}");
    let web = &read["workloadState"]["uid-web"];
    ensure!(web["info"]["name"] == "web" && read["workloadState"].as_object().is_some_and(|pods| pods.len() == 1), "{dump}");
    // The node holds the certificates of its own pods, and of no other.
    ensure!(names("certificates", "identity") == ["spiffe://cluster.local/ns/shop/sa/web"], "{dump}");
    ensure!(!dump.contains("PRIVATE") && !dump.contains("BEGIN"), "{dump}");
    mesh.nodes[0].agent.remove("uid-web").await?;
    let read: serde_json::Value = serde_json::from_str(&get(&mesh, 0, 15000, "/config_dump").await?)?;
    ensure!(read["certificates"].as_array().is_some_and(Vec::is_empty), "{read}");
    mesh.bed.shutdown().await;
    Ok(())
}

async fn open_connections(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let suffix = StringMatch { match_type: Some(MatchType::Suffix("/sa/web".to_owned())) };
    mesh.policy("only-web", Action::Allow, vec![Match { principals: vec![suffix], ..Default::default() }]);
    mesh.service("api", &mesh.vips(10), &["api"], |_| {});
    let (to, own) = (SocketAddr::new(mesh.vip(10), 80), SocketAddr::new(server.ip(), 8080));
    mesh.logged_by_calling(&client, to, 1, &["direction=inbound", "policy=shop/only-web ", "reason=ok "]).await?;
    let mut stream = client.connect(to).await?;
    let from = stream.local_addr()?;
    stream.write_all(b"hello").await?;
    let mut said = vec![0; format!("{}\nhello", client.ip()).len()];
    stream.read_exact(&mut said).await?;
    for (node, uid, direction, original) in [(0, "uid-web", "outbound", to), (1, "uid-api", "inbound", own)] {
        // The destination's node knows the client by its address and the tunnel's port. Calls from before may not have ended there.
        let is_client =
            |src: &str| src.parse().is_ok_and(|src: SocketAddr| src.ip() == client.ip() && (node == 1 || src == from));
        let is_this = |open: &&serde_json::Value| {
            open["src"].as_str().is_some_and(is_client) && open["bytesSent"] == 5 && open["bytesReceived"] == said.len()
        };
        // What the client has read is counted a moment after it was written.
        let until = Instant::now() + PATIENCE;
        let open = loop {
            let dump: serde_json::Value = serde_json::from_str(&get(&mesh, node, 15000, "/config_dump").await?)?;
            let listed = dump["workloadState"][uid]["connections"][direction].as_array().cloned().unwrap_or_default();
            if let Some(open) = listed.iter().find(is_this) {
                break open.clone();
            }
            ensure!(Instant::now() < until, "no connection of {from}: {}", dump["workloadState"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let ends = (open["originalDst"].as_str(), open["actualDst"].as_str());
        ensure!(ends == (Some(&*original.to_string()), Some(&*own.to_string())), "{open}");
        ensure!(open["security"] == "mutual_tls", "{open}");
        ensure!(open["policy"].as_str() == (node == 1).then_some("shop/only-web"), "{open}");
    }
    drop(stream);
    let source = format!("src.addr={from} ");
    let line = mesh.logged(0, &["direction=outbound", &source]).await?;
    let trace = line.split(' ').find(|part| part.starts_with("trace=")).context("no trace")?;
    ensure!(trace.len() == "trace=".len() + 32, "{trace}");
    mesh.logged(1, &["direction=inbound", trace]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn json_log() -> anyhow::Result<()> {
    let mesh =
        Mesh::start_adding(|_, _| ["--access-log-format", "json", "--access-log-sample", "0"].map(OsString::from).to_vec())
            .await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let suffix = StringMatch { match_type: Some(MatchType::Suffix("/sa/web".to_owned())) };
    mesh.policy("no-web", Action::Deny, vec![Match { principals: vec![suffix], ..Default::default() }]);
    for (node, direction) in [(0, "outbound"), (1, "inbound")] {
        let line = mesh.logged_by_calling(&client, to, node, &["\"reason\":\"policy_denied_explicit\""]).await?;
        let read: serde_json::Value = serde_json::from_str(&line)?;
        ensure!(read["direction"] == direction && read["policy"] == "shop/no-web", "{line}");
        ensure!(read["src.workload"] == "web" && read["dst.workload"] == "api" && read["duration_ms"].is_number(), "{line}");
        let well = mesh.logged_now(node, &["\"reason\":\"ok\""]);
        ensure!(well.is_none(), "{well:?}");
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn log_level(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let said = |text: &str| format!("log level: {text}\n");
    ensure!(get(&mesh, 0, 15000, "/logging").await? == said("info,h2=warn"));
    ensure!(!mesh.program_log(0).contains("DEBUG"), "{}", mesh.program_log(0));
    ensure!(ask(&mesh, 0, 15000, "POST /logging?level=ztunnel:debug").await? == said("info,h2=warn,ztunnel=debug"));
    ensure!(ask(&mesh, 0, 15000, "POST /logging?level=ztunnel=loud").await.is_err());
    ensure!(ask(&mesh, 0, 15000, "POST /logging?level=debug").await? == said("debug"));
    let _pod = mesh.pod(0, "web").await?;
    let until = Instant::now() + PATIENCE;
    while !mesh.program_log(0).contains("DEBUG") {
        ensure!(Instant::now() < until, "nothing more is logged: {}", mesh.program_log(0));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(ask(&mesh, 0, 15000, "POST /logging?reset").await? == said("info,h2=warn"));
    mesh.bed.shutdown().await;
    Ok(())
}
