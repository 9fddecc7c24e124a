//! The admin pages, in the shapes of Envoy's, as `istioctl proxy-config` and people who know Envoy read them. They are served on the loopback
//! device only.

mod certs;
mod clusters;
mod dump;
mod envoy;
mod info;
mod mask;
mod stats;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use ambit_runtime::{
    admin::{Query, Reply, Server},
    drain::Starter,
    readiness::Readiness,
    telemetry::Metrics,
};
use ambit_xds::Node;
use http::StatusCode;
use regex::Regex;
use tokio::sync::watch;

use crate::{explain, proxy::Proxy, xds::Store};

/// What the pages are about.
pub struct Pages {
    /// The configuration.
    pub store: Store,
    /// What goes on.
    pub proxy: Arc<Proxy>,
    /// What is counted besides.
    pub metrics: Metrics,
    /// As whom the control plane is asked.
    pub node: Node,
    /// Where the pages are.
    pub admin: SocketAddr,
    /// Where tunnels are accepted.
    pub hbone: SocketAddr,
    /// The certificates of the mesh's authorities.
    pub roots: PathBuf,
    /// What the start waits for.
    pub readiness: Readiness,
    /// Whether the control plane is there.
    pub connected: watch::Receiver<bool>,
    /// When the program began.
    pub started: Instant,
    /// Has no connection be accepted any more.
    pub stop: Starter,
    /// The same, and has clients asked to go.
    pub drain: Starter,
}

impl Pages {
    /// The pages.
    #[must_use]
    pub fn server(self) -> Server {
        let (readiness, metrics, pages) = (self.readiness.clone(), self.metrics.clone(), Arc::new(self));
        let page = |show: fn(&Self, &Query) -> Reply| {
            let pages = Arc::clone(&pages);
            move |query: &Query| show(&pages, query)
        };
        Server::new()
            .with_readiness(readiness)
            .with_metrics(metrics)
            .with_logging()
            .get_aside("/certs", page(certs::page))
            .get_aside("/clusters", page(clusters::page))
            .get_aside("/config_dump", page(dump::page))
            .get_aside("/config_dump/compiled", page(|pages, _| Reply::json(&*pages.store.snapshot())))
            .post("/drain_listeners", page(info::drain))
            .get_aside("/explain", page(|pages, query| explain::page(&pages.store.snapshot(), query)))
            .get("/help", |_| Reply::text(info::HELP))
            .get_aside("/listeners", page(info::listeners))
            .get("/ready", page(info::ready))
            .post("/reopen_logs", page(info::reopen))
            .get_aside("/server_info", page(info::server))
            .get_aside("/stats", page(stats::page))
    }
}

/// A parameter that is a regular expression: for `whole` names, or to be found somewhere in them. As in Envoy an empty one is none.
fn pattern(query: &Query, parameter: &str, whole: bool) -> Result<Option<Regex>, Reply> {
    let Some(text) = query.get(parameter).filter(|text| !text.is_empty()) else { return Ok(None) };
    let bad = |why: String| Reply::text(format!("{parameter}: {why}\n")).status(StatusCode::BAD_REQUEST);
    let text = ambit_runtime::admin::decoded(text).ok_or_else(|| bad("it is not percent-encoded text".to_owned()))?;
    let found = Regex::new(&text);
    let regex = found.and_then(|found| if whole { Regex::new(&format!(r"\A(?:{text})\z")) } else { Ok(found) });
    regex.map(Some).map_err(|error| bad(error.to_string()))
}

/// Whether JSON is asked for.
fn is_json(query: &Query) -> bool {
    query.get("format") == Some("json")
}
