//! Values of RequestPolicy (the limits of its schema).

use std::time::Duration;

use gateway_api::Duration as Gep2257;

use super::Errors;
use super::route::{header_name, pattern};
use crate::source::crd::requests::{
    Fault, FaultHeaderType, GlobalRateLimit, LimitBy, LimitEntry, LimitSource, LocalRateLimit, RequestPolicy, RequestPolicySpec,
    RequestTarget, SizeLimits, StreamTimeouts,
};
use crate::source::crd::upgrades::upgrade_fault;

/// As many targets as a status may speak of (GEP-713).
const MOST_TARGETS: usize = 16;
const MOST_HEADERS: usize = 16;
/// Descriptors of a limit, and entries of one. Each may have a header of a request whole.
const MOST_DESCRIPTORS: usize = 8;
/// What a waypoint takes of headers whatever a route says, in bytes.
const MOST_HEADER_BYTES: u32 = 60 << 10;
/// The longest that a request is made to wait.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) fn policy(policy: &RequestPolicy, errors: &mut Errors) {
    let spec = &policy.spec;
    errors.check(!spec.target_refs.is_empty(), "spec.targetRefs", || "must name what the policy holds for".into());
    errors.at_most(MOST_TARGETS, "spec.targetRefs", spec.target_refs.len());
    for (index, target) in spec.target_refs.iter().enumerate() {
        self::target(target, &format!("spec.targetRefs[{index}]"), errors);
    }
    let local = spec.rate_limit.as_ref().and_then(|limit| limit.local.as_ref());
    let something = spec.fault.is_some() || spec.rate_limit.is_some() || spec.external_processing.is_some();
    let something = something || spec.limits.is_some() || spec.timeouts.is_some() || spec.retries.is_some();
    let something = something || !spec.upgrades.is_empty();
    errors.check(something, "spec", || {
        "must have fault, rateLimit, externalProcessing, limits, timeouts, retries or upgrades".into()
    });
    upgrades(&spec.upgrades, errors);
    let unsaid = spec.retries.as_ref().is_some_and(|retries| retries.writes.is_none());
    errors.check(!unsaid, "spec.retries.writes", || "must be Unseen or Allowed".into());
    if let Some(timeouts) = &spec.timeouts {
        self::timeouts(timeouts, errors);
    }
    let unnamed = spec.external_processing.as_ref().is_some_and(|processing| processing.provider.is_empty());
    errors.check(!unnamed, "spec.externalProcessing.provider", || "must name an extension provider".into());
    let global = spec.rate_limit.as_ref().and_then(|limit| limit.global.as_ref());
    let counts = local.is_some() || global.is_some();
    errors.check(spec.rate_limit.is_none() || counts, "spec.rateLimit", || "must have local or global".into());
    if let Some(fault) = &spec.fault {
        self::fault(fault, errors);
    }
    if let Some(local) = local {
        limit(local, errors);
    }
    if let Some(global) = global {
        self::global(global, errors);
    }
    if let Some(limits) = &spec.limits {
        sizes(limits, errors);
    }
}

fn target(target: &RequestTarget, path: &str, errors: &mut Errors) {
    let RequestTarget { group, kind, name, section_name } = target;
    let known = matches!(
        (group.as_str(), kind.as_str()),
        ("" | "core", "Service") | ("gateway.networking.k8s.io", "HTTPRoute" | "GRPCRoute")
    );
    errors.check(known, &format!("{path}.kind"), || {
        format!("{kind} of group {group:?} cannot be targeted; HTTPRoute, GRPCRoute and Service can")
    });
    errors.check(!name.is_empty(), &format!("{path}.name"), || "must not be empty".into());
    errors.check(kind != "Service" || section_name.is_none(), &format!("{path}.sectionName"), || {
        "only rules of routes can be targeted; without it the policy holds for all ports of the Service".into()
    });
}

fn upgrades(upgrades: &[String], errors: &mut Errors) {
    errors.at_most(RequestPolicySpec::MOST_UPGRADES, "spec.upgrades", upgrades.len());
    for (index, name) in upgrades.iter().enumerate() {
        let path = format!("spec.upgrades[{index}]");
        if let Some(fault) = upgrade_fault(name) {
            errors.add(path, format!("{name:?} {fault}"));
            continue;
        }
        let again = upgrades.iter().take(index).any(|before| before.eq_ignore_ascii_case(name));
        errors.check(!again, &path, || format!("{name:?} is there twice: case does not count"));
    }
}

fn timeouts(timeouts: &StreamTimeouts, errors: &mut Errors) {
    let StreamTimeouts { idle, stream } = timeouts;
    errors.check(idle.is_some() || stream.is_some(), "spec.timeouts", || "must have idle or stream".into());
    for (path, text) in [("spec.timeouts.idle", idle), ("spec.timeouts.stream", stream)] {
        let Some(text) = text else { continue };
        let time = text.parse::<Gep2257>().ok().map(|time| Duration::new(time.as_secs(), time.subsec_nanos()));
        errors.check(time.is_some_and(|time| !time.is_zero()), path, || {
            format!("{text:?} is not a duration such as 5m or 1h30m, of more than nothing")
        });
    }
}

fn fault(fault: &Fault, errors: &mut Errors) {
    errors.check(fault.delay.is_some() || fault.abort.is_some(), "spec.fault", || "must have delay or abort".into());
    if let Some(delay) = &fault.delay {
        let time = delay.fixed.parse::<Gep2257>().ok().map(|time| Duration::new(time.as_secs(), time.subsec_nanos()));
        errors.check(time.is_some_and(|time| !time.is_zero() && time <= LONGEST), "spec.fault.delay.fixed", || {
            format!("{:?} is not a duration such as 5s or 1m30s, at most 1h", delay.fixed)
        });
        percent(delay.percent, "spec.fault.delay.percent", errors);
    }
    if let Some(abort) = &fault.abort {
        errors.check((200..600).contains(&abort.status), "spec.fault.abort.status", || {
            format!("{} is not an HTTP status (200 to 599)", abort.status)
        });
        percent(abort.percent, "spec.fault.abort.percent", errors);
    }
    errors.at_most(MOST_HEADERS, "spec.fault.headers", fault.headers.len());
    for (index, header) in fault.headers.iter().enumerate() {
        header_name(errors, &format!("spec.fault.headers[{index}].name"), &header.name);
        if header.r#type == Some(FaultHeaderType::RegularExpression) {
            pattern(errors, &format!("spec.fault.headers[{index}].value"), &header.value);
        }
    }
}

fn percent(percent: Option<f64>, path: &str, errors: &mut Errors) {
    let Some(percent) = percent else { return };
    errors.check((0.0..=100.0).contains(&percent), path, || format!("{percent} is not a percentage (0 to 100)"));
}

fn limit(limit: &LocalRateLimit, errors: &mut Errors) {
    const PATH: &str = "spec.rateLimit.local";
    errors.check(limit.requests > 0, &format!("{PATH}.requests"), || "must be at least 1".into());
    if let Err(reason) = limit.interval() {
        errors.add(format!("{PATH}.per"), reason);
    }
    errors.check(limit.burst != Some(0), &format!("{PATH}.burst"), || "must be at least 1".into());
    let of_header = limit.by == Some(LimitBy::Header);
    match &limit.header {
        Some(name) if of_header => header_name(errors, &format!("{PATH}.header"), name),
        Some(_) => errors.add(format!("{PATH}.header"), "goes with by: Header only"),
        None => errors.check(!of_header, &format!("{PATH}.header"), || "must name the header for by: Header".into()),
    }
}

fn sizes(limits: &SizeLimits, errors: &mut Errors) {
    const PATH: &str = "spec.limits";
    let SizeLimits { max_body_bytes, max_header_bytes } = limits;
    let something = max_body_bytes.is_some() || max_header_bytes.is_some();
    errors.check(something, PATH, || "must have maxBodyBytes or maxHeaderBytes".into());
    errors.check(*max_body_bytes != Some(0), &format!("{PATH}.maxBodyBytes"), || "must be at least 1".into());
    let fits = max_header_bytes.is_none_or(|most| (1..=MOST_HEADER_BYTES).contains(&most));
    errors.check(fits, &format!("{PATH}.maxHeaderBytes"), || format!("must be 1 to {MOST_HEADER_BYTES}"));
}

fn global(limit: &GlobalRateLimit, errors: &mut Errors) {
    const PATH: &str = "spec.rateLimit.global";
    let empty = || "must not be empty".to_owned();
    errors.check(!limit.provider.is_empty(), &format!("{PATH}.provider"), empty);
    errors.check(!limit.domain.is_empty(), &format!("{PATH}.domain"), empty);
    errors.check(!limit.descriptors.is_empty(), &format!("{PATH}.descriptors"), empty);
    errors.at_most(MOST_DESCRIPTORS, &format!("{PATH}.descriptors"), limit.descriptors.len());
    for (index, descriptor) in limit.descriptors.iter().enumerate() {
        let path = format!("{PATH}.descriptors[{index}].entries");
        errors.check(!descriptor.entries.is_empty(), &path, empty);
        errors.at_most(MOST_DESCRIPTORS, &path, descriptor.entries.len());
        for (index, entry) in descriptor.entries.iter().enumerate() {
            self::entry(entry, &format!("{path}[{index}]"), errors);
        }
    }
}

fn entry(entry: &LimitEntry, path: &str, errors: &mut Errors) {
    let LimitEntry { from, key, header, value, optional } = entry;
    let of = |source: LimitSource| *from == source;
    match header {
        Some(name) if of(LimitSource::Header) => header_name(errors, &format!("{path}.header"), name),
        Some(_) => errors.add(format!("{path}.header"), "goes with from: Header only"),
        None => {
            errors.check(!of(LimitSource::Header), &format!("{path}.header"), || "must name the header for from: Header".into())
        }
    }
    match value {
        Some(text) if of(LimitSource::Value) => {
            errors.check(!text.is_empty(), &format!("{path}.value"), || "must not be empty".into());
        }
        Some(_) => errors.add(format!("{path}.value"), "goes with from: Value only"),
        None => errors.check(!of(LimitSource::Value), &format!("{path}.value"), || "must be given for from: Value".into()),
    }
    let named = key.as_ref().is_none_or(|key| !key.is_empty() && !of(LimitSource::RemoteAddress));
    errors.check(named, &format!("{path}.key"), || "must not be empty, and that of from: RemoteAddress is remote_address".into());
    let may_miss = of(LimitSource::Header) || of(LimitSource::Identity);
    errors.check(*optional != Some(true) || may_miss, &format!("{path}.optional"), || {
        "goes with from: Header and Identity only: all requests have the others".into()
    });
}
