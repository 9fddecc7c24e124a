//! Policy does not depend on the path: the same cases between nodes and on one node have the same outcome, and both ends log the same.

use std::net::{IpAddr, SocketAddr};

use ambit_api::security::{self, Action, Address, Authorization, Match, Scope, ServiceAccountMatch, StringMatch};
use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use security::string_match::MatchType;

use crate::{
    mesh::{Mesh, PATIENCE, authorization, call, call_until_it_works, echo},
    near::MODES,
    observe::get,
    test,
};

pub fn tests() -> Vec<Trial> {
    MODES
        .iter()
        .map(|mode| test(&format!("{mode}: every_policy_decides_on_one_node_as_between_nodes"), move || compare(mode)))
        .collect()
}

/// What both ends made of a call.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    reached: bool,
    outbound: Vec<String>,
    inbound: Vec<String>,
}

struct Case {
    name: String,
    policy: Authorization,
    port: u16,
}

async fn compare(mode: &'static str) -> anyhow::Result<()> {
    let between = outcomes(mode, 1).await.context("between nodes")?;
    let near = outcomes(mode, 0).await.context("on one node")?;
    ensure!(between.len() == near.len() && near.len() > 40, "{} and {} outcomes", between.len(), near.len());
    for ((case, between), (_, near)) in between.iter().zip(&near) {
        ensure!(between == near, "{case}: between nodes {between:#?}, on one node {near:#?}");
    }
    let refused = near.iter().filter(|(_, outcome)| !outcome.reached).count();
    ensure!(refused > 15 && near.len() - refused > 15, "{refused} of {} were refused", near.len());
    Ok(())
}

/// The outcome of every case, with the server on this node and the client on the first.
async fn outcomes(mode: &'static str, server_node: usize) -> anyhow::Result<Vec<(String, Outcome)>> {
    let mesh = Mesh::start_with(Families::Dual, mode).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(server_node, "api").await?);
    let _echo = (echo(&server, 8080)?, echo(&server, 8081)?);
    let vips = mesh.vips(10);
    mesh.service("api", &vips, &["api"], |_| {});
    // An address that may have been a stranger's does not go directly for two seconds.
    tokio::time::sleep(std::time::Duration::from_millis(2200)).await;
    for vip in &vips {
        call_until_it_works(&client, SocketAddr::new(*vip, 80), PATIENCE).await?;
    }
    // The lines of these calls.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let direct = mode == "direct" && server_node == 0;
    let mut outcomes = Vec::new();
    for (number, case) in cases(&client, &server).into_iter().enumerate() {
        mesh.put_policy(&case.policy);
        known(&mesh, &case.name, true).await?;
        for ip in server.ips() {
            let outcome = outcome(&mesh, &client, &server, SocketAddr::new(ip, case.port), server_node, direct).await?;
            outcomes.push((format!("{} port {} over {}", case.name, case.port, family(ip)), outcome));
        }
        let vip = vips[number % vips.len()];
        let service = outcome(&mesh, &client, &server, SocketAddr::new(vip, 80), server_node, direct).await?;
        outcomes.push((format!("{} by service over {}", case.name, family(vip)), service));
        mesh.remove_policy(&case.name);
        known(&mesh, &case.name, false).await?;
    }
    let to = SocketAddr::new(server.ips()[1], 8080);
    mesh.change("api", |workload| workload.authorization_policies = vec!["shop/never-sent".to_owned()]);
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "policy=shop/never-sent "]).await?;
    outcomes.push(("policy not delivered".to_owned(), outcome(&mesh, &client, &server, to, server_node, direct).await?));
    for port in [15001, 15006, 15008] {
        for ip in server.ips() {
            let outcome = outcome(&mesh, &client, &server, SocketAddr::new(ip, port), server_node, direct).await?;
            outcomes.push((format!("port {port} over {}", family(ip)), outcome));
        }
    }
    mesh.bed.shutdown().await;
    Ok(outcomes)
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Waits until every proxy has the policy, or no longer has it.
async fn known(mesh: &Mesh, policy: &str, there: bool) -> anyhow::Result<()> {
    let name = format!("shop/{policy}\"");
    for node in 0..mesh.nodes.len() {
        let until = std::time::Instant::now() + PATIENCE;
        while get(mesh, node, 15000, "/config_dump").await?.contains(&name) != there {
            ensure!(std::time::Instant::now() < until, "node {node} still does not know of {policy}, or still does");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

async fn outcome(
    mesh: &Mesh,
    client: &Pod,
    server: &Pod,
    to: SocketAddr,
    server_node: usize,
    direct: bool,
) -> anyhow::Result<Outcome> {
    let before = [lines(mesh, 0, "outbound").len(), lines(mesh, server_node, "inbound").len()];
    let answer = call(client, to, b"hello").await;
    if let Ok((seen, answer)) = &answer {
        ensure!(client.ips().contains(seen) && answer == b"hellobye", "{to}: {seen} {answer:?}");
    }
    let outbound = next(mesh, 0, "outbound", before[0]).await?;
    let inbound = next(mesh, server_node, "inbound", before[1]).await?;
    let of = |line: &str, name: &str| line.split(' ').find(|field| field.starts_with(name)).map(str::to_owned);
    // What goes directly keeps the client's port.
    let same_port = of(&outbound, "src.addr=") == of(&inbound, "src.addr=");
    ensure!(!direct || answer.is_err() || same_port, "{outbound}\n{inbound}");
    ensure!(of(&outbound, "trace=") == of(&inbound, "trace="), "{outbound}\n{inbound}");
    let plain = |line: &str| facts(line, client, server);
    Ok(Outcome { reached: answer.is_ok(), outbound: plain(&outbound), inbound: plain(&inbound) })
}

fn lines(mesh: &Mesh, node: usize, direction: &str) -> Vec<String> {
    let log = std::fs::read_to_string(&mesh.nodes[node].log).unwrap_or_default();
    log.lines().filter(|line| line.contains(&format!("direction={direction} "))).map(str::to_owned).collect()
}

async fn next(mesh: &Mesh, node: usize, direction: &str, after: usize) -> anyhow::Result<String> {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(line) = lines(mesh, node, direction).get(after) {
            return Ok(line.clone());
        }
        ensure!(std::time::Instant::now() < until, "node {node} logged no {direction} line");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// What a line says, apart from what differs by nature: times, ports that the kernel chose, addresses, traces, and how it was carried.
fn facts(line: &str, client: &Pod, server: &Pod) -> Vec<String> {
    let mut line = line.to_owned();
    for (ips, name) in [(client.ips(), "CLIENT"), (server.ips(), "SERVER")] {
        for ip in ips {
            line = line.replace(&ip.to_string(), name);
        }
    }
    let kept = |field: &&str| {
        !["duration_ms=", "src.addr=", "security=", "trace="].iter().any(|name| field.starts_with(name))
            && !field.starts_with("20")
    };
    line.split(' ').filter(kept).map(str::to_owned).collect()
}

fn text(value: &str) -> StringMatch {
    StringMatch { match_type: Some(MatchType::Exact(value.to_owned())) }
}

fn account(name: &str) -> ServiceAccountMatch {
    ServiceAccountMatch { namespace: "shop".to_owned(), service_account: name.to_owned() }
}

fn net(ip: IpAddr) -> Address {
    let (address, length) = match ip {
        IpAddr::V4(ip) => (ip.octets().to_vec(), 32),
        IpAddr::V6(ip) => (ip.octets().to_vec(), 128),
    };
    Address { address: address.into(), length }
}

/// Everything a policy can ask, as DENY and as ALLOW, for this client and for another, in force and as a dry run.
fn cases(client: &Pod, server: &Pod) -> Vec<Case> {
    let principal = |name: &str| text(&format!("cluster.local/ns/shop/sa/{name}"));
    let nets = |pod: &Pod| pod.ips().into_iter().map(net).collect();
    let presence = || StringMatch { match_type: Some(MatchType::Presence(())) };
    let matches = [
        ("principal", Match { principals: vec![principal("web")], ..Default::default() }),
        ("other-principal", Match { principals: vec![principal("batch")], ..Default::default() }),
        ("not-principal", Match { not_principals: vec![principal("web")], ..Default::default() }),
        ("no-identity", Match { not_principals: vec![presence()], ..Default::default() }),
        ("namespace", Match { namespaces: vec![text("shop")], ..Default::default() }),
        ("other-namespace", Match { namespaces: vec![text("elsewhere")], ..Default::default() }),
        ("account", Match { service_accounts: vec![account("web")], ..Default::default() }),
        ("other-account", Match { service_accounts: vec![account("api")], ..Default::default() }),
        ("port", Match { destination_ports: vec![8080], ..Default::default() }),
        ("source", Match { source_ips: nets(client), ..Default::default() }),
        ("other-source", Match { source_ips: nets(server), ..Default::default() }),
        ("destination", Match { destination_ips: nets(server), ..Default::default() }),
        ("both", Match { namespaces: vec![text("shop")], destination_ports: vec![9], ..Default::default() }),
    ];
    let policy = |name: &str, action, dry_run, matches| Authorization { dry_run, ..authorization(name, action, matches) };
    let mut cases = Vec::new();
    for (name, matching) in &matches {
        for (action, word) in [(Action::Deny, "deny"), (Action::Allow, "allow")] {
            let name = format!("{word}-{name}");
            cases.push(Case { policy: policy(&name, action, false, vec![matching.clone()]), name, port: 8080 });
        }
    }
    let all = vec![matches[0].1.clone(), matches[4].1.clone()];
    for (action, word) in [(Action::Deny, "deny"), (Action::Allow, "allow")] {
        let name = format!("dry-run-{word}");
        cases.push(Case { policy: policy(&name, action, true, all.clone()), name, port: 8080 });
        let name = format!("{word}-other-port");
        cases.push(Case { policy: policy(&name, action, false, vec![matches[8].1.clone()]), name, port: 8081 });
        let name = format!("{word}-nothing");
        cases.push(Case { policy: policy(&name, action, false, Vec::new()), name, port: 8080 });
        let name = format!("{word}-and-nobody-listens");
        cases.push(Case { policy: policy(&name, action, false, vec![matches[1].1.clone()]), name, port: 9 });
    }
    let name = "everywhere".to_owned();
    let everywhere = Authorization { scope: Scope::Global.into(), ..policy(&name, Action::Deny, false, all) };
    cases.push(Case { policy: everywhere, name, port: 8080 });
    cases
}
