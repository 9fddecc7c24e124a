//! A rule for requests, of an HTTPRoute or a VirtualService, as far as hazards go by it.

use std::collections::BTreeSet;
use std::time::Duration;

use gateway_api::Duration as Gep2257;
use gateway_api::experimental::httproutes::{HttpRouteRules, HttpRouteRulesMatchesMethod};

use crate::source::crd::destination::as_time;
use crate::source::crd::virtual_service::{HttpMatch, HttpRule};
use crate::source::{NamespacedName, RetryOn};

/// Retries of an HTTPRoute that does not say how many.
const ATTEMPTS: u32 = 1;
/// The least wait before the first retry where nothing is said (Envoy's `retry_back_off`).
const WAIT: Duration = Duration::from_millis(25);
/// How many waits are each twice as long as the one before; all further ones are ten times the first.
const GROWING: u32 = 4;

/// What the fields of a rule are called.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) retry: &'static str,
    /// What makes it a retry after an answer.
    pub(super) after: &'static str,
    pub(super) request: &'static str,
    pub(super) of_try: &'static str,
}

const HTTP_ROUTE: Names =
    Names { retry: "retry", after: "codes", request: "timeouts.request", of_try: "timeouts.backendRequest" };
const VIRTUAL_SERVICE: Names = Names { retry: "retries", after: "retryOn", request: "timeout", of_try: "retries.perTryTimeout" };

/// A Service, or one port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) service: NamespacedName,
    pub(super) port: Option<i64>,
}

impl Target {
    /// Whether a request can be for both.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let same_port = self.port.is_none() || other.port.is_none() || self.port == other.port;
        self.service == other.service && same_port
    }
}

/// How often a request is sent again, and after which wait at least.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retries {
    pub(super) attempts: u32,
    wait: Duration,
}

impl Retries {
    /// How often it is sent in all.
    pub(super) fn tries(self) -> u32 {
        self.attempts.saturating_add(1)
    }

    /// All waits between its tries, of which each is as short as it may be.
    pub(super) fn waits(self) -> Duration {
        let doubled: u32 = (0..self.attempts.min(GROWING)).map(|before| 1_u32 << before).sum();
        let level = self.attempts.saturating_sub(GROWING).saturating_mul(10);
        self.wait.saturating_mul(doubled.saturating_add(level))
    }
}

/// What is done with some of a route's requests. A time that is not said, or is zero, is no limit.
#[derive(Debug)]
pub(super) struct Rule {
    /// Where it is written.
    pub(super) path: String,
    pub(super) names: &'static Names,
    pub(super) retries: Option<Retries>,
    /// How long a request may take, with all its tries.
    pub(super) request: Option<Duration>,
    /// How long one try may take.
    pub(super) of_try: Option<Duration>,
    /// Methods that its matches name and that may not arrive twice.
    pub(super) writes: BTreeSet<&'static str>,
    /// Whether each match names one of these, so that it has no other requests.
    only_writes: bool,
    /// Whether a match is for more methods than one, or there is none.
    pub(super) any_method: bool,
    /// Statuses of calls after which it says that they are sent again.
    pub(super) calls: Vec<&'static str>,
    /// The RequestPolicy by which they are sent again as all others are.
    pub(super) twice: Option<NamespacedName>,
    pub(super) backends: Vec<Target>,
}

impl Rule {
    /// A rule of an HTTPRoute.
    pub(super) fn http(rule: &HttpRouteRules, path: String, namespace: &str) -> Self {
        let retry = rule.retry.as_ref().filter(|retry| retry.attempts.is_none_or(|attempts| attempts > 0));
        let retries = retry.map(|retry| Retries {
            attempts: retry.attempts.map_or(ATTEMPTS, |attempts| u32::try_from(attempts).unwrap_or(u32::MAX)),
            wait: time(retry.backoff.as_deref()).unwrap_or(WAIT),
        });
        let timeouts = rule.timeouts.as_ref();
        let methods: Vec<_> = rule.matches.iter().flatten().map(|one| one.method.as_ref().and_then(unrepeatable)).collect();
        let backends = rule.backend_refs.iter().flatten().filter(|to| {
            matches!(to.group.as_deref(), None | Some("" | "core"))
                && to.kind.as_deref().is_none_or(|kind| kind == "Service")
                && to.weight != Some(0)
        });
        let target = |namespace: &str, name: &str, port: Option<i32>| Target {
            service: NamespacedName::new(namespace, name),
            port: port.map(i64::from),
        };
        Self {
            names: &HTTP_ROUTE,
            retries,
            request: time(timeouts.and_then(|times| times.request.as_deref())),
            of_try: time(timeouts.and_then(|times| times.backend_request.as_deref())),
            only_writes: !methods.is_empty() && methods.iter().all(Option::is_some),
            calls: Vec::new(),
            any_method: methods.is_empty() || rule.matches.iter().flatten().any(|one| one.method.is_none()),
            twice: None,
            writes: methods.into_iter().flatten().collect(),
            backends: backends.map(|to| target(to.namespace.as_deref().unwrap_or(namespace), &to.name, to.port)).collect(),
            path,
        }
    }

    /// A rule of a VirtualService of a namespace.
    pub(super) fn of_virtual_service(rule: &HttpRule, path: String, namespace: &str) -> Self {
        let said = rule.retries.as_ref().filter(|retries| retries.attempts > 0);
        let methods: Vec<_> = rule
            .conditions
            .iter()
            .map(|said| match said.method.as_ref().and_then(|method| method.exact.as_deref()) {
                Some("POST") => Some("POST"),
                Some("PATCH") => Some("PATCH"),
                _ => None,
            })
            .collect();
        let sent = rule.route.iter().map(|weighted| &weighted.destination);
        let backends = sent.filter_map(|to| {
            let port = to.port.as_ref().map(|port| port.number);
            Some(Target { service: service_of_host(namespace, &to.host)?, port })
        });
        Self {
            names: &VIRTUAL_SERVICE,
            retries: said.filter(|retries| !RetryOn::of(retries).is_empty()).map(|retries| Retries {
                attempts: u32::try_from(retries.attempts).unwrap_or(u32::MAX),
                wait: retries.backoff.as_deref().and_then(as_time).unwrap_or(WAIT),
            }),
            request: rule.timeout.as_deref().and_then(as_time),
            of_try: said.and_then(|retries| retries.per_try_timeout.as_deref()).and_then(as_time),
            only_writes: !methods.is_empty() && methods.iter().all(Option::is_some),
            calls: said.and_then(RetryOn::said).map(|on| on.of_calls()).unwrap_or_default(),
            any_method: methods.is_empty() || rule.conditions.iter().any(names_no_method),
            twice: None,
            writes: methods.into_iter().flatten().collect(),
            backends: backends.collect(),
            path,
        }
    }

    /// The same, where a RequestPolicy has its writes sent again, if it is given.
    pub(super) fn with_writes(self, twice: Option<NamespacedName>) -> Self {
        Self { twice, ..self }
    }

    /// The path of a field of the rule.
    pub(super) fn field(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Its retries, unless no request of it may arrive twice: these are none once an endpoint could have seen it.
    pub(super) fn again(&self) -> Option<Retries> {
        self.retries.filter(|_| !self.only_writes || self.twice.is_some())
    }

    /// What all its tries take with the waits between them, when each is late.
    pub(super) fn sum(&self) -> Option<Duration> {
        let retries = self.again()?;
        Some(self.of_try?.saturating_mul(retries.tries()).saturating_add(retries.waits()))
    }

    /// The longest that a request may take.
    pub(super) fn longest(&self) -> Option<Duration> {
        let once = self.of_try.filter(|_| self.again().is_none());
        [self.request, self.sum(), once].into_iter().flatten().min()
    }

    /// The shortest that anything of it may take, with the field that says so.
    pub(super) fn shortest(&self) -> Option<(&'static str, Duration)> {
        let of = |name: &'static str, time: Option<Duration>| time.map(|time| (name, time));
        let times = [of(self.names.of_try, self.of_try), of(self.names.request, self.request)];
        times.into_iter().flatten().min_by_key(|(_, time)| *time)
    }
}

/// Whether a match of a VirtualService is for more methods than one.
fn names_no_method(said: &HttpMatch) -> bool {
    said.method.as_ref().is_none_or(|method| method.exact.is_none())
}

/// A method that may not arrive twice (RFC 9110, section 9.2.2).
fn unrepeatable(method: &HttpRouteRulesMatchesMethod) -> Option<&'static str> {
    match method {
        HttpRouteRulesMatchesMethod::Post => Some("POST"),
        HttpRouteRulesMatchesMethod::Patch => Some("PATCH"),
        _ => None,
    }
}

/// A time of the Gateway API, which is a limit.
fn time(text: Option<&str>) -> Option<Duration> {
    let said = text?.parse::<Gep2257>().ok()?;
    Some(Duration::new(said.as_secs(), said.subsec_nanos())).filter(|time| !time.is_zero())
}

/// The Service that a host means in a VirtualService of `namespace`, whatever the domain of the cluster.
pub(super) fn service_of_host(namespace: &str, host: &str) -> Option<NamespacedName> {
    let host = host.to_ascii_lowercase();
    let (name, rest) = host.split_once('.').unwrap_or((host.as_str(), ""));
    let own = rest.is_empty() || rest.strip_prefix(namespace).is_some_and(|rest| rest.starts_with(".svc."));
    (own && !name.is_empty() && !name.contains('*')).then(|| NamespacedName::new(namespace, name))
}
