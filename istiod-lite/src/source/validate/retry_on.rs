//! What a VirtualService has requests sent again for, which it says in one text (`retries.retryOn`).
//!
//! What is not known of it is left out, and the rest holds: a request that is not sent again is answered as the endpoint, or the waypoint, has it,
//! which is better than 500 for all that the rule is for. Nobody is let in by that.

use crate::source::crd::virtual_service::{Retries, VirtualService};
use crate::source::typed::FieldError;

/// The conditions that are carried out, as Envoy's router calls them (`x-envoy-retry-on`). Numbers are statuses.
const OF_REQUESTS: [&str; 8] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "retriable-status-codes",
];
/// The same of calls, by a status of gRPC in the head of the response (`x-envoy-retry-grpc-on`).
const OF_CALLS: [&str; 5] = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];
/// What is sent again where that is not said: what the endpoint has not looked at, or did not take.
const UNSAID: &str = "connect-failure,refused-stream,reset-before-request,unavailable,cancelled,503";

/// What requests are sent again for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryOn<'a> {
    /// The conditions that are carried out.
    pub(crate) conditions: Vec<&'a str>,
    /// Statuses of HTTP.
    pub(crate) statuses: Vec<u32>,
    /// What is none of both.
    unknown: Vec<&'a str>,
}

impl<'a> RetryOn<'a> {
    /// What a VirtualService says, or what holds where it says nothing.
    pub(crate) fn of(retries: &'a Retries) -> Self {
        Self::said(retries).unwrap_or_else(|| Self::read(UNSAID))
    }

    /// What a VirtualService says itself.
    pub(crate) fn said(retries: &'a Retries) -> Option<Self> {
        retries.retry_on.as_deref().filter(|on| !on.trim().is_empty()).map(Self::read)
    }

    fn read(text: &'a str) -> Self {
        let mut found = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.parse::<u32>() {
                Ok(status @ 100..=599) => found.statuses.push(status),
                _ if OF_REQUESTS.contains(&word) || OF_CALLS.contains(&word) => found.conditions.push(word),
                _ => found.unknown.push(word),
            }
        }
        found
    }

    /// Whether nothing is sent again for it.
    pub(crate) fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.statuses.is_empty()
    }

    /// Those of its conditions that are statuses of calls.
    pub(crate) fn of_calls(&self) -> Vec<&'static str> {
        OF_CALLS.into_iter().filter(|known| self.conditions.contains(known)).collect()
    }

    /// That something of it is left out, if it is.
    fn left_out(&self) -> Option<String> {
        let words: Vec<String> = self.unknown.iter().map(|word| format!("{word:?}")).collect();
        let (is, it) = match words.len() {
            0 => return None,
            1 => ("is", "it is"),
            _ => ("are", "they are"),
        };
        let rest = if self.is_empty() { "nothing else is there, so that nothing is sent again" } else { "the others hold" };
        let known: Vec<&str> = OF_REQUESTS.into_iter().chain(OF_CALLS).collect();
        Some(format!("{} {is} left out, as {it} none of {}, and no status; {rest}", words.join(" and "), known.join(", ")))
    }
}

/// The conditions of a VirtualService for retries that are not known, and left out.
pub(crate) fn conditions_left_out(object: &VirtualService) -> Vec<FieldError> {
    if !object.spec.is_for_mesh() {
        return Vec::new();
    }
    let rules = object.spec.http.iter().enumerate();
    let found = rules.filter_map(|(at, rule)| {
        let reason = RetryOn::of(rule.retries.as_ref()?).left_out()?;
        Some(FieldError::new(format!("spec.http[{at}].retries.retryOn"), reason))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, conditions: &[&str], statuses: &[u32], unknown: &[&str]) {
        let expected = RetryOn { conditions: conditions.to_vec(), statuses: statuses.to_vec(), unknown: unknown.to_vec() };
        let retries = Retries { attempts: 2, retry_on: Some(text.to_owned()), ..Default::default() };
        assert_eq!(RetryOn::of(&retries), expected, "{text}");
    }

    #[test]
    fn conditions_and_statuses_are_told_from_what_is_neither() {
        for known in OF_REQUESTS.into_iter().chain(OF_CALLS) {
            check(known, &[known], &[], &[]);
        }
        let istio = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes,503";
        let conditions = ["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"];
        check(istio, &conditions, &[503], &[]);
        check(" 5xx , ,409", &["5xx"], &[409], &[]);
        for unknown in ["retriable-headers", "envoy-ratelimited", "http3-post-connect-failure", "99", "600", "-1", "Unavailable"]
        {
            check(&format!("{unknown},internal"), &["internal"], &[], &[unknown]);
        }
        let unsaid = Retries { attempts: 2, ..Default::default() };
        assert_eq!(RetryOn::of(&unsaid).of_calls(), ["cancelled", "unavailable"]);
        assert_eq!(RetryOn::said(&unsaid), None);
    }

    #[test]
    fn what_is_left_out_is_named_and_whether_anything_is_left() {
        let said = |text: &str| RetryOn::read(text).left_out();
        assert_eq!(said("unavailable,503"), None);
        let one = said("nonsense,5xx").unwrap();
        assert!(
            one.starts_with("\"nonsense\" is left out, as it is none of 5xx, ") && one.ends_with("; the others hold"),
            "{one}"
        );
        let two = said("nonsense,99").unwrap();
        assert!(two.starts_with("\"nonsense\" and \"99\" are left out, as they are none of"), "{two}");
        assert!(two.ends_with("so that nothing is sent again"), "{two}");
    }
}
