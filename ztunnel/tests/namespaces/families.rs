//! Addresses of one family beside those of two: services, pods and policies in one mesh that has both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ambit_api::security::{Action, Address, Match};
use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;

use crate::{
    mesh::{Mesh, PATIENCE, call, call_until_it_works, call_until_refused, echo, id_of},
    test,
};

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_service_address_of_one_family_leads_to_pods_that_have_the_other", across),
        test("a_pod_that_has_ipv6_alone_reaches_what_has_both_and_is_told_when_there_is_no_way", alone),
        test("a_policy_on_ipv6_networks_decides_on_ipv6_alone", networks),
        test("an_ipv4_address_written_as_ipv6_is_the_ipv4_address", mapped),
    ]
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Calls, and checks whom the server saw.
async fn sees(client: &Pod, to: SocketAddr, expected: IpAddr) -> anyhow::Result<()> {
    let (seen, answer) = call(client, to, b"hello").await.with_context(|| format!("calling {to}"))?;
    ensure!(seen == expected && answer == b"hellobye", "{to}: the server saw {seen}, not {expected}: {answer:?}");
    Ok(())
}

/// Both families lead to a pod that has one; it sees the client's address of its own family.
async fn across() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.pod(0, "web").await?;
    for (node, name) in [(1, "far"), (0, "near")] {
        let server = mesh.pod_of(node, name, Families::Ipv6).await?;
        let _echo = echo(&server, 8080)?;
        let number = 20 + u8::try_from(node)?;
        for (vip, service) in mesh.vips(number).into_iter().zip([format!("{name}-v4"), format!("{name}-v6")]) {
            mesh.service(&service, &[vip], &[name], |_| {});
            call_until_it_works(&client, at(vip, 80), PATIENCE).await?;
            sees(&client, at(vip, 80), client.ips()[1]).await?;
            let (asked, who) = (format!("dst.addr={} ", at(vip, 80)), format!("dst.identity={} ", id_of(name)));
            mesh.logged(0, &["direction=outbound", &asked, &who, "reason=ok "]).await?;
        }
        let reached = format!("dst.addr={} ", at(server.ip(), 8080));
        mesh.logged(node, &["direction=inbound", &reached, &format!("src.identity={} ", id_of("web")), "reason=ok "]).await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn alone() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.pod_of(0, "web", Families::Ipv6).await?;
    let (far, near) = (mesh.pod(1, "far").await?, mesh.pod(0, "near").await?);
    let _echo = (echo(&far, 8080)?, echo(&near, 8080)?);
    for (server, number) in [(&far, 30), (&near, 31)] {
        let vip = mesh.vips(number)[1];
        mesh.service(server.name(), &[vip], &[server.name()], |_| {});
        call_until_it_works(&client, at(vip, 80), PATIENCE).await?;
        for to in [at(vip, 80), at(server.ips()[1], 8080)] {
            sees(&client, to, client.ip()).await?;
        }
    }
    // An endpoint that has IPv4 alone is out of its reach.
    let vip = mesh.vips(30)[1];
    mesh.change("far", |workload| workload.addresses.retain(|ip| ip.len() == 4));
    let parts = ["direction=outbound", "dst.service=far.shop.svc.cluster.local ", "reason=no_healthy_endpoint "];
    mesh.logged_by_calling(&client, at(vip, 80), 0, &parts).await?;
    call_until_refused(&client, at(vip, 80)).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn networks() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let [v4, v6] = [0, 1].map(|family| at(server.ips()[family], 8080));
    for to in [v4, v6] {
        call_until_it_works(&client, to, PATIENCE).await?;
    }
    let net = |net: ipnet::IpNet| match net {
        ipnet::IpNet::V4(net) => Address { address: net.addr().octets().to_vec().into(), length: net.prefix_len().into() },
        ipnet::IpNet::V6(net) => Address { address: net.addr().octets().to_vec().into(), length: net.prefix_len().into() },
    };
    let node = &mesh.nodes;
    let (pods, of_others) = (node[0].node.pod_range_v6(), node[1].node.pod_range_v6());
    for (name, matching) in [
        ("source", Match { source_ips: vec![net(pods.into())], ..Default::default() }),
        ("destination", Match { destination_ips: vec![net(of_others.into())], ..Default::default() }),
        ("not-source", Match { not_source_ips: vec![net("0.0.0.0/0".parse()?), net(of_others.into())], ..Default::default() }),
    ] {
        mesh.policy(name, Action::Deny, vec![matching]);
        let policy = format!("policy=shop/{name} ");
        let parts = ["direction=inbound", &policy, &format!("dst.addr={v6} "), "reason=policy_denied_explicit "];
        mesh.logged_by_calling(&client, v6, 1, &parts).await.with_context(|| name.to_owned())?;
        call_until_refused(&client, v6).await?;
        sees(&client, v4, client.ips()[0]).await.with_context(|| name.to_owned())?;
        mesh.remove_policy(name);
        call_until_it_works(&client, v6, PATIENCE).await?;
    }
    mesh.policy("only-v6", Action::Allow, vec![Match { source_ips: vec![net("fd44::/16".parse()?)], ..Default::default() }]);
    mesh.logged_by_calling(
        &client,
        v4,
        1,
        &["direction=inbound", "policy=shop/only-v6 ", "reason=policy_denied_no_allow_match "],
    )
    .await?;
    sees(&client, v6, client.ips()[1]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

/// As programs with one socket for both families dial it.
async fn mapped() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let IpAddr::V4(ip) = server.ip() else { anyhow::bail!("{} is not IPv4", server.ip()) };
    call_until_it_works(&client, at(ip.into(), 8080), PATIENCE).await?;
    sees(&client, at(Ipv4Addr::to_ipv6_mapped(&ip).into(), 8080), client.ip()).await?;
    let to = format!("dst.addr={} ", at(ip.into(), 8080));
    mesh.logged(0, &["direction=outbound", &to, "security=mutual_tls", "reason=ok "]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}
