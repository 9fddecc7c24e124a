//! What people and programs can see of the proxy.

use std::net::SocketAddr;

use ambit_api::security::{Action, Match, StringMatch, string_match::MatchType};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{Mesh, PATIENCE, call_until_it_works, echo},
    test,
};

pub fn tests() -> Vec<Trial> {
    vec![
        test("metrics_name_both_workloads_and_the_reason_and_policy_of_a_refusal", metrics),
        test("the_admin_pages_show_what_is_held_and_no_key", admin),
    ]
}

pub async fn get(mesh: &Mesh, node: usize, port: u16, path: &str) -> anyhow::Result<String> {
    let mut stream = mesh.nodes[node].node.connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    Ok(body.to_owned())
}

async fn metrics() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
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

async fn admin() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
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
