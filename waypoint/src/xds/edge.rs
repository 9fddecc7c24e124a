//! Listeners at the edge of the mesh: a port, and one chain for what comes to it in clear, or several for what comes in TLS, by server name.
//! A chain is for requests or for bytes; where it ends no TLS and is for server names, TLS is passed on.

use std::{mem::take, sync::Arc};

use ambit_api::envoy::pb::envoy::{
    config::listener::v3::{FilterChain, Listener, filter},
    extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
};
use ambit_tls::{Certificates, edge_config};

use super::{
    chain, hcm, listener, metadata,
    read::{Compiled, Problem, Under, boolean, finish, required, type_of, unpack},
    tls,
};
use crate::compiled::{Chain, Edge, Proxy, SecureChain};

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A listener, without its name.
pub fn listener(mut listener: Listener) -> Compiled<Edge> {
    let port = listener::listen_port(listener.address.take()).under("address")?;
    // How the socket is opened is ours.
    listener.enable_reuse_port = None;
    for filter in take(&mut listener.listener_filters) {
        // The server name is always looked at where there are chains for one.
        listener::known_listener_filter(filter.config_type).under(filter.name)?;
    }
    // Our own limit of handshakes holds.
    listener.listener_filters_timeout = None;
    let chains = take(&mut listener.filter_chains);
    finish(&listener)?;
    let mut edge = Edge { port, clear: None, secure: Vec::new() };
    let single = chains.len() == 1;
    for part in chains {
        let at = format!("filter_chains[{}]", part.name);
        let named = part.filter_chain_match.as_ref().is_some_and(|fits| !fits.server_names.is_empty());
        match part.transport_socket.is_some() {
            true => edge.secure.push(secure(part).under(at)?),
            false if named => edge.secure.push(passed_on(part).under(at)?),
            false if single => edge.clear = Some(Arc::new(chain(part).under(at)?)),
            false => return Err(Problem::new("several filter chains in clear are not implemented").under(at)),
        }
    }
    if edge.chains().next().is_none() {
        return Err(Problem::new("a listener without filter chains is not implemented"));
    }
    Ok(edge)
}

/// A chain behind TLS that ends here.
fn secure(mut part: FilterChain) -> Compiled<SecureChain> {
    let socket = required(part.transport_socket.take(), "transport_socket")?;
    // Our own limit holds.
    part.transport_socket_connect_timeout = None;
    let names = names(&mut part)?;
    let tls::Shown { secrets, alpn } = tls::shown(socket).under("transport_socket")?;
    let certificates = Arc::<Certificates>::default();
    let tls = edge_config(certificates.clone(), &alpn).map_err(|error| Problem::new(error.to_string()))?;
    Ok(SecureChain { names, secrets, chain: Arc::new(chain(part)?), certificates, tls: Some(tls) })
}

/// A chain for TLS that ends elsewhere.
fn passed_on(mut part: FilterChain) -> Compiled<SecureChain> {
    let names = names(&mut part)?;
    let chain = Arc::new(chain(part)?);
    if matches!(chain.proxy, Proxy::Http(_)) {
        return Err(Problem::new("requests in TLS cannot be looked at without transport_socket"));
    }
    Ok(SecureChain { names, secrets: Vec::new(), chain, certificates: Arc::default(), tls: None })
}

/// The server names that a chain is for.
fn names(part: &mut FilterChain) -> Compiled<Vec<String>> {
    let mut fits = part.filter_chain_match.take().unwrap_or_default();
    let names = take(&mut fits.server_names).into_iter().map(|name| name.to_ascii_lowercase()).collect();
    finish(&fits).under("filter_chain_match")?;
    Ok(names)
}

/// What takes requests, or bytes.
fn chain(part: FilterChain) -> Compiled<Chain> {
    let of_requests = part
        .filters
        .iter()
        .any(|filter| matches!(&filter.config_type, Some(filter::ConfigType::TypedConfig(any)) if type_of(any) == HCM));
    if of_requests { requests(part) } else { chain::chain(part) }
}

fn requests(mut part: FilterChain) -> Compiled<Chain> {
    let name: Arc<str> = take(&mut part.name).into();
    let metrics = metadata::metrics(part.metadata.take()).under("metadata")?;
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
    Ok(Chain { name, rbac: Vec::new(), upstream_identity: None, proxy: Proxy::Http(Arc::new(http)), metrics })
}
