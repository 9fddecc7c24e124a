//! Faults that are put in the way of requests (`envoy.extensions.filters.http.fault.v3`).

use std::{mem::take, sync::Arc};

use ambit_api::envoy::pb::{
    envoy::extensions::filters::{
        common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
        http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
    },
    google::protobuf::Any,
};
use ambit_model::route::{Abort, Fault, Share};

use super::{
    mirror,
    read::{Compiled, Problem, Under, duration, finish, number, required, unpack},
    text,
};

/// The name that the filter, and what a route says for it, must have.
pub const NAME: &str = "envoy.filters.http.fault";
/// The filter's type, and that of what a route says for it.
pub const FILTER: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
/// Envoy's text of an answer that is given none.
const BODY: &str = "fault filter abort";

/// What is said of faults.
pub fn fault(any: &Any) -> Compiled<Arc<Fault>> {
    let mut config: HttpFault = unpack(any, FILTER)?;
    let headers = take(&mut config.headers).into_iter().map(text::header).collect::<Compiled<_>>().under("headers")?;
    let delay = config.delay.take().map(delay).transpose().under("delay")?;
    let abort = config.abort.take().map(abort).transpose().under("abort")?;
    let most_active = number(config.max_active_faults.take());
    // There is no runtime that could say something under these names, nor are there statistics by the client's name.
    for key in [
        &mut config.delay_percent_runtime,
        &mut config.abort_percent_runtime,
        &mut config.delay_duration_runtime,
        &mut config.abort_http_status_runtime,
        &mut config.max_active_faults_runtime,
        &mut config.response_rate_limit_percent_runtime,
        &mut config.abort_grpc_status_runtime,
    ] {
        key.clear();
    }
    config.disable_downstream_cluster_stats = false;
    finish(&config)?;
    Ok(Arc::new(Fault { headers, delay, abort, most_active }))
}

fn delay(mut config: FaultDelay) -> Compiled<(std::time::Duration, Share)> {
    let share = config.percentage.take().map(mirror::share).transpose().under("percentage")?;
    let FaultDelaySecifier::FixedDelay(delay) = required(config.fault_delay_secifier.take(), "fixed_delay")? else {
        return Err(Problem::new("header_delay is not implemented"));
    };
    finish(&config)?;
    Ok((duration(delay).under("fixed_delay")?, of(share)))
}

fn abort(mut config: FaultAbort) -> Compiled<Abort> {
    let share = config.percentage.take().map(mirror::share).transpose().under("percentage")?;
    let status = match required(config.error_type.take(), "http_status")? {
        ErrorType::HttpStatus(status) => status,
        ErrorType::GrpcStatus(_) => return Err(Problem::new("grpc_status is not implemented")),
        ErrorType::HeaderAbort(_) => return Err(Problem::new("header_abort is not implemented")),
    };
    let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
    let status = status.ok_or_else(|| Problem::new("http_status is not an HTTP status (200 to 599)"))?;
    let body = Some(take(&mut config.response_body)).filter(|body| !body.is_empty()).unwrap_or_else(|| BODY.to_owned());
    finish(&config)?;
    Ok(Abort { status, body, share: of(share) })
}

/// Nobody suffers where it is not said how many.
fn of(share: Option<(u32, u32)>) -> Share {
    share.map_or(Share::NONE, |(taken, of)| Share { taken, of })
}
