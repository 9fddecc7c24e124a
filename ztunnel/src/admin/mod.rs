//! The admin pages: what this proxy holds, for people and for programs.

mod dump;
mod explain;

use std::sync::Arc;

use ambit_runtime::admin::{Reply, Server};

use crate::{node::pods::Pods, worker::Workers};

/// The pages of the admin listener.
pub(crate) fn pages(node: String, workers: Arc<Workers>, pods: Arc<Pods>) -> Server {
    let (name, asked, served) = (node.clone(), Arc::clone(&workers), Arc::clone(&pods));
    Server::new()
        .get("/healthz", |_| Reply::text("ok\n"))
        .get_aside("/config_dump", move |_| dump::page(&node, &workers, &pods))
        .get("/explain", move |query| explain::page(&name, &asked, &served, query))
}
