//! The pages for people and probes on 15014.

use std::{collections::BTreeMap, sync::Arc};

use ambit_runtime::{
    admin::{Reply, Server},
    readiness::Readiness,
    telemetry::Metrics,
};
use ambit_xds::server::{Cache, Status};

use crate::{ca::Refusals, jwks, mesh::Mesh, roots::View};

/// `/healthz/ready`, `/metrics`, and
///
/// - `/debug/syncz`: the discovery sessions with what each holds and refused last;
/// - `/debug/status`: the conditions of the objects, as Kubernetes would show them;
/// - `/debug/errors`: what is wrong with the input, with file, line, field and reason;
/// - `/debug/config`: the names and versions of what is served, by view and type (`?view=` for one view).
pub fn pages(metrics: Metrics, readiness: Readiness, mesh: Arc<Mesh>, cache: Cache, status: Status) -> Server {
    let conditions = Arc::clone(&mesh);
    Server::new()
        .with_readiness(readiness)
        .with_metrics(metrics)
        .get("/debug/syncz", move |_| Reply::json(&status.sessions()))
        .get("/debug/status", move |_| Reply::json(&crate::status::conditions(&conditions.index())))
        .get("/debug/errors", move |_| Reply::json(&*mesh.problems()))
        .get("/debug/config", move |query| Reply::json(&config(&cache, query.get("view"))))
}

/// `/debug/ca`: who signs, which roots are believed, where a change of them is, and who was refused a certificate last.
pub fn authority(pages: Server, view: View, refusals: Refusals) -> Server {
    pages.get("/debug/ca", move |_| Reply::json(&view.report(&refusals)))
}

/// `/debug/jwks`: the addresses that keys of issuers of tokens are fetched from, how old the keys are, and why there are none.
pub(crate) fn keys(pages: Server, view: jwks::View) -> Server {
    pages.get("/debug/jwks", move |_| Reply::json(&view.lines()))
}

type Versions = BTreeMap<String, String>;

fn config(cache: &Cache, only: Option<&str>) -> BTreeMap<String, BTreeMap<String, Versions>> {
    let mut views = BTreeMap::new();
    for view in cache.views().into_iter().filter(|view| only.is_none_or(|only| only == view)) {
        let mut types = BTreeMap::new();
        for type_url in cache.types(&view) {
            let versions = cache.read(&view, &type_url, |content| {
                content.entries().map(|entry| (entry.name.to_string(), entry.version.to_string())).collect()
            });
            types.insert(type_url, versions);
        }
        views.insert(view, types);
    }
    views
}
