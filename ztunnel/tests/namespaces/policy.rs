//! Who may connect, and how both ends learn why not.

use std::net::SocketAddr;

use ambit_api::security::{Action, Match, StringMatch, string_match::MatchType};
use ambit_testbed::Pod;
use anyhow::ensure;
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{Mesh, PATIENCE, call, call_until_it_works, call_until_refused, echo},
    test,
};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_deny_policy_refuses_and_both_ends_say_which", deny),
        test("an_allow_policy_without_the_caller_refuses_and_says_what_came_closest", allow),
        test("a_policy_that_was_not_delivered_refuses", unknown),
        test("strict_refuses_plain_text_and_permissive_takes_it", strict),
        test("a_new_policy_cuts_the_connections_that_it_denies", cut),
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

async fn deny() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, _server, to) = pair(&mesh).await?;
    mesh.policy("no-web", Action::Deny, vec![principal("web")]);
    both_ends(&mesh, &client, to, "policy_denied_explicit", "shop/no-web").await?;
    mesh.remove_policy("no-web");
    call_until_it_works(&client, to, PATIENCE).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn allow() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
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

async fn unknown() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, _server, to) = pair(&mesh).await?;
    mesh.change("api", |workload| workload.authorization_policies = vec!["shop/never-sent".to_owned()]);
    both_ends(&mesh, &client, to, "policy_unknown", "shop/never-sent").await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn strict() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server) = (mesh.outsider(0, "legacy", true).await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    for (ip, own) in server.ips().into_iter().zip(client.ips()) {
        let (seen, _) = call(&client, SocketAddr::new(ip, 8080), b"x").await?;
        ensure!(seen == own, "the server saw {seen}, not {own}");
    }
    mesh.logged(1, &["direction=inbound", "security=none", "reason=ok", "src.workload=legacy", "src.identity=-"]).await?;
    let presence = StringMatch { match_type: Some(MatchType::Presence(())) };
    mesh.policy("strict", Action::Deny, vec![Match { not_principals: vec![presence], ..Default::default() }]);
    call_until_refused(&client, SocketAddr::new(server.ip(), 8080)).await?;
    mesh.logged(1, &["direction=inbound", "security=none", "policy=shop/strict ", "reason=strict_mtls_required "]).await?;
    let member = mesh.pod(0, "web").await?;
    call(&member, SocketAddr::new(server.ip(), 8080), b"x").await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn cut() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, _server, to) = pair(&mesh).await?;
    let mut open = client.connect(to).await?;
    open.write_all(b"first").await?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"first") {
        ensure!(tokio::time::timeout(PATIENCE, open.read_buf(&mut seen)).await?? > 0, "it ended before the policy came");
    }
    mesh.policy("no-web", Action::Deny, vec![principal("web")]);
    let mut all = Vec::new();
    let end = tokio::time::timeout(PATIENCE, open.read_to_end(&mut all)).await?;
    ensure!(end.is_err(), "the connection ended in order: {all:?}");
    mesh.logged(1, &["direction=inbound", "policy=shop/no-web ", "reason=policy_denied_explicit ", "bytes_sent=5 "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}
