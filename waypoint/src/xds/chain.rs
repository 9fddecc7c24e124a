//! Filter chains of the inner listener and their filters.

use std::{mem::take, sync::Arc, time::Duration};

use ambit_api::envoy::pb::{
    envoy::{
        config::listener::v3::{FilterChain, filter},
        extensions::filters::{
            http::rbac::v3::Rbac as HttpRbac,
            network::{
                rbac::v3::Rbac as NetworkRbac,
                set_filter_state::v3::Config as SetFilterState,
                tcp_proxy::v3::{TcpProxy, tcp_proxy},
            },
        },
    },
    google::protobuf::Any,
};

use super::{
    access_log, hcm, metadata, rbac,
    read::{Compiled, Problem, Under, duration, finish, required, type_of, unpack},
    state,
};
use crate::compiled::{Chain, Proxy, RbacFilter, TcpChain};

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const NETWORK_RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
const SET_FILTER_STATE: &str = "envoy.extensions.filters.network.set_filter_state.v3.Config";

/// How long a connection may carry nothing where nothing is said of it, as in Envoy.
const IDLE: Duration = Duration::from_hours(1);

/// A filter chain.
pub fn chain(mut chain: FilterChain) -> Compiled<Chain> {
    let name: Arc<str> = take(&mut chain.name).into();
    let mut rbac = Vec::new();
    let mut upstream_identity = None;
    let mut proxy = None;
    for mut filter in take(&mut chain.filters) {
        let at = take(&mut filter.name);
        let any = typed(filter.config_type.take()).under(&at)?;
        if proxy.is_some() {
            return Err(Problem::new("a filter after the last one").under(at));
        }
        match type_of(&any) {
            NETWORK_RBAC => rbac.push(network_rbac(unpack(&any, NETWORK_RBAC)?).under(at)?),
            SET_FILTER_STATE => upstream_identity = identity(unpack(&any, SET_FILTER_STATE)?).under(at)?.or(upstream_identity),
            HCM => proxy = Some(Proxy::Http(Arc::new(hcm::chain(unpack(&any, HCM)?).under(at)?))),
            TCP_PROXY => proxy = Some(Proxy::Tcp(tcp(unpack(&any, TCP_PROXY)?).under(at)?)),
            other => return Err(Problem::new(format!("{other} is not implemented")).under(at)),
        }
    }
    let metrics = metadata::metrics(chain.metadata.take()).under("metadata")?;
    finish(&chain)?;
    Ok(Chain { name, rbac, upstream_identity, proxy: required(proxy, "the last filter")?, metrics })
}

/// The configuration inside a network filter.
pub fn typed(config: Option<filter::ConfigType>) -> Compiled<Any> {
    match config {
        Some(filter::ConfigType::TypedConfig(any)) => Ok(any),
        _ => Err(Problem::new("only typed_config is implemented")),
    }
}

fn network_rbac(mut config: NetworkRbac) -> Compiled<RbacFilter> {
    config.stat_prefix.clear();
    config.shadow_rules_stat_prefix.clear();
    // We decide when the connection opens, before any byte either way, which is stricter than either value.
    config.enforcement_type = 0;
    let rules = config.rules.take().map(rbac::rules).transpose().under("rules")?;
    let shadow = config.shadow_rules.take().map(rbac::rules).transpose().under("shadow_rules")?;
    finish(&config)?;
    Ok(RbacFilter { rules, shadow })
}

/// Rule sets of an HTTP filter.
pub fn http_rbac(mut config: HttpRbac) -> Compiled<RbacFilter> {
    config.rules_stat_prefix.clear();
    config.shadow_rules_stat_prefix.clear();
    config.track_per_rule_stats = false;
    let rules = config.rules.take().map(rbac::rules).transpose().under("rules")?;
    let shadow = config.shadow_rules.take().map(rbac::rules).transpose().under("shadow_rules")?;
    finish(&config)?;
    Ok(RbacFilter { rules, shadow })
}

/// The identity that a directly addressed destination must prove.
fn identity(mut config: SetFilterState) -> Compiled<Option<ambit_identity::SpiffeId>> {
    let mut identity = None;
    for value in take(&mut config.on_new_connection) {
        let (key, text) = state::value(value)?;
        match (key.as_str(), text.as_str()) {
            (state::UPSTREAM_IDENTITY | state::UPSTREAM_IDENTITY_OLD, id) => {
                identity =
                    Some(id.parse().map_err(|error| Problem::new(format!("{id:?} is not an identity: {error}")).under(&key))?);
            }
            (state::LOCAL_ADDRESS, "%DOWNSTREAM_LOCAL_ADDRESS%") => {}
            _ => return Err(Problem::new(format!("filter state {key:?} from {text:?} is not implemented"))),
        }
    }
    finish(&config)?;
    Ok(identity)
}

fn tcp(mut config: TcpProxy) -> Compiled<TcpChain> {
    config.stat_prefix.clear();
    let logs = access_log::logs(take(&mut config.access_log))?;
    // 0 is no limit.
    let idle = config.idle_timeout.take().map(duration).transpose().under("idle_timeout")?.unwrap_or(IDLE);
    let idle = Some(idle).filter(|idle| !idle.is_zero());
    let clusters = match required(config.cluster_specifier.take(), "a cluster")? {
        tcp_proxy::ClusterSpecifier::Cluster(name) => vec![(name.into(), 1)],
        tcp_proxy::ClusterSpecifier::WeightedClusters(weighted) => {
            let mut clusters = Vec::new();
            for mut cluster in weighted.clusters {
                clusters.push((take(&mut cluster.name).into(), take(&mut cluster.weight)));
                finish(&cluster).under("weighted_clusters")?;
            }
            clusters
        }
    };
    finish(&config)?;
    Ok(TcpChain { clusters, logs, idle })
}
