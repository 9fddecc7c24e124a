//! Processors of requests and responses (`envoy.extensions.filters.http.ext_proc.v3`).

use std::{
    collections::{BTreeMap, HashMap},
    mem::take,
    time::Duration,
};

use ambit_api::envoy::pb::{
    envoy::{
        config::common::mutation_rules::v3::HeaderMutationRules,
        extensions::filters::http::ext_proc::v3::{
            ExtProcPerRoute, ExternalProcessor, ProcessingMode as Mode, ext_proc_per_route::Override,
            external_processor::RouteCacheAction,
        },
    },
    google::protobuf::Any,
};
use http::StatusCode;

use super::{
    grpc::{self, Called},
    read::{Compiled, Problem, Under, boolean, duration, finish, required, type_of, unpack},
};
use crate::compiled::{ExtProc, MutationRules, ProcessingMode};

/// The filter's type.
pub const FILTER: &str = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
const PER_ROUTE: &str = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
/// Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(200);

/// The filter of this name, which is `off` where routes do not say that it is on.
pub fn filter(name: &str, off: bool, mut config: ExternalProcessor) -> Compiled<ExtProc> {
    config.stat_prefix.clear();
    // There is one span for each request, and none of what processors are told.
    config.emit_client_span = config.emit_client_span.filter(|on| on.value);
    // The route is chosen by the request as it was judged, and stays whatever a processor says.
    let retained = take(&mut config.disable_clear_route_cache) || config.route_cache_action == RouteCacheAction::Retain as i32;
    if !retained {
        return Err(Problem::new("route_cache_action other than RETAIN is not implemented"));
    }
    config.route_cache_action = 0;
    let called = grpc::called(required(config.grpc_service.take(), "grpc_service")?);
    let Called { cluster, authority, timeout } = called.under("grpc_service")?;
    // Envoy opens the stream for as long as the request lasts: what is waited for is said by `message_timeout`.
    if timeout.is_some_and(|timeout| !timeout.is_zero()) {
        return Err(Problem::new("timeout is not implemented").under("grpc_service"));
    }
    let told = mode(&config.processing_mode.take().unwrap_or_default()).under("processing_mode")?;
    let allowed: Result<Vec<_>, String> =
        take(&mut config.allowed_override_modes).iter().map(|mode| told.changed(mode)).collect();
    let read = ExtProc {
        name: name.into(),
        on: !off,
        cluster,
        authority,
        message_timeout: config.message_timeout.take().map_or(Ok(TIMEOUT), duration).under("message_timeout")?,
        failure_mode_allow: take(&mut config.failure_mode_allow),
        status_on_error: config
            .status_on_error
            .take()
            .map_or(Ok(StatusCode::INTERNAL_SERVER_ERROR), grpc::status)
            .under("status_on_error")?,
        mode: told,
        rules: rules(config.mutation_rules.take().unwrap_or_default()).under("mutation_rules")?,
        allow_mode_override: take(&mut config.allow_mode_override),
        allowed_override_modes: allowed.map_err(Problem::new).under("allowed_override_modes")?,
    };
    finish(&config)?;
    Ok(read)
}

fn mode(mode: &Mode) -> Compiled<ProcessingMode> {
    ProcessingMode::DEFAULT.changed(mode).map_err(Problem::new)
}

fn rules(mut rules: HeaderMutationRules) -> Compiled<MutationRules> {
    // Rules have decided about method and host.
    if boolean(rules.allow_all_routing.take(), false) {
        return Err(Problem::new("allow_all_routing is not implemented"));
    }
    let read = MutationRules {
        allow_envoy: boolean(rules.allow_envoy.take(), false),
        disallow_system: boolean(rules.disallow_system.take(), false),
        disallow_all: boolean(rules.disallow_all.take(), false),
        disallow_is_error: boolean(rules.disallow_is_error.take(), false),
    };
    finish(&rules)?;
    Ok(read)
}

/// What a route says for filters of this kind: whether they hold for it. What was read is taken out.
pub fn per_filter(said: &mut HashMap<String, Any>) -> Compiled<BTreeMap<String, bool>> {
    let names: Vec<String> = said.iter().filter(|(_, any)| type_of(any) == PER_ROUTE).map(|(name, _)| name.clone()).collect();
    let mut read = BTreeMap::new();
    for name in names {
        let Some(any) = said.remove(&name) else { continue };
        let on = per_route(&any).under(&name)?;
        read.insert(name, on);
    }
    Ok(read)
}

fn per_route(any: &Any) -> Compiled<bool> {
    let mut said: ExtProcPerRoute = unpack(any, PER_ROUTE)?;
    match required(said.r#override.take(), "override")? {
        // Envoy takes no other value.
        Override::Disabled(off) => Ok(!off),
        Override::Overrides(overrides) => finish(&overrides).under("overrides").map(|()| true),
    }
}

#[cfg(test)]
mod tests;
