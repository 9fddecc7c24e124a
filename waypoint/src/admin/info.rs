//! Pages about the program and its listeners.

use std::net::{Ipv6Addr, SocketAddr};

use ambit_api::{
    envoy::pb::{
        envoy::{
            admin::v3::{CommandLineOptions, ListenerStatus, Listeners, ServerInfo, server_info::State},
            config::{
                core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
                listener::v3::Listener,
            },
        },
        google::protobuf::Duration,
    },
    type_url,
};
use ambit_runtime::admin::{Query, Reply};
use http::StatusCode;
use prost::Message;

use super::{Pages, envoy, is_json};
use crate::xds::{CONNECT_TERMINATE, INGRESS, Sent};

/// `/help`.
pub const HELP: &str = "\
admin commands are:
  /certs: the certificates that are presented and believed
  /clusters: what goes on at each endpoint
      format: text or json
      filter: a regular expression that is found in the names of clusters
  /config_dump: the configuration as it was received
      resource: the resources of one kind, as dynamic_listeners
      name_regex: a regular expression of whole names of resources
      mask: fields of each resource of that kind, or of the sections, as cluster.name,version_info
      include_eds: endpoints as well
  /config_dump/compiled: what is made of it, and what goes on in it
  /drain_listeners (POST): accept no connections any more
      graceful: have clients go as well
  /explain: what would become of a request
  /help: this
  /listeners: names and addresses of listeners
      format: text or json
  /logging (POST to change): what is logged
      level: a level for everything, or PART=LEVEL,...
      PART=LEVEL: the same for one part
      paths: PART:LEVEL,...
      reset: what was logged at the start
  /reopen_logs (POST): open the files of access logs anew
  /ready: LIVE with status 200, or PRE_INITIALIZING with 503
  /server_info: the program, and who it is
  /stats: numbers under the names that Envoy has for them
      format: text, json or prometheus
      filter: a regular expression that is found in the names
      type: Counters or Gauges
      usedonly: not those that are 0
  /stats/prometheus: all metrics in the Prometheus text format; /metrics is the same
";

fn state(pages: &Pages) -> State {
    if pages.readiness.is_ready() { State::Live } else { State::PreInitializing }
}

/// `/ready`.
pub fn ready(pages: &Pages, _: &Query) -> Reply {
    let state = state(pages);
    let reply = Reply::text(format!("{}\n", state.as_str_name()));
    if state == State::Live { reply } else { reply.status(StatusCode::SERVICE_UNAVAILABLE) }
}

/// `/server_info`.
pub fn server(pages: &Pages, _: &Query) -> Reply {
    let uptime = Duration { seconds: i64::try_from(pages.started.elapsed().as_secs()).unwrap_or(i64::MAX), nanos: 0 };
    let options = CommandLineOptions { service_node: pages.node.id.clone(), ..CommandLineOptions::default() };
    let info = ServerInfo {
        version: concat!("ambit-waypoint/", env!("CARGO_PKG_VERSION")).to_owned(),
        state: state(pages).into(),
        uptime_current_epoch: Some(uptime),
        uptime_all_epochs: Some(uptime),
        hot_restart_version: "disabled".to_owned(),
        command_line_options: Some(options),
        node: Some(pages.node.clone()),
        ..ServerInfo::default()
    };
    envoy::page(&info, true)
}

/// `/drain_listeners`: no connection is accepted any more; with `graceful` clients are asked to go as well. The program stays.
pub fn drain(pages: &Pages, query: &Query) -> Reply {
    let graceful = query.get("graceful").is_some();
    tracing::info!(graceful, "no connection is accepted any more, as somebody has asked for by the admin page");
    if graceful {
        pages.drain.begin();
    } else {
        pages.stop.begin();
    }
    Reply::text("OK\n")
}

/// `/reopen_logs`: lines of access logs go into new files where theirs were renamed.
pub fn reopen(pages: &Pages, _: &Query) -> Reply {
    tracing::info!("the files of access logs are opened anew, as somebody has asked for by the admin page");
    pages.proxy.telemetry.reopen();
    Reply::text("OK\n")
}

/// `/listeners`.
pub fn listeners(pages: &Pages, query: &Query) -> Reply {
    let received = pages.store.received();
    let all = received.of(type_url::LISTENER).into_iter().flat_map(|kind| &kind.resources);
    let status = |name: &String, sent: &Sent| ListenerStatus {
        name: name.clone(),
        local_address: Some(address_of(pages, name, sent)),
        ..ListenerStatus::default()
    };
    let statuses = all.filter_map(|(name, known)| Some(status(name, known.held.as_ref()?)));
    let listeners = Listeners { listener_statuses: statuses.collect() };
    if is_json(query) {
        return envoy::page(&listeners, false);
    }
    let line = |listener: &ListenerStatus| {
        format!("{}::{}\n", listener.name, listener.local_address.as_ref().map(envoy::line).unwrap_or_default())
    };
    Reply::text(listeners.listener_statuses.iter().map(line).collect::<String>())
}

/// Where it listens; one that only the proxy itself connects to has no address but its name.
fn address_of(pages: &Pages, name: &str, sent: &Sent) -> Address {
    if name == CONNECT_TERMINATE {
        return envoy::socket(pages.hbone);
    }
    let port = match Listener::decode(sent.body.clone()).unwrap_or_default().address.and_then(|address| address.address) {
        Some(address::Address::SocketAddress(SocketAddress { port_specifier: Some(PortSpecifier::PortValue(port)), .. })) => {
            u16::try_from(port).ok()
        }
        _ => None,
    };
    match port {
        Some(port) if name.starts_with(INGRESS) => envoy::socket(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        _ => envoy::internal(name, String::new()),
    }
}
