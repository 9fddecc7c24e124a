//! By what the endpoint of a request is chosen (`envoy.config.route.v3.RouteAction.HashPolicy`).

use std::mem::take;

use ambit_api::envoy::pb::envoy::config::route::v3::route_action::{
    self as pb,
    hash_policy::{self, PolicySpecifier},
};
use ambit_model::route::{Cookie, HashBy, HashPolicy};
use http::{HeaderName, HeaderValue};

use super::read::{Compiled, Problem, Under, duration, finish, required};

/// All that is looked at, in this order.
pub fn policies(said: Vec<pb::HashPolicy>) -> Compiled<Vec<HashPolicy>> {
    let mut policies = Vec::new();
    for (at, policy) in said.into_iter().enumerate() {
        policies.extend(self::policy(policy).under(format!("hash_policy[{at}]"))?);
    }
    Ok(policies)
}

/// One of them; none where it looks at nothing.
fn policy(mut said: pb::HashPolicy) -> Compiled<Option<HashPolicy>> {
    let terminal = take(&mut said.terminal);
    let by = match required(said.policy_specifier.take(), "policy_specifier")? {
        PolicySpecifier::Header(mut header) => {
            let name = take(&mut header.header_name).to_ascii_lowercase();
            finish(&header).under("header")?;
            let known = name.strip_prefix(':').unwrap_or(&name);
            if HeaderName::from_bytes(known.as_bytes()).is_err() {
                return Err(Problem::new(format!("{name:?} is no name of a header")).under("header.header_name"));
            }
            Some(HashBy::Header(name))
        }
        PolicySpecifier::Cookie(said) => Some(HashBy::Cookie(cookie(said).under("cookie")?)),
        PolicySpecifier::ConnectionProperties(properties) => properties.source_ip.then_some(HashBy::SourceIp),
        PolicySpecifier::QueryParameter(parameter) if parameter.name.is_empty() => {
            return Err(Problem::new("is missing").under("query_parameter.name"));
        }
        PolicySpecifier::QueryParameter(parameter) => Some(HashBy::QueryParameter(parameter.name)),
        PolicySpecifier::FilterState(_) => return Err(Problem::new("filter_state is not implemented")),
    };
    finish(&said)?;
    Ok(by.map(|by| HashPolicy { by, terminal }))
}

fn cookie(mut said: hash_policy::Cookie) -> Compiled<Cookie> {
    let (name, path) = (take(&mut said.name), take(&mut said.path));
    let ttl = said.ttl.take().map(duration).transpose().under("ttl")?;
    let attributes: Vec<_> = take(&mut said.attributes).into_iter().map(|one| (one.name, one.value)).collect();
    finish(&said)?;
    // Cookies have names as headers have (RFC 6265, section 4.1.1).
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(Problem::new(format!("{name:?} is no name of a cookie")).under("name"));
    }
    let bad = |text: &str| text.contains(';') || HeaderValue::from_bytes(text.as_bytes()).is_err();
    let told = attributes.iter().flat_map(|(name, value)| [name, value]).chain([&path]).find(|text| bad(text));
    if let Some(bad) = told {
        return Err(Problem::new(format!("{bad:?} cannot be said of a cookie")));
    }
    Ok(Cookie { name, path, ttl, attributes })
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::{
        envoy::r#type::matcher::v3::RegexMatchAndSubstitute, google::protobuf::Duration as ProtoDuration,
    };

    use super::*;

    fn of(by: PolicySpecifier) -> Compiled<Vec<HashPolicy>> {
        policies(vec![pb::HashPolicy { terminal: true, policy_specifier: Some(by) }])
    }

    fn header(name: &str) -> hash_policy::Header {
        hash_policy::Header { header_name: name.into(), regex_rewrite: None }
    }

    fn cookie(name: &str) -> hash_policy::Cookie {
        hash_policy::Cookie { name: name.into(), ..Default::default() }
    }

    #[test]
    fn all_that_requests_are_hashed_by_is_compiled() {
        let words = |by| of(by).unwrap().iter().map(HashPolicy::in_words).collect::<Vec<_>>();
        assert_eq!(words(PolicySpecifier::Header(header("X-User"))), ["the header x-user"]);
        assert_eq!(words(PolicySpecifier::Header(header(":path"))), ["the header :path"]);
        assert_eq!(words(PolicySpecifier::Cookie(cookie("c"))), ["the cookie c"]);
        let ttl = Some(ProtoDuration { seconds: 0, nanos: 0 });
        let given = hash_policy::Cookie { ttl, path: "/".into(), ..cookie("c") };
        assert_eq!(words(PolicySpecifier::Cookie(given)), ["the cookie c, which clients are given"]);
        let source = |source_ip| PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip });
        assert_eq!(words(source(true)), ["the address of the client"]);
        assert!(words(source(false)).is_empty());
        let parameter = hash_policy::QueryParameter { name: "q".into() };
        assert_eq!(words(PolicySpecifier::QueryParameter(parameter)), ["the query parameter q"]);
        assert!(of(PolicySpecifier::Header(header("a"))).unwrap()[0].terminal);
    }

    #[test]
    fn what_requests_cannot_be_hashed_by_is_rejected_by_name() {
        let rewritten = hash_policy::Header { regex_rewrite: Some(RegexMatchAndSubstitute::default()), ..header("a") };
        let attribute = hash_policy::CookieAttribute { name: "a;b".into(), value: String::new() };
        for (by, words) in [
            (PolicySpecifier::Header(rewritten), "hash_policy[0].header: regex_rewrite is not implemented"),
            (PolicySpecifier::Header(header("a b")), "hash_policy[0].header.header_name: \"a b\" is no name of a header"),
            (PolicySpecifier::FilterState(Default::default()), "hash_policy[0]: filter_state is not implemented"),
            (PolicySpecifier::Cookie(cookie("")), "hash_policy[0].cookie.name: \"\" is no name of a cookie"),
            (
                PolicySpecifier::Cookie(hash_policy::Cookie { attributes: vec![attribute], ..cookie("c") }),
                "hash_policy[0].cookie: \"a;b\" cannot be said of a cookie",
            ),
            (PolicySpecifier::QueryParameter(Default::default()), "hash_policy[0].query_parameter.name: is missing"),
        ] {
            assert_eq!(of(by).unwrap_err().to_string(), words);
        }
        let nothing = policies(vec![pb::HashPolicy::default()]).unwrap_err().to_string();
        assert_eq!(nothing, "hash_policy[0]: policy_specifier is missing");
    }
}
