//! Endpoints that are known by a host name only.

use std::time::{Duration, Instant};

use ambit_api::{
    type_url,
    workload::{Address, Port, PortList, Workload, address::Type},
};
use ambit_testbed::{Families, HostEntry, Pod};
use anyhow::ensure;

use super::{addresses, serve, service, taken_by};
use crate::{
    dns::resolver::Resolver,
    mesh::{Mesh, PATIENCE},
};

const NAME: &str = "db.example";

/// An endpoint of the service that has this host name instead of addresses.
fn named(mesh: &Mesh, hostname: &str) {
    let port = Port { service_port: 80, target_port: 8080, app_protocol: 0 };
    let workload = Workload {
        uid: "Kubernetes/networking/WorkloadEntry/shop/db".to_owned(),
        name: "db".to_owned(),
        namespace: "shop".to_owned(),
        hostname: hostname.to_owned(),
        services: [("shop/api.shop.svc.cluster.local".to_owned(), PortList { ports: vec![port] })].into(),
        ..Default::default()
    };
    let name = workload.uid.clone();
    mesh.put(type_url::ADDRESS, &name, &Address { r#type: Some(Type::Workload(workload)) });
}

fn stands_for(mesh: &Mesh, pod: &Pod) -> anyhow::Result<()> {
    Ok(mesh.nodes[0].node.set_hosts(&pod.ips().into_iter().map(|ip| HostEntry::new(ip, [NAME])).collect::<Vec<_>>())?)
}

pub async fn resolved(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (one, two) = (mesh.outsider(1, "one", false).await?, mesh.outsider(1, "two", false).await?);
    let _serving = [serve(&one)?, serve(&two)?];
    named(&mesh, NAME);
    service(&mesh, &[], |_| {});
    let to = addresses(&mesh)[0];
    mesh.logged_by_calling(&client, to, 0, &["direction=outbound", "reason=destination_unresolved ", NAME]).await?;
    stands_for(&mesh, &one)?;
    for to in addresses(&mesh) {
        taken_by(&client, to, &["one"], 2 * PATIENCE).await?;
    }
    mesh.logged(0, &["direction=outbound", "reason=ok ", "dst.workload=db ", "security=none"]).await?;
    stands_for(&mesh, &two)?;
    // The resolver of the system does not say how long an answer holds; half a minute is taken.
    taken_by(&client, to, &["two"], Duration::from_secs(90)).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

pub async fn brief(families: Families) -> anyhow::Result<()> {
    let mesh = Mesh::over(families).await?;
    let client = mesh.pod(0, "web").await?;
    let (one, two) = (mesh.outsider(1, "one", false).await?, mesh.outsider(1, "two", false).await?);
    let _serving = [serve(&one)?, serve(&two)?];
    let resolver = mesh.outsider(1, "resolver", false).await?;
    let answering = Resolver::start(&resolver, one.ip(), true)?;
    std::fs::write(mesh.bed.dir().join("resolv.conf"), format!("nameserver {}\n", resolver.ip()))?;
    named(&mesh, "brief.example");
    service(&mesh, &[], |_| {});
    for to in addresses(&mesh) {
        taken_by(&client, to, &["one"], 2 * PATIENCE).await?;
    }
    ensure!(!answering.askers("brief").contains(&client.ip()), "the node asks, not the pod");
    drop(answering);
    // Its tasks, and their sockets, are gone a moment later.
    let until = Instant::now() + PATIENCE;
    let _answering = loop {
        match Resolver::start(&resolver, two.ip(), true) {
            Ok(answering) => break answering,
            Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => return Err(error),
        }
    };
    let to = addresses(&mesh)[0];
    taken_by(&client, to, &["two"], 2 * PATIENCE).await?;
    mesh.bed.shutdown().await;
    Ok(())
}
