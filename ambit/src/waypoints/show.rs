//! `ambit waypoint list` and `ambit waypoint status`.

use gateway_api::gateways::Gateway;
use istiod_lite::deploy::WAYPOINT_CLASS;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::cluster::failed;
use super::gateway::{Progress, addresses, progress, serves};
use super::wait::{is_ready, trouble, until_ready};
use super::{ListArgs, StatusArgs};
use crate::error::{Error, Result};

pub async fn list(args: ListArgs) -> Result<()> {
    let cluster = args.cluster.connect().await?;
    let api: Api<Gateway> = if args.all_namespaces { Api::all(cluster.client.clone()) } else { cluster.gateways() };
    let mut gateways = api.list(&ListParams::default()).await.map_err(|error| failed("list gateways", &error))?.items;
    gateways.retain(|gateway| gateway.spec.gateway_class_name == WAYPOINT_CLASS);
    if args.json {
        let all: Vec<Value> = gateways.iter().map(as_json).collect();
        println!("{}", serde_json::to_string_pretty(&all).map_err(|error| Error::part("writing JSON", error))?);
    } else if gateways.is_empty() {
        let place = if args.all_namespaces { "the cluster".into() } else { format!("namespace {}", cluster.namespace) };
        eprintln!("there is no waypoint in {place}; `ambit waypoint apply` asks for one");
    } else {
        print!("{}", table(&gateways));
    }
    Ok(())
}

fn state(gateway: &Gateway) -> (&'static str, String) {
    match progress(gateway) {
        Progress::Ready => ("ready", String::new()),
        Progress::Waiting(why) => ("waiting", why),
        Progress::Stuck(why) => ("stuck", why),
    }
}

fn as_json(gateway: &Gateway) -> Value {
    let (state, why) = state(gateway);
    json!({
        "namespace": gateway.metadata.namespace,
        "name": gateway.metadata.name,
        "for": serves(gateway),
        "addresses": gateway.status.iter().flat_map(|status| status.addresses.iter().flatten()).map(|address| &address.value).collect::<Vec<_>>(),
        "state": state,
        "why": why,
    })
}

/// One line for each waypoint under a heading, columns as wide as they have to be.
pub fn table(gateways: &[Gateway]) -> String {
    let heading = ["NAMESPACE", "NAME", "FOR", "STATE", "ADDRESS", "WHY"].map(str::to_owned);
    let lines = gateways.iter().map(|gateway| {
        let (state, why) = state(gateway);
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let address = Some(addresses(gateway)).filter(|all| !all.is_empty()).unwrap_or_else(|| "-".into());
        [text(&gateway.metadata.namespace), text(&gateway.metadata.name), serves(gateway).into(), state.into(), address, why]
    });
    let lines: Vec<[String; 6]> = std::iter::once(heading).chain(lines).collect();
    let width =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Prints what became of one waypoint; whether it can be used.
pub async fn status(args: StatusArgs) -> Result<bool> {
    let cluster = args.cluster.connect().await?;
    if args.wait.wait {
        until_ready(&cluster, &args.name, args.wait.timeout()).await?;
    }
    let gateway = cluster.gateway(&args.name).await?;
    println!("waypoint {}/{}, for {}", cluster.namespace, args.name, serves(&gateway));
    let reached = addresses(&gateway);
    println!("  address     {}", if reached.is_empty() { "none yet" } else { &reached });
    for condition in gateway.status.iter().flat_map(|status| status.conditions.iter().flatten()) {
        println!("  {:<11} {} ({}): {}", condition.type_, condition.status, condition.reason, condition.message);
    }
    for listener in gateway.status.iter().flat_map(|status| status.listeners.iter().flatten()) {
        println!("  listener    {}, {} routes attached", listener.name, listener.attached_routes);
    }
    for pod in cluster.pods(&args.name).await? {
        let state = trouble(&pod).unwrap_or_else(|| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            format!("pod {name}: {}", if is_ready(&pod) { "ready" } else { "not ready" })
        });
        println!("  {state}");
    }
    let users = cluster.users(&args.name).await?;
    println!("  used by     {}", if users.is_empty() { "nobody".into() } else { users.join(", ") });
    Ok(progress(&gateway) == Progress::Ready)
}
