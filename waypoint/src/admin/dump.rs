//! `/config_dump`: what was received, as it was received.

use ambit_api::{
    envoy::pb::{
        envoy::{
            admin::v3::{
                self as pb, BootstrapConfigDump, ClustersConfigDump, ConfigDump, EndpointsConfigDump, ListenersConfigDump,
                RoutesConfigDump, SecretsConfigDump, UpdateFailureState,
            },
            config::{
                bootstrap::v3::{Admin, Bootstrap},
                cluster::v3::Cluster,
                listener::v3::{Listener, filter::ConfigType},
                route::v3::RouteConfiguration,
            },
            extensions::filters::network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
        },
        google::protobuf::{Any, Timestamp},
    },
    type_url,
};
use ambit_runtime::admin::{Query, Reply};
use http::StatusCode;
use prost::{Message, Name};
use regex::Regex;

use super::{
    Pages, certs,
    envoy::{self, Envoy, any, timestamp},
    mask::Mask,
    pattern,
};
use crate::xds::{Known, Received, Sent, named};

/// Answers the page.
pub fn page(pages: &Pages, query: &Query) -> Reply {
    let names = match pattern(query, "name_regex", true) {
        Ok(names) => names,
        Err(refused) => return refused,
    };
    let mask = match Mask::of(query) {
        Ok(mask) => mask,
        Err(refused) => return refused,
    };
    let envoy = match Envoy::new() {
        Ok(envoy) => envoy,
        Err(error) => return envoy::written(Err(error)),
    };
    let mut dump = Dump { pages, received: pages.store.received(), names, unsure: None };
    let configs = |dump: &Dump<'_>| -> Result<Vec<Any>, Reply> {
        let resource = query.get("resource");
        let not_found = || Reply::text(format!("{} not found in config dump\n", resource.unwrap_or_default()));
        let configs = dump.configs(query).ok_or_else(|| not_found().status(StatusCode::NOT_FOUND))?;
        match &mask {
            None => Ok(configs),
            Some(mask) if resource.is_some() => mask.of_each(&envoy, configs),
            Some(mask) => mask.of_some(&envoy, configs),
        }
    };
    let write = |dump: &Dump<'_>| configs(dump).map(|configs| envoy.json(&ConfigDump { configs }, false));
    match write(&dump) {
        Ok(Ok(body)) => Reply::json_text(body),
        // A resource that was refused may have anything in it.
        Ok(Err(why)) => {
            tracing::debug!(why, "not all of the configuration can be shown");
            dump.unsure = Some(&envoy);
            write(&dump).map_or_else(|refused| refused, envoy::written)
        }
        Err(refused) => refused,
    }
}

/// What is to be shown.
struct Dump<'a> {
    pages: &'a Pages,
    received: Received,
    /// Only resources whose names are of this form.
    names: Option<Regex>,
    /// Where something cannot be shown, it is asked of each resource whether it can.
    unsure: Option<&'a Envoy>,
}

/// A resource of which something is in force: its version, its envelope, since when, and what was refused since.
type InForce = (String, Option<Any>, Option<Timestamp>, Option<UpdateFailureState>);

impl Dump<'_> {
    /// The sections, or the resources of the one kind that is asked for; `None` when there is no such kind.
    fn configs(&self, query: &Query) -> Option<Vec<Any>> {
        let Some(kind) = query.get("resource") else {
            let mut configs = vec![any(&self.bootstrap()), any(&self.clusters())];
            if query.get("include_eds").is_some() {
                configs.push(any(&self.endpoints()));
            }
            configs.extend([any(&self.listeners()), any(&self.routes()), any(&self.secrets())]);
            return Some(configs);
        };
        Some(match kind {
            "bootstrap" => each(self.bootstrap().bootstrap),
            "static_clusters" => each(self.clusters().static_clusters),
            "dynamic_active_clusters" => each(self.clusters().dynamic_active_clusters),
            "dynamic_warming_clusters" => each(self.clusters().dynamic_warming_clusters),
            "static_endpoint_configs" => each(self.endpoints().static_endpoint_configs),
            "dynamic_endpoint_configs" => each(self.endpoints().dynamic_endpoint_configs),
            "static_listeners" => each(self.listeners().static_listeners),
            "dynamic_listeners" => each(self.listeners().dynamic_listeners),
            "static_route_configs" => each(self.routes().static_route_configs),
            "dynamic_route_configs" => each(self.routes().dynamic_route_configs),
            "static_secrets" => each(self.secrets().static_secrets),
            "dynamic_active_secrets" => each(self.secrets().dynamic_active_secrets),
            "dynamic_warming_secrets" => each(self.secrets().dynamic_warming_secrets),
            _ => return None,
        })
    }

    fn bootstrap(&self) -> BootstrapConfigDump {
        let admin = Admin { address: Some(envoy::socket(self.pages.admin)), ..Admin::default() };
        let bootstrap = Bootstrap { node: Some(self.pages.node.clone()), admin: Some(admin), ..Bootstrap::default() };
        BootstrapConfigDump { bootstrap: Some(bootstrap), last_updated: None }
    }

    fn listeners(&self) -> ListenersConfigDump {
        let mut dump = ListenersConfigDump::default();
        for (name, known) in self.of(type_url::LISTENER) {
            let active_state = known.held.as_ref().map(|sent| pb::listeners_config_dump::DynamicListenerState {
                version_info: sent.version.clone(),
                listener: Some(self.envelope(type_url::LISTENER, name, sent)),
                last_updated: timestamp(sent.at),
            });
            dump.dynamic_listeners.push(pb::listeners_config_dump::DynamicListener {
                name: name.to_owned(),
                active_state,
                error_state: self.refused(type_url::LISTENER, name, known),
                ..Default::default()
            });
        }
        dump
    }

    fn clusters(&self) -> ClustersConfigDump {
        let mut dump = ClustersConfigDump::default();
        for (name, known) in self.of(type_url::CLUSTER) {
            let (version_info, cluster, last_updated, error_state) = self.in_force(type_url::CLUSTER, name, known);
            let cluster = pb::clusters_config_dump::DynamicCluster {
                version_info,
                cluster,
                last_updated,
                error_state,
                ..Default::default()
            };
            match known.held {
                Some(_) => dump.dynamic_active_clusters.push(cluster),
                None => dump.dynamic_warming_clusters.push(cluster),
            }
        }
        dump
    }

    fn routes(&self) -> RoutesConfigDump {
        let mut dump = RoutesConfigDump::default();
        for (name, known) in self.of(type_url::ROUTE) {
            let (version_info, route_config, last_updated, error_state) = self.in_force(type_url::ROUTE, name, known);
            dump.dynamic_route_configs.push(pb::routes_config_dump::DynamicRouteConfig {
                version_info,
                route_config,
                last_updated,
                error_state,
                ..Default::default()
            });
        }
        let listeners = self.received.of(type_url::LISTENER).into_iter().flat_map(|kind| kind.resources.values());
        for sent in listeners.filter_map(|known| known.held.as_ref()) {
            for route_config in inline(sent).into_iter().filter(|routes| self.is_asked_for(&routes.name)) {
                dump.static_route_configs.push(pb::routes_config_dump::StaticRouteConfig {
                    route_config: Some(self.shown(any(&route_config), &route_config.name)),
                    last_updated: timestamp(sent.at),
                });
            }
        }
        dump
    }

    fn endpoints(&self) -> EndpointsConfigDump {
        let mut dump = EndpointsConfigDump::default();
        for (name, known) in self.of(type_url::ENDPOINT) {
            let (version_info, endpoint_config, last_updated, error_state) = self.in_force(type_url::ENDPOINT, name, known);
            dump.dynamic_endpoint_configs.push(pb::endpoints_config_dump::DynamicEndpointConfig {
                version_info,
                endpoint_config,
                last_updated,
                error_state,
                ..Default::default()
            });
        }
        for (_, known) in self.of(type_url::CLUSTER) {
            let Some(sent) = &known.held else { continue };
            let given = Cluster::decode(sent.body.clone()).ok().and_then(|cluster| cluster.load_assignment);
            dump.static_endpoint_configs.extend(given.map(|assignment| pb::endpoints_config_dump::StaticEndpointConfig {
                endpoint_config: Some(self.shown(any(&assignment), &assignment.cluster_name)),
                last_updated: timestamp(sent.at),
            }));
        }
        dump
    }

    fn secrets(&self) -> SecretsConfigDump {
        let mut dump = SecretsConfigDump::default();
        for (secret, version, since) in certs::secrets(self.pages) {
            if self.is_asked_for(&secret.name) {
                dump.dynamic_active_secrets.push(pb::secrets_config_dump::DynamicSecret {
                    name: secret.name.clone(),
                    version_info: version,
                    last_updated: since.and_then(timestamp),
                    secret: Some(any(&secret)),
                    ..Default::default()
                });
            }
        }
        for (name, known) in self.of(type_url::SECRET) {
            let (version_info, secret, last_updated, error_state) = self.in_force(type_url::SECRET, name, known);
            let secret = pb::secrets_config_dump::DynamicSecret {
                name: name.to_owned(),
                version_info,
                last_updated,
                secret,
                error_state,
                ..Default::default()
            };
            match known.held {
                Some(_) => dump.dynamic_active_secrets.push(secret),
                None => dump.dynamic_warming_secrets.push(secret),
            }
        }
        dump
    }

    /// What is known of the resources of a type that are asked for.
    fn of(&self, type_url: &str) -> impl Iterator<Item = (&str, &Known)> {
        let all = self.received.of(type_url).into_iter().flat_map(|kind| &kind.resources);
        all.map(|(name, known)| (name.as_str(), known)).filter(move |(name, _)| self.is_asked_for(name))
    }

    fn is_asked_for(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.is_match(name))
    }

    /// Who reads it counts on a resource to be there: where none is in force, it has its name alone.
    fn in_force(&self, type_url: &str, name: &str, known: &Known) -> InForce {
        let error_state = self.refused(type_url, name, known);
        match &known.held {
            Some(sent) => (sent.version.clone(), Some(self.envelope(type_url, name, sent)), timestamp(sent.at), error_state),
            None => (String::new(), Some(only_named(type_url, name)), None, error_state),
        }
    }

    fn refused(&self, type_url: &str, name: &str, known: &Known) -> Option<UpdateFailureState> {
        let (sent, why) = known.refused.as_ref()?;
        Some(UpdateFailureState {
            failed_configuration: Some(self.envelope(type_url, name, sent)),
            last_update_attempt: timestamp(sent.at),
            details: why.clone(),
            version_info: sent.version.clone(),
        })
    }

    /// A resource in its envelope.
    fn envelope(&self, type_url: &str, name: &str, sent: &Sent) -> Any {
        self.shown(Any { type_url: type_url.to_owned(), value: sent.body.to_vec() }, name)
    }

    /// What is in an envelope; if it cannot be shown, its name alone.
    fn shown(&self, envelope: Any, name: &str) -> Any {
        match self.unsure {
            Some(envoy) if envoy.json(&envelope, false).is_err() => only_named(&envelope.type_url, name),
            _ => envelope,
        }
    }
}

/// A resource that has nothing but its name.
fn only_named(type_url: &str, name: &str) -> Any {
    Any { type_url: type_url.to_owned(), value: named(name) }
}

/// Each in an envelope of its own.
fn each<M: Message + Name>(messages: impl IntoIterator<Item = M>) -> Vec<Any> {
    messages.into_iter().map(|message| any(&message)).collect()
}

/// The routes that a listener has in itself.
fn inline(listener: &Sent) -> Vec<RouteConfiguration> {
    let listener = Listener::decode(listener.body.clone()).unwrap_or_default();
    let chains = listener.filter_chains.into_iter().chain(listener.default_filter_chain);
    let manager = HttpConnectionManager::type_url();
    let managers = chains.flat_map(|chain| chain.filters).filter_map(|filter| match filter.config_type {
        Some(ConfigType::TypedConfig(config)) if config.type_url == manager => {
            HttpConnectionManager::decode(config.value.as_slice()).ok()
        }
        _ => None,
    });
    let routes = |manager: HttpConnectionManager| match manager.route_specifier {
        Some(RouteSpecifier::RouteConfig(routes)) => Some(routes),
        _ => None,
    };
    managers.filter_map(routes).collect()
}
