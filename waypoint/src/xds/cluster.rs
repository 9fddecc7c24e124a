//! Clusters (`envoy.config.cluster.v3.Cluster`) and their endpoints.

use std::{mem::take, net::SocketAddr, sync::Arc, time::Duration};

use ambit_api::envoy::pb::{
    envoy::config::{
        cluster::v3::{
            self as pb,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig},
        },
        core::v3::{
            self as pb_core, Address, HealthStatus, Metadata, address, envoy_internal_address::AddressNameSpecifier,
            socket_address::PortSpecifier,
        },
        endpoint::v3::{ClusterLoadAssignment, LbEndpoint, endpoint::HealthCheckConfig, lb_endpoint},
    },
    google::protobuf::{Struct, value::Kind},
};
use ambit_model::balance::{OVERPROVISIONING, OutlierDetection, Policy, Rules, SlowStart, Standing};

use super::{
    balance,
    hcm::over_ads,
    health,
    read::{Compiled, Problem, Under, boolean, duration, finish, number, port, required},
    retry, transport,
};
use crate::{
    compiled::{Cluster, Discovery, Endpoint, Endpoints, Locality, Protocol, Retries, ServiceInfo, Target, WorkloadNames},
    upstream::Live,
};

/// Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Our own metadata.
const AMBIT: &str = "io.ambit";

/// A cluster.
pub fn cluster(mut cluster: pb::Cluster) -> Compiled<Cluster> {
    let name: Arc<str> = take(&mut cluster.name).into();
    cluster.alt_stat_name.clear();
    // How long unused hosts of an original-destination cluster are kept is Envoy's own book-keeping.
    cluster.cleanup_interval = None;
    let connect_timeout = cluster.connect_timeout.take().map(duration).transpose().under("connect_timeout")?;
    let discovery = discovery(&mut cluster, &name)?;
    let mut balance = balance::rules(&mut cluster)?;
    // Envoy's own book-keeping of endpoints that are gone: here they are gone at once, failing or not.
    cluster.ignore_health_on_host_removal = false;
    let acquits = cluster.outlier_detection.as_ref().and_then(|said| said.successful_active_health_check_uneject_host);
    let checks = health::checks(take(&mut cluster.health_checks), &name, boolean(acquits, true)).under("health_checks")?;
    let mut outliers = cluster.outlier_detection.take().map(balance::outliers).transpose().under("outlier_detection")?;
    let tunnels = matches!(discovery, Discovery::OriginalDestination);
    let mut protocol = Protocol::Http1;
    for (key, any) in take(&mut cluster.typed_extension_protocol_options) {
        protocol = transport::protocol(&key, &any, tunnels).under(format!("typed_extension_protocol_options[{key}]"))?;
    }
    transport::sockets(take(&mut cluster.transport_socket_matches), cluster.transport_socket.take(), tunnels)?;
    let (retry_budget, limits) = retry::thresholds(cluster.circuit_breakers.take()).under("circuit_breakers")?;
    let metadata = cluster.metadata.take();
    if let (Some(slow), Some(said)) = (&mut balance.slow_start, &metadata) {
        slow.after_ejection = string(said, AMBIT, "slow_start") == Some("after_ejection");
    }
    if let (Policy::LeastRequest { .. }, Some(said)) = (balance.policy, &metadata)
        && string(said, AMBIT, "load_balancing") == Some("peak_ewma")
    {
        balance.policy = Policy::PeakEwma;
    }
    if let (Some(outliers), Some(said)) = (&mut outliers, &metadata) {
        probation(said, outliers, &mut balance);
    }
    let service = metadata.and_then(|m| service(&m, &name)).map(Arc::new);
    finish(&cluster)?;
    Ok(Cluster {
        name,
        discovery,
        protocol,
        connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        service,
        balance,
        outliers,
        limits,
        live: Arc::new(Live::default()),
        retry_budget,
        retries: Retries::default(),
        checks,
    })
}

/// What our own metadata asks for besides of endpoints that return after they were ejected: that they are on probation, and unless shares are
/// said to grow otherwise, or there are none, have theirs by and by.
fn probation(said: &Metadata, outliers: &mut OutlierDetection, balance: &mut Rules) {
    outliers.probation = string(said, AMBIT, "outlier_detection") == Some("probation");
    let by_shares = match balance.policy {
        Policy::RoundRobin | Policy::LeastRequest { .. } | Policy::PeakEwma => true,
        Policy::Random | Policy::Hash(_) => false,
    };
    if outliers.probation && by_shares && balance.slow_start.is_none() {
        balance.slow_start = Some(SlowStart::OF_RETURNING);
    }
}

fn discovery(cluster: &mut pb::Cluster, name: &Arc<str>) -> Compiled<Discovery> {
    let kind = match cluster.cluster_discovery_type.take() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).map_err(|_| Problem::new("type is not implemented"))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => return Err(Problem::new("cluster_type is not implemented")),
    };
    match kind {
        DiscoveryType::Static => {
            let assignment = cluster.load_assignment.take().unwrap_or_default();
            Ok(Discovery::Static(Arc::new(endpoints(assignment).under("load_assignment")?.1)))
        }
        DiscoveryType::Eds => {
            let EdsClusterConfig { eds_config, service_name } =
                required(cluster.eds_cluster_config.take(), "eds_cluster_config")?;
            over_ads(eds_config).under("eds_cluster_config")?;
            Ok(Discovery::Eds(if service_name.is_empty() { name.clone() } else { service_name.into() }))
        }
        DiscoveryType::OriginalDst => {
            let Some(LbConfig::OriginalDstLbConfig(mut lb)) = cluster.lb_config.take() else {
                return Err(Problem::new("original_dst_lb_config is missing"));
            };
            if number(lb.upstream_port_override.take()) != Some(u32::from(crate::HBONE_PORT)) {
                return Err(Problem::new("an upstream_port_override other than 15008 is not implemented"));
            }
            finish(&lb).under("original_dst_lb_config")?;
            Ok(Discovery::OriginalDestination)
        }
        other => Err(Problem::new(format!("{} is not implemented", other.as_str_name())).under("type")),
    }
}

/// The endpoints with the name they are discovered under.
pub fn endpoints(mut assignment: ClusterLoadAssignment) -> Compiled<(Arc<str>, Endpoints)> {
    let name: Arc<str> = take(&mut assignment.cluster_name).into();
    let mut overprovisioning = OVERPROVISIONING;
    if let Some(mut policy) = assignment.policy.take() {
        overprovisioning = number(policy.overprovisioning_factor.take()).unwrap_or(OVERPROVISIONING);
        finish(&policy).under("policy")?;
    }
    let mut localities = Vec::new();
    for (index, mut locality) in take(&mut assignment.endpoints).into_iter().enumerate() {
        // Where endpoints are is a hint for other policies than ours, and for people.
        let place = locality.locality.take().map(place).unwrap_or_default();
        locality.metadata = None;
        let (priority, weight) = (take(&mut locality.priority), number(locality.load_balancing_weight.take()).unwrap_or(0));
        let endpoints = take(&mut locality.lb_endpoints).into_iter().map(|endpoint| self::endpoint(endpoint).map(Arc::new));
        let endpoints = endpoints.collect::<Compiled<_>>().under(format!("endpoints[{index}]"))?;
        finish(&locality).under(format!("endpoints[{index}]"))?;
        localities.push(Locality { priority, weight, endpoints, place });
    }
    finish(&assignment)?;
    Ok((name, Endpoints { localities, overprovisioning }))
}

/// What a place is called: its region, zone and subzone, as many as are known.
fn place(said: pb_core::Locality) -> Arc<str> {
    let parts = [said.region, said.zone, said.sub_zone].join("/");
    parts.trim_end_matches('/').into()
}

fn endpoint(mut endpoint: LbEndpoint) -> Compiled<Endpoint> {
    let metadata = endpoint.metadata.take().unwrap_or_default();
    let Some(lb_endpoint::HostIdentifier::Endpoint(mut host)) = endpoint.host_identifier.take() else {
        return Err(Problem::new("only endpoint is implemented"));
    };
    let weight = number(endpoint.load_balancing_weight.take()).unwrap_or(1);
    let standing = match HealthStatus::try_from(take(&mut endpoint.health_status)) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Standing::Healthy,
        Ok(HealthStatus::Degraded) => Standing::Degraded,
        _ => Standing::Unhealthy,
    };
    let target = target(required(host.address.take(), "address")?, &metadata)?;
    host.hostname.clear();
    let checked = checked(host.health_check_config.take(), &metadata)?;
    finish(&host)?;
    finish(&endpoint)?;
    let (namespace, workload) = metadata.filter_metadata.get(AMBIT).map(workload).unwrap_or_default();
    Ok(Endpoint { target, weight, workload, namespace, standing, checked })
}

/// Whether an endpoint is checked. One behind a tunnel may be said not to be because Envoy's checks do not go through tunnels; ours do, where
/// its metadata has them.
fn checked(config: Option<HealthCheckConfig>, metadata: &Metadata) -> Compiled<bool> {
    let mut config = config.unwrap_or_default();
    let disabled = take(&mut config.disable_active_health_check);
    finish(&config).under("health_check_config")?;
    Ok(!disabled || string(metadata, AMBIT, "health_check") == Some("tunnel"))
}

fn target(address: Address, metadata: &Metadata) -> Compiled<Target> {
    match required(address.address, "address")? {
        address::Address::SocketAddress(mut socket) => {
            let Some(PortSpecifier::PortValue(value)) = socket.port_specifier.take() else {
                return Err(Problem::new("only port_value is implemented"));
            };
            let text = take(&mut socket.address);
            finish(&socket).under("socket_address")?;
            let ip = text.parse().map_err(|_| Problem::new(format!("{text:?} is not an address")))?;
            Ok(Target::Clear { address: SocketAddr::new(ip, port(value)?) })
        }
        address::Address::EnvoyInternalAddress(internal) => {
            let Some(AddressNameSpecifier::ServerListenerName(listener)) = internal.address_name_specifier else {
                return Err(Problem::new("only server_listener_name is implemented"));
            };
            match (listener.as_str(), internal.endpoint_id.as_str()) {
                (super::CONNECT_ORIGINATE, "") => Ok(Target::OriginalDestination),
                (super::CONNECT_ORIGINATE, id) => tunnelled(id, metadata),
                _ => Ok(Target::Internal { listener: listener.into() }),
            }
        }
        address::Address::Pipe(_) => Err(Problem::new("pipe is not implemented")),
    }
}

fn tunnelled(endpoint_id: &str, metadata: &Metadata) -> Compiled<Target> {
    let address =
        endpoint_id.parse().map_err(|_| Problem::new(format!("endpoint_id {endpoint_id:?} is not an address and a port")))?;
    let identity = string(metadata, AMBIT, "identity").ok_or_else(|| Problem::new("metadata io.ambit has no identity"))?;
    let identity = identity.parse().map_err(|error| Problem::new(format!("{identity:?} is not an identity: {error}")))?;
    Ok(Target::Hbone { address, identity })
}

fn string<'a>(metadata: &'a Metadata, filter: &str, key: &str) -> Option<&'a str> {
    text(metadata.filter_metadata.get(filter)?, key)
}

fn text<'a>(fields: &'a Struct, key: &str) -> Option<&'a str> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Namespace and name of an object: `key` is `namespace/name`, or a name beside a field `namespace`.
fn named(fields: &Struct, key: &str) -> (Arc<str>, Arc<str>) {
    let name = text(fields, key).unwrap_or_default();
    let (namespace, name) = name.split_once('/').unwrap_or((text(fields, "namespace").unwrap_or_default(), name));
    (namespace.into(), name.into())
}

/// The workload that an endpoint is, and its namespace. What is not said is as what is said before it.
fn workload(fields: &Struct) -> (Arc<str>, WorkloadNames) {
    let (namespace, name) = named(fields, "workload");
    let workload_name = text(fields, "workload_name").unwrap_or(&name);
    let canonical_name = text(fields, "canonical_name").unwrap_or(workload_name);
    (namespace, WorkloadNames::new(&name, workload_name, canonical_name))
}

/// The service a cluster stands for. Its host is the last part of the cluster's name unless it is given.
fn service(metadata: &Metadata, cluster: &str) -> Option<ServiceInfo> {
    let fields = metadata.filter_metadata.get(AMBIT)?;
    let (namespace, name) = named(fields, "service");
    let host = text(fields, "host").or(cluster.rsplit('|').next()).unwrap_or_default();
    // The namespace before the host of a ServiceEntry.
    let host = host.split_once('/').map_or(host, |(_, host)| host).into();
    Some(ServiceInfo { name, namespace, host })
}
