//! The admin pages of our waypoint have what those of Envoy have, where `istioctl proxy-config` looks for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::Suite;
use crate::client::{over, request};
use crate::mesh::{Mesh, identity};

/// A service port: its routes, and its cluster.
const BILLING: &str = "inbound-vip|80|http|billing.shop.svc.cluster.local";
/// `[redacted]`, as bytes are written.
const REDACTED: &str = "W3JlZGFjdGVkXQ==";

pub fn tests(suite: &mut Suite) {
    suite.test("shows its configuration and its endpoints on the admin pages that istioctl reads", configuration);
    suite.test("says on its admin pages what it is and what it counts", itself);
}

/// The answer of the admin pages.
async fn ask(mesh: &Mesh, method: &str, page: &str) -> anyhow::Result<(u16, String)> {
    let admin = mesh.waypoint.connect(([127, 0, 0, 1], 15000).into()).await?;
    let (status, _, body) = over(admin, request(method, page, &[])).await?;
    Ok((status, body))
}

async fn text(mesh: &Mesh, page: &str) -> anyhow::Result<String> {
    let (status, body) = ask(mesh, "GET", page).await?;
    ensure!(status == 200, "{page}: {status} {body}");
    Ok(body)
}

async fn json(mesh: &Mesh, page: &str) -> anyhow::Result<Value> {
    let body = text(mesh, page).await?;
    serde_json::from_str(&body).with_context(|| format!("{page}: {body}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The resources of a kind, in the section of a dump.
fn resources<'a>(dump: &'a Value, section: &str, kind: &str) -> anyhow::Result<Vec<&'a Value>> {
    let name = format!("type.googleapis.com/envoy.admin.v3.{section}ConfigDump");
    let section = list(dump, "/configs").find(|section| section["@type"] == *name).with_context(|| format!("no {name}"))?;
    let resources: Vec<&Value> = list(section, &format!("/{kind}")).collect();
    ensure!(!resources.is_empty(), "no {kind} in {name}");
    Ok(resources)
}

/// The names of resources, each of which has a version and a time.
fn names<'a>(resources: &[&'a Value], state: &str, resource: &str) -> anyhow::Result<BTreeSet<&'a str>> {
    let name = |found: &&'a Value| -> anyhow::Result<&'a str> {
        let state = found.pointer(state).with_context(|| format!("no {state} in {found:#}"))?;
        let said = |key: &str| state[key].as_str().is_some_and(|text| !text.is_empty());
        ensure!(said("version_info") && said("last_updated") && state[resource]["@type"].is_string(), "{state:#}");
        let named = state[resource]["name"].as_str().or(state[resource]["cluster_name"].as_str());
        named.with_context(|| format!("no name in {state:#}"))
    };
    resources.iter().map(name).collect()
}

async fn configuration(mesh: &Mesh) -> anyhow::Result<()> {
    let dump = json(mesh, "/config_dump?include_eds").await?;
    let listeners = resources(&dump, "Listeners", "dynamic_listeners")?;
    let listeners = names(&listeners, "/active_state", "listener")?;
    ensure!(listeners == ["connect_originate", "connect_terminate", "main_internal"].into(), "{listeners:?}");
    let routes = names(&resources(&dump, "Routes", "dynamic_route_configs")?, "", "route_config")?;
    ensure!(routes.contains(BILLING) && routes.contains("connect_terminate"), "{routes:?}");
    let clusters = names(&resources(&dump, "Clusters", "dynamic_active_clusters")?, "", "cluster")?;
    ensure!(clusters.contains(BILLING) && clusters.contains("connect_originate"), "{clusters:?}");
    let endpoints = resources(&dump, "Endpoints", "dynamic_endpoint_configs")?;
    let of_billing = endpoints.iter().find(|one| one["endpoint_config"]["cluster_name"] == BILLING);
    ensure!(of_billing.is_some(), "{endpoints:#?}");
    let secrets = resources(&dump, "Secrets", "dynamic_active_secrets")?;
    let own = secrets.iter().find(|secret| secret["name"] == "default").context("no secret")?;
    let pair = &own["secret"]["tls_certificate"];
    let key = &pair["private_key"];
    ensure!(pair["certificate_chain"].is_object(), "{own:#}");
    ensure!(key["inline_bytes"] == REDACTED || key["inline_string"] == "[redacted]", "{own:#}");

    // What is nested is written out, too.
    let only = json(mesh, "/config_dump?resource=dynamic_listeners&name_regex=main_.%2A").await?;
    let found: Vec<&str> = list(&only, "/configs").filter_map(|listener| listener["name"].as_str()).collect();
    ensure!(found == ["main_internal"], "{only:#}");
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let listener = &only["configs"][0]["active_state"]["listener"];
    let chain = list(listener, "/filter_chains").find(|chain| chain["name"] == BILLING).context("no chain")?;
    let manager = list(chain, "/filters").map(|filter| &filter["typed_config"]).find(|config| config["@type"] == manager);
    ensure!(manager.is_some_and(|manager| manager["rds"]["route_config_name"] == BILLING), "{chain:#}");

    let clusters = json(mesh, "/clusters?format=json").await?;
    let status = list(&clusters, "/cluster_statuses").find(|status| status["name"] == BILLING).context("no cluster")?;
    let mut at = BTreeSet::new();
    for host in list(status, "/host_statuses") {
        let address = &host["address"]["envoy_internal_address"];
        ensure!(address["server_listener_name"] == "connect_originate", "{host:#}");
        ensure!(host["health_status"]["eds_health_status"] == "HEALTHY" && host["weight"] == 1, "{host:#}");
        at.insert(address["endpoint_id"].as_str().unwrap_or_default());
    }
    let v1: Vec<String> = mesh.v1.ips().into_iter().map(|ip| SocketAddr::new(ip, 8080).to_string()).collect();
    let first = v1.iter().find(|address| at.contains(address.as_str())).with_context(|| format!("{v1:?} among {at:?}"))?;
    let lines = text(mesh, "/clusters").await?;
    let line = format!("{BILLING}::envoy://connect_originate/{first}::health_flags::healthy");
    ensure!(lines.lines().any(|found| found == line), "no {line} in {lines}");
    Ok(())
}

async fn itself(mesh: &Mesh) -> anyhow::Result<()> {
    ensure!(ask(mesh, "GET", "/ready").await? == (200, "LIVE\n".to_owned()), "it is not ready");
    let info = json(mesh, "/server_info").await?;
    ensure!(info["state"] == "LIVE" && info["node"]["metadata"]["GATEWAY_NAME"] == "waypoint", "{info:#}");
    let listeners = text(mesh, "/listeners").await?;
    for begin in ["connect_terminate::", "main_internal::envoy://main_internal/"] {
        ensure!(listeners.lines().any(|line| line.starts_with(begin)), "no {begin} in {listeners}");
    }
    let certificates = json(mesh, "/certs").await?;
    let chains = list(&certificates, "/certificates").flat_map(|certificate| list(certificate, "/cert_chain"));
    let mut uris = chains.flat_map(|one| list(one, "/subject_alt_names")).filter_map(|name| name["uri"].as_str());
    let own = identity("waypoint").to_string();
    ensure!(uris.any(|uri| uri == own), "{certificates:#}");
    let stats =
        json(mesh, "/stats?format=json&filter=%5E(server%7Clistener_manager%7Ccluster_manager%7Ccontrol_plane)%5C.").await?;
    let stat = |name: &str| list(&stats, "/stats").find(|stat| stat["name"] == name).and_then(|stat| stat["value"].as_u64());
    ensure!(stat("server.live") == Some(1) && stat("server.state") == Some(0), "{stats:#}");
    ensure!(stat("control_plane.connected_state") == Some(1), "{stats:#}");
    for name in ["listener_manager.lds.update_success", "cluster_manager.cds.update_attempt", "cluster_manager.active_clusters"] {
        ensure!(stat(name).is_some_and(|value| value > 0), "{name} in {stats:#}");
    }
    ensure!(stat("listener_manager.lds.update_rejected") == Some(0), "{stats:#}");
    let (status, _) = ask(mesh, "GET", "/drain_listeners").await?;
    ensure!(status == 405, "GET /drain_listeners is answered {status}");
    let (status, body) = ask(mesh, "POST", "/logging?level=info").await?;
    ensure!(status == 200, "{status} {body}");
    Ok(())
}
