//! What requests are hashed by, of TrafficPolicies and DestinationRules.

use super::Errors;
use crate::source::crd::destination::{LoadBalancer, Simple};
use crate::source::crd::duration;
use crate::source::crd::hash::{ConsistentHash, HashOn, HttpCookie, as_ring, as_table, is_name, is_said};
use crate::source::crd::traffic::LoadBalancing;

/// How many things may be looked at.
const MOST: usize = 8;
/// The longest name of a query parameter.
const LONGEST: usize = 256;

pub(super) fn policy(asked: &LoadBalancing, errors: &mut Errors) {
    let path = "spec.loadBalancing.hashOn";
    match (asked.policy.hashes(), asked.hash_on.is_empty()) {
        (true, true) => errors.add(
            path,
            "with policy RingHash or Maglev it is to say what requests are hashed by: header, cookie, queryParameter or sourceIP",
        ),
        (false, false) => {
            errors.add(path, "has no effect but with policy RingHash or Maglev: choose one of them, or take it out")
        }
        (true, false) | (false, true) => {}
    }
    errors.at_most(MOST, path, asked.hash_on.len());
    for (at, one) in asked.hash_on.iter().enumerate() {
        self::one(one, &format!("{path}[{at}]"), errors);
    }
}

fn one(said: &HashOn, path: &str, errors: &mut Errors) {
    let given = [said.header.is_some(), said.cookie.is_some(), said.query_parameter.is_some(), said.source_ip.is_some()];
    let given = given.into_iter().filter(|given| *given).count();
    errors.check(given == 1, path, || {
        format!("just one of header, cookie, queryParameter and sourceIP is to be given, not {given}")
    });
    if let Some(name) = &said.header {
        errors.check(is_name(name), &format!("{path}.header"), || format!("{name:?} is not a header name"));
    }
    if let Some(cookie) = &said.cookie {
        let name = &cookie.name;
        errors.check(is_name(name), &format!("{path}.cookie.name"), || format!("{name:?} is not the name of a cookie"));
        let good = cookie.ttl.as_deref().is_none_or(|ttl| ttl.parse::<gateway_api::Duration>().is_ok());
        errors.check(good, &format!("{path}.cookie.ttl"), || {
            "it is no duration such as 1h30m, or 0s for as long as clients like".into()
        });
    }
    if let Some(name) = &said.query_parameter {
        let good = (1..=LONGEST).contains(&name.len());
        errors.check(good, &format!("{path}.queryParameter"), || format!("must have 1 to {LONGEST} letters"));
    }
    errors.check(said.source_ip != Some(false), &format!("{path}.sourceIP"), || "false says nothing: take it out".into());
}

/// What of a rule has no effect, or not the one that it seems to have.
pub(super) fn rule(said: &LoadBalancer, path: &str, found: &mut Errors) {
    let Some(hash) = &said.consistent_hash else { return };
    found
        .check(said.simple == Simple::Unspecified, &format!("{path}.simple"), || "it has no effect beside consistentHash".into());
    let path = format!("{path}.consistentHash");
    let given = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip == Some(true),
        hash.http_query_parameter_name.is_some(),
    ];
    match given.into_iter().filter(|given| *given).count() {
        0 => found.add(
            path.clone(),
            "it says nothing to hash requests by, and has no effect: give httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName",
        ),
        1 => {}
        _ => found.add(
            path.clone(),
            "only one of httpHeaderName, httpCookie, httpQueryParameterName and useSourceIp counts, in this order",
        ),
    }
    keys(hash, &path, found);
    let both = hash.maglev.is_some() && hash.ring_hash.is_some();
    found.check(!both, &format!("{path}.ringHash"), || "it has no effect beside maglev".into());
    let of_ring = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size);
    for (field, size) in [("ringHash.minimumRingSize", of_ring), ("minimumRingSize", hash.minimum_ring_size)] {
        found.check(size.is_none_or(|size| as_ring(size).is_some()), &format!("{path}.{field}"), || {
            "it is no size of a ring (1 to 8388608), and has no effect".into()
        });
    }
    let table = hash.maglev.as_ref().and_then(|maglev| maglev.table_size);
    found.check(table.is_none_or(|size| as_table(size).is_some()), &format!("{path}.maglev.tableSize"), || {
        "it is no size of a table (a prime up to 5000011), and has no effect".into()
    });
}

fn keys(hash: &ConsistentHash, path: &str, found: &mut Errors) {
    if let Some(name) = &hash.http_header_name {
        found.check(is_name(name), &format!("{path}.httpHeaderName"), || format!("{name:?} is not a header name"));
    }
    if let Some(name) = &hash.http_query_parameter_name {
        found.check(!name.is_empty(), &format!("{path}.httpQueryParameterName"), || "must not be empty".into());
    }
    if let Some(said) = &hash.http_cookie {
        cookie(said, &format!("{path}.httpCookie"), found);
    }
}

fn cookie(said: &HttpCookie, path: &str, found: &mut Errors) {
    found.check(is_name(&said.name), &format!("{path}.name"), || format!("{:?} is not the name of a cookie", said.name));
    let good = said.path.as_deref().is_none_or(is_said);
    found.check(good, &format!("{path}.path"), || "it cannot be said of a cookie, and has no effect".into());
    let good = said.ttl.as_deref().is_none_or(|ttl| duration::parse(ttl).is_some());
    found.check(good, &format!("{path}.ttl"), || "it is no duration such as 30s or 1h30m, and has no effect".into());
    for (at, attribute) in said.attributes.iter().enumerate() {
        let good = !attribute.name.is_empty() && is_said(&attribute.name) && attribute.value.as_deref().is_none_or(is_said);
        found.check(good, &format!("{path}.attributes[{at}]"), || "it cannot be said of a cookie, and has no effect".into());
    }
}
