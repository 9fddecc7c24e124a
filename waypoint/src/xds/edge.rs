//! Listeners at the edge of the mesh: a port, and one chain for the requests that come to it in clear.

use std::{mem::take, sync::Arc};

use ambit_api::envoy::pb::envoy::{
    config::listener::v3::{FilterChain, Listener},
    extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
};

use super::{
    chain, hcm, listener,
    read::{Compiled, Problem, Under, boolean, finish, unpack},
};
use crate::compiled::{Chain, Edge, Proxy};

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A listener, without its name.
pub fn listener(mut listener: Listener) -> Compiled<Edge> {
    let port = listener::listen_port(listener.address.take()).under("address")?;
    // How the socket is opened is ours: both families, one listener.
    listener.additional_addresses.clear();
    listener.enable_reuse_port = None;
    let mut chains = take(&mut listener.filter_chains);
    let (Some(only), true) = (chains.pop(), chains.is_empty()) else {
        return Err(Problem::new("exactly one filter chain is implemented"));
    };
    finish(&listener)?;
    let at = format!("filter_chains[{}]", only.name);
    Ok(Edge { port, chain: Arc::new(requests(only).under(at)?) })
}

fn requests(mut part: FilterChain) -> Compiled<Chain> {
    let name: Arc<str> = take(&mut part.name).into();
    part.metadata = None;
    let mut filters = take(&mut part.filters);
    let (Some(filter), true) = (filters.pop(), filters.is_empty()) else {
        return Err(Problem::new("exactly one filter is implemented"));
    };
    finish(&part)?;
    let mut config = unpack::<HttpConnectionManager>(&chain::typed(filter.config_type)?, HCM).under(&filter.name)?;
    // Else a client could say by a header who it is, and where it is.
    if !boolean(config.use_remote_address.take(), false) {
        return Err(
            Problem::new("use_remote_address must be true where clients come from outside of the mesh").under(filter.name)
        );
    }
    if config.xff_num_trusted_hops != 0 {
        return Err(Problem::new("xff_num_trusted_hops is not implemented").under(filter.name));
    }
    let http = hcm::chain(config).under(filter.name)?;
    Ok(Chain { name, rbac: Vec::new(), upstream_identity: None, proxy: Proxy::Http(Arc::new(http)) })
}
