//! How many requests are let in at once, by how long they take (`envoy.extensions.filters.http.adaptive_concurrency.v3`), and which are let in
//! whatever goes on (`envoy.extensions.filters.http.health_check.v3`).

use std::{mem::take, time::Duration};

use ambit_api::envoy::pb::{
    envoy::{
        extensions::filters::http::{
            adaptive_concurrency::v3::{
                AdaptiveConcurrency, GradientControllerConfig,
                adaptive_concurrency::ConcurrencyControllerConfig,
                gradient_controller_config::{ConcurrencyLimitCalculationParams, MinimumRttCalculationParams},
            },
            health_check::v3::HealthCheck,
        },
        r#type::v3::Percent,
    },
    google::protobuf::Any,
};
use ambit_model::route::{AdmissionSettings, BestTime, HeaderMatch};

use super::{
    read::{Compiled, Problem, Under, boolean, duration, finish, number, required, unpack},
    text,
};

/// The filter's type.
pub const FILTER: &str = "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency";
/// The type of the filter that knows probes of health.
pub const PROBES: &str = "envoy.extensions.filters.http.health_check.v3.HealthCheck";
/// What Envoy has where nothing is said.
const STATUS: u16 = 503;
const FEW: u32 = 3;
const MOST: u32 = 1000;
const REQUESTS: u32 = 50;
const MEDIAN: f64 = 50.0;
const JITTER: f64 = 15.0;
const BUFFER: f64 = 25.0;

/// What is said; `None` where it is not enabled.
pub fn settings(any: &Any) -> Compiled<Option<AdmissionSettings>> {
    let mut config: AdaptiveConcurrency = unpack(any, FILTER)?;
    // There is no runtime that could say something else.
    let enabled = config.enabled.take().is_none_or(|flag| boolean(flag.default_value, true));
    let status = config.concurrency_limit_exceeded_status.take().and_then(|status| u16::try_from(status.code).ok());
    let controller = required(config.concurrency_controller_config.take(), "gradient_controller_config")?;
    let ConcurrencyControllerConfig::GradientControllerConfig(controller) = controller;
    finish(&config)?;
    // As Envoy, which answers nothing that would not be an error.
    let status = status.filter(|status| (400..600).contains(status)).unwrap_or(STATUS);
    let settings = gradient(controller, status).under("gradient_controller_config")?;
    Ok(enabled.then_some(settings))
}

fn gradient(mut controller: GradientControllerConfig, status: u16) -> Compiled<AdmissionSettings> {
    let percentile = controller.sample_aggregate_percentile.take().map_or(MEDIAN, |percent| percent.value);
    let limit = required(controller.concurrency_limit_params.take(), "concurrency_limit_params")?;
    let measured = required(controller.min_rtt_calc_params.take(), "min_rtt_calc_params")?;
    finish(&controller)?;
    let (first, buffer, best) = best(measured).under("min_rtt_calc_params")?;
    let (least, most, every) = bounds(limit).under("concurrency_limit_params")?;
    // With none nothing would ever be let in, nor seen of what requests take.
    let least = least.unwrap_or(first).max(1);
    Ok(AdmissionSettings { percentile, first, least, most, every, best, buffer, status })
}

fn bounds(mut params: ConcurrencyLimitCalculationParams) -> Compiled<(Option<u32>, u32, Duration)> {
    let least = number(params.min_concurrency_limit.take());
    let most = number(params.max_concurrency_limit.take()).unwrap_or(MOST);
    let every = params.concurrency_update_interval.take();
    let every = required(every, "concurrency_update_interval").and_then(duration).under("concurrency_update_interval")?;
    finish(&params)?;
    Ok((least, most, every))
}

fn best(mut params: MinimumRttCalculationParams) -> Compiled<(u32, f64, BestTime)> {
    let part = |percent: Option<Percent>, or: f64| percent.map_or(or, |percent| percent.value) / 100.0;
    let first = number(params.min_concurrency.take()).unwrap_or(FEW).max(1);
    let requests = number(params.request_count.take()).unwrap_or(REQUESTS);
    let (jitter, buffer) = (part(params.jitter.take(), JITTER), part(params.buffer.take(), BUFFER));
    let interval = params.interval.take().map(duration).transpose().under("interval")?.filter(|every| !every.is_zero());
    let fixed = params.fixed_value.take().map(duration).transpose().under("fixed_value")?;
    finish(&params)?;
    let best = match (interval, fixed) {
        (Some(every), _) => BestTime::Measured { every, jitter, requests },
        (None, Some(fixed)) => BestTime::Fixed(fixed),
        (None, None) => return Err(Problem::new("interval or fixed_value is missing")),
    };
    Ok((first, buffer, best))
}

/// The headers of probes. They are passed on as any request is.
pub fn probes(any: &Any) -> Compiled<Vec<HeaderMatch>> {
    let mut config: HealthCheck = unpack(any, PROBES)?;
    if !boolean(config.pass_through_mode.take(), false) {
        return Err(Problem::new("pass_through_mode other than true is not implemented"));
    }
    let headers = take(&mut config.headers).into_iter().map(text::header).collect::<Compiled<_>>().under("headers")?;
    finish(&config)?;
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::google::protobuf::{BoolValue, Duration as ProtoDuration, UInt32Value};
    use prost::Message;

    use super::*;

    type Edit = fn(&mut GradientControllerConfig);

    fn read(edit: Edit) -> Result<Option<AdmissionSettings>, String> {
        let mut controller = GradientControllerConfig {
            concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
                concurrency_update_interval: Some(ProtoDuration { seconds: 1, nanos: 0 }),
                ..Default::default()
            }),
            min_rtt_calc_params: Some(MinimumRttCalculationParams {
                interval: Some(ProtoDuration { seconds: 60, nanos: 0 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        edit(&mut controller);
        let config = AdaptiveConcurrency {
            concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(controller)),
            ..Default::default()
        };
        let any = Any { type_url: format!("x/{FILTER}"), value: config.encode_to_vec() };
        settings(&any).map_err(|problem| problem.to_string())
    }

    #[test]
    fn what_is_not_said_is_as_with_envoy_and_what_is_missing_is_named() {
        let found = read(|_| ()).unwrap().unwrap();
        assert_eq!((found.first, found.least, found.most, found.status), (3, 3, 1000, 503));
        assert_eq!((found.percentile, found.buffer, found.every), (50.0, 0.25, Duration::from_secs(1)));
        assert_eq!(found.best, BestTime::Measured { every: Duration::from_secs(60), jitter: 0.15, requests: 50 });
        let fixed = read(|controller| {
            let params = controller.min_rtt_calc_params.as_mut().unwrap();
            (params.interval, params.fixed_value) = (None, Some(ProtoDuration { seconds: 0, nanos: 5_000_000 }));
            params.min_concurrency = Some(UInt32Value { value: 10 });
        });
        let fixed = fixed.unwrap().unwrap();
        assert_eq!((fixed.best, fixed.first, fixed.least), (BestTime::Fixed(Duration::from_millis(5)), 10, 10));
        let none = read(|controller| {
            controller.min_rtt_calc_params.as_mut().unwrap().min_concurrency = Some(UInt32Value { value: 0 });
            controller.concurrency_limit_params.as_mut().unwrap().min_concurrency_limit = Some(UInt32Value { value: 0 });
        });
        let none = none.unwrap().unwrap();
        assert_eq!((none.first, none.least), (1, 1), "something is let in");
        let cases: [(Edit, &str); 3] = [
            (|controller| controller.min_rtt_calc_params = None, "gradient_controller_config: min_rtt_calc_params is missing"),
            (|controller| controller.min_rtt_calc_params.as_mut().unwrap().interval = None, "interval or fixed_value is missing"),
            (
                |controller| controller.concurrency_limit_params = Some(Default::default()),
                "concurrency_update_interval is missing",
            ),
        ];
        for (edit, reason) in cases {
            let problem = read(edit).unwrap_err();
            assert!(problem.contains(reason), "{problem}");
        }
    }

    #[test]
    fn probes_that_the_waypoint_would_answer_are_not_implemented() {
        let read = |config: &HealthCheck| {
            probes(&Any { type_url: format!("x/{PROBES}"), value: config.encode_to_vec() }).map_err(|problem| problem.to_string())
        };
        let passing = HealthCheck { pass_through_mode: Some(BoolValue { value: true }), ..Default::default() };
        assert_eq!(read(&passing).map(|headers| headers.len()), Ok(0));
        let problem = read(&HealthCheck::default()).map(drop).unwrap_err();
        assert_eq!(problem, "pass_through_mode other than true is not implemented");
        let cached = HealthCheck { cache_time: Some(ProtoDuration { seconds: 1, nanos: 0 }), ..passing };
        assert!(read(&cached).map(drop).unwrap_err().contains("cache_time is not implemented"));
    }
}
