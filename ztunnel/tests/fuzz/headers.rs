//! Headers of tunnels: what a client says of itself, and why a server refused.

use ambit_fuzz::{Corpus, Target};
use ambit_model::{Reason, Refusal, policy::PolicyKey};
use ambit_runtime::telemetry::{TRACEPARENT, Trace};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ztunnel::peer;

/// Headers as text, one on a line.
fn read(text: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

pub fn requests() {
    let corpus = Corpus::new()
        .with("a trace", "traceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .with("a later version", "traceparent:01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-else")
        .with("all of them", "baggage:k8s.namespace.name=shop\nforwarded:for=\"10.0.0.1:1\"\ntraceparent:00-1-2-3");
    Target::new("headers of a request", corpus)
        .least_read(0.01)
        .tokens(["traceparent:", "00-", "-", "ff", "0000000000000000"])
        .run(|bytes, _| {
            let Some(read) = Trace::read(&read(bytes)) else { return false };
            assert_ne!(read.id, 0);
            let again: HeaderMap = [(TRACEPARENT, read.write().parse().unwrap())].into_iter().collect();
            let again = Trace::read(&again).unwrap();
            assert_eq!((again.id, again.parent, again.sampled), (read.id, Some(read.span), read.sampled));
            true
        });
}

pub fn refusals() {
    let corpus = Corpus::new()
        .with("by a policy", "x-ambit-reason:policy_denied_explicit\nx-ambit-policy:shop/no-web")
        .with("too many", "x-ambit-reason:connection_limit")
        .with("it is well", "x-ambit-reason:ok\nx-ambit-policy:");
    let tokens: Vec<&str> =
        Reason::ALL.iter().map(|reason| reason.label()).chain(["x-ambit-reason:", "x-ambit-policy:", "/", "\n"]).collect();
    Target::new("headers of a refusal", corpus).least_read(0.02).tokens(tokens).run(|bytes, dice| {
        let status = StatusCode::from_u16(dice.u16(100..1000)).unwrap();
        let refusal = peer::read_refusal(status, &read(bytes));
        assert_ne!(refusal.reason, Reason::Ok, "a refusal is no success, whatever it says");
        if let Some(policy) = &refusal.policy {
            assert_eq!(policy.to_string().parse::<PolicyKey>().as_ref(), Ok(policy));
        }
        let told = Refusal { detail: String::new(), ..refusal.clone() };
        let again = peer::read_refusal(peer::status(refusal.reason), &peer::write_refusal(&told));
        assert_eq!(again.reason, refusal.reason);
        refusal.policy.is_some()
    });
}
