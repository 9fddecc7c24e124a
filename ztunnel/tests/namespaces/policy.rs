//! Who may connect, and how both ends learn why not.

use std::net::SocketAddr;

use ambit_api::security::{Action, Authorization, Match, StringMatch, string_match::MatchType};
use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    mesh::{Mesh, PATIENCE, authorization, call, call_until_it_works, call_until_refused, echo},
    observe::get,
    over,
};

pub fn tests(families: Families) -> Vec<Trial> {
    vec![
        over(families, "a_deny_policy_refuses_and_both_ends_say_which", deny),
        over(families, "an_allow_policy_without_the_caller_refuses_and_says_what_came_closest", allow),
        over(families, "a_policy_that_was_not_delivered_refuses", unknown),
        over(families, "strict_refuses_plain_text_and_permissive_takes_it", strict),
        over(families, "a_new_policy_cuts_the_connections_that_it_denies", cut),
        over(families, "a_policy_that_asks_for_an_identity_cuts_open_plain_text_and_nothing_else", cut_plain_text),
        over(families, "a_dry_run_policy_is_logged_and_counted_and_enforces_nothing", dry_run),
    ]
}

fn principal(name: &str) -> Match {
    let exact = MatchType::Exact(format!("cluster.local/ns/shop/sa/{name}"));
    Match { principals: vec![StringMatch { match_type: Some(exact) }], ..Default::default() }
}

async fn pair(mesh: &Mesh) -> anyhow::Result<(Pod, Pod, SocketAddr)> {
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let to = SocketAddr::new(server.ip(), 8080);
    drop(echo(&server, 8080)?);
    call_until_it_works(&client, to, PATIENCE).await?;
    Ok((client, server, to))
}

async fn both_ends(mesh: &Mesh, client: &Pod, to: SocketAddr, reason: &str, policy: &str) -> anyhow::Result<()> {
    for (node, direction) in [(0, "direction=outbound"), (1, "direction=inbound")] {
        mesh.logged_by_calling(client, to, node, &[direction, &format!("policy={policy} "), &format!("reason={reason} ")])
            .await?;
    }
    call_until_refused(client, to).await
}

async fn deny(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, _server, to) = pair(&mesh).await?;
    mesh.policy("no-web", Action::Deny, vec![principal("web")]);
    both_ends(&mesh, &client, to, "policy_denied_explicit", "shop/no-web").await?;
    mesh.remove_policy("no-web");
    call_until_it_works(&client, to, PATIENCE).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn allow(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, _server, to) = pair(&mesh).await?;
    mesh.policy("only-batch", Action::Allow, vec![principal("batch")]);
    both_ends(&mesh, &client, to, "policy_denied_no_allow_match", "shop/only-batch").await?;
    let line = mesh.logged(1, &["reason=policy_denied_no_allow_match"]).await?;
    ensure!(line.contains("principals did not match cluster.local/ns/shop/sa/web"), "{line}");
    mesh.policy("only-web", Action::Allow, vec![principal("web")]);
    call_until_it_works(&client, to, PATIENCE).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn unknown(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, _server, to) = pair(&mesh).await?;
    mesh.change("api", |workload| workload.authorization_policies = vec!["shop/never-sent".to_owned()]);
    both_ends(&mesh, &client, to, "policy_unknown", "shop/never-sent").await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn strict(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, server) = (mesh.outsider(0, "legacy", true).await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    for (ip, own) in server.ips().into_iter().zip(client.ips()) {
        let (seen, _) = call(&client, SocketAddr::new(ip, 8080), b"x").await?;
        ensure!(seen == own, "the server saw {seen}, not {own}");
    }
    mesh.logged(1, &["direction=inbound", "security=none", "reason=ok", "src.workload=legacy", "src.identity=-"]).await?;
    mesh.policy("strict", Action::Deny, vec![no_identity()]);
    call_until_refused(&client, SocketAddr::new(server.ip(), 8080)).await?;
    mesh.logged(1, &["direction=inbound", "security=none", "policy=shop/strict ", "reason=strict_mtls_required "]).await?;
    let member = mesh.pod(0, "web").await?;
    call(&member, SocketAddr::new(server.ip(), 8080), b"x").await?;
    mesh.bed.shutdown().await;
    Ok(())
}

/// Matches whoever has no identity.
fn no_identity() -> Match {
    let presence = StringMatch { match_type: Some(MatchType::Presence(())) };
    Match { not_principals: vec![presence], ..Default::default() }
}

/// A connection to an echo server that was let in.
async fn open(client: &Pod, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut open = client.connect(to).await?;
    exchange(&mut open).await.context("it ended before the policy came")?;
    Ok(open)
}

/// Sends five bytes, which come back.
async fn exchange(open: &mut TcpStream) -> anyhow::Result<()> {
    open.write_all(b"first").await?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"first") {
        ensure!(timeout(PATIENCE, open.read_buf(&mut seen)).await?? > 0, "it ended");
    }
    Ok(())
}

async fn ends_in_order(mut open: TcpStream) -> anyhow::Result<()> {
    open.shutdown().await?;
    let mut all = Vec::new();
    timeout(PATIENCE, open.read_to_end(&mut all)).await.context("it goes on")??;
    ensure!(all == b"bye", "{all:?}");
    Ok(())
}

async fn ends_by_reset(mut open: TcpStream) -> anyhow::Result<()> {
    let mut all = Vec::new();
    let end = timeout(PATIENCE, open.read_to_end(&mut all)).await.context("it goes on")?;
    ensure!(end.is_err(), "the connection ended in order: {all:?}");
    Ok(())
}

async fn cut(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, _server, to) = pair(&mesh).await?;
    let open = open(&client, to).await?;
    mesh.policy("no-web", Action::Deny, vec![principal("web")]);
    ends_by_reset(open).await?;
    mesh.logged(1, &["direction=inbound", "policy=shop/no-web ", "reason=policy_denied_explicit ", "bytes_sent=5 "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn cut_plain_text(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (member, server, to) = pair(&mesh).await?;
    let legacy = mesh.outsider(0, "legacy", true).await?;
    let mut with_identity = open(&member, to).await?;
    let mut plain = Vec::new();
    for ip in server.ips() {
        plain.push(open(&legacy, SocketAddr::new(ip, 8080)).await?);
    }
    mesh.policy("strict", Action::Deny, vec![no_identity()]);
    for open in plain {
        ends_by_reset(open).await?;
    }
    for ip in server.ips() {
        let to = format!("dst.addr={} ", SocketAddr::new(ip, 8080));
        let reason = ["policy=shop/strict ", "reason=strict_mtls_required ", "bytes_sent=5 "];
        mesh.logged(1, &[&["direction=inbound", "security=none", &to], &reason[..]].concat()).await?;
    }
    exchange(&mut with_identity).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn dry_run(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let (client, _server, to) = pair(&mesh).await?;
    let mut before = open(&client, to).await?;
    let dry = |name: &str, action, who| Authorization { dry_run: true, ..authorization(name, action, vec![principal(who)]) };
    mesh.put_policy(&dry("a-deny", Action::Deny, "web"));
    mesh.put_policy(&dry("b-other", Action::Deny, "batch"));
    mesh.put_policy(&dry("c-allow", Action::Allow, "batch"));
    let decided = "dry_run=shop/a-deny:policy_denied_explicit,shop/c-allow:policy_denied_no_allow_match";
    let both = ["direction=inbound", "reason=ok ", "policy=- ", decided];
    mesh.logged_by_calling(&client, to, 1, &both).await?;
    // One that was open before the policies came is told of too.
    exchange(&mut before).await?;
    ends_in_order(before).await?;
    mesh.logged(1, &[&both[..], &["bytes_sent=10 "]].concat()).await?;
    mesh.put_policy(&dry("c-allow", Action::Allow, "web"));
    mesh.logged_by_calling(&client, to, 1, &["direction=inbound", "reason=ok ", "shop/c-allow:ok"]).await?;
    let text = get(&mesh, 1, 15020, "/metrics").await?;
    for (policy, reason) in [("a-deny", "policy_denied_explicit"), ("c-allow", "policy_denied_no_allow_match"), ("c-allow", "ok")]
    {
        let parts = [format!("policy=\"shop/{policy}\""), format!("reason=\"{reason}\""), "reporter=\"destination\"".to_owned()];
        let counted =
            |line: &str| line.starts_with("ambit_policy_dry_run_total{") && parts.iter().all(|part| line.contains(part));
        ensure!(text.lines().any(counted), "{policy} {reason}:\n{text}");
    }
    ensure!(!text.contains("b-other") && !text.contains("istio_tcp_connections_failed_total{reporter=\"destination\""), "{text}");
    mesh.bed.shutdown().await;
    Ok(())
}
