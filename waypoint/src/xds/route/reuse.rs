//! A route table that comes again: of its routes only those are read and compiled that are other than before.
//!
//! A control plane sends a table whole when one route of thousands has changed. So the message is taken apart without being decoded, and a
//! route with the same bytes in the same surroundings is the one that there was.

use std::{collections::HashMap, sync::Arc};

use ambit_api::envoy::pb::envoy::config::route::v3 as pb;
use ambit_model::route::{Route, RouteTable, VirtualHost};
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use super::{Host, Table};

/// `RouteConfiguration.virtual_hosts`
const VIRTUAL_HOSTS: u32 = 2;
/// `VirtualHost.routes`
const ROUTES: u32 = 3;

/// What a message has in one of its fields, and all else of it.
struct Apart<'a> {
    items: Vec<&'a [u8]>,
    rest: Vec<u8>,
}

impl<'a> Apart<'a> {
    /// `None` for what is no message.
    fn take(message: &'a [u8], field: u32) -> Option<Self> {
        let (mut items, mut rest, mut left) = (Vec::new(), Vec::new(), message);
        while !left.is_empty() {
            let begin = left;
            let (tag, kind) = decode_key(&mut left).ok()?;
            if tag == field && kind == WireType::LengthDelimited {
                let length = usize::try_from(decode_varint(&mut left).ok()?).ok()?;
                let (item, after) = left.split_at_checked(length)?;
                items.push(item);
                left = after;
            } else {
                skip_field(kind, tag, &mut left, DecodeContext::default()).ok()?;
                rest.extend_from_slice(begin.get(..begin.len() - left.len())?);
            }
        }
        Some(Self { items, rest })
    }
}

/// The table that a message says, with what `before` has of it: the message then, and what it was compiled to. `None` for what is no table of
/// this kind, or cannot be taken: to read it whole says why.
pub fn table(message: &[u8], before: Option<(&[u8], &RouteTable)>) -> Option<RouteTable> {
    let apart = Apart::take(message, VIRTUAL_HOSTS)?;
    let table = Table::read(pb::RouteConfiguration::decode(apart.rest.as_slice()).ok()?).ok()?;
    let before = before.and_then(|(message, compiled)| Before::new(message, compiled, &apart.rest));
    let hosts = apart.items.into_iter().map(|host| virtual_host(host, &table, before.as_ref())).collect::<Option<_>>()?;
    Some(table.of(hosts))
}

fn virtual_host(message: &[u8], table: &Table, before: Option<&Before<'_>>) -> Option<VirtualHost> {
    let apart = Apart::take(message, ROUTES)?;
    let host = Host::read(pb::VirtualHost::decode(apart.rest.as_slice()).ok()?).ok()?;
    // What a virtual host says for filters its routes share, counts included.
    let before = before.filter(|_| host.said.is_empty()).and_then(|before| before.routes_of(&host.name, &apart.rest));
    let mut elsewhere: Option<HashMap<&[u8], &Arc<Route>>> = None;
    let mut routes = Vec::with_capacity(apart.items.len());
    for (index, message) in apart.items.into_iter().enumerate() {
        let known = before.as_ref().and_then(|before| match before.get(index) {
            Some((same, route)) if *same == message => Some(*route),
            _ => elsewhere.get_or_insert_with(|| before.iter().copied().collect()).get(message).copied(),
        });
        routes.push(match known {
            Some(route) => Arc::clone(route),
            None => host.route(table, index, pb::Route::decode(message).ok()?).ok()?,
        });
    }
    Some(host.of(routes))
}

/// The same table as it was.
struct Before<'a>(HashMap<&'a str, (&'a [u8], &'a VirtualHost)>);

impl<'a> Before<'a> {
    /// `None` when it said something else of all virtual hosts than `rest`.
    fn new(message: &'a [u8], compiled: &'a RouteTable, rest: &[u8]) -> Option<Self> {
        let apart = Apart::take(message, VIRTUAL_HOSTS).filter(|apart| apart.rest == rest)?;
        let hosts = compiled.hosts.iter().zip(apart.items);
        Some(Self(hosts.map(|(host, message)| (host.name.as_str(), (message, host))).collect()))
    }

    /// The routes of a virtual host, if all that it said else was `rest`.
    fn routes_of(&self, name: &str, rest: &[u8]) -> Option<Vec<(&'a [u8], &'a Arc<Route>)>> {
        let (message, host) = self.0.get(name)?;
        let apart = Apart::take(message, ROUTES).filter(|apart| apart.rest == rest)?;
        Some(apart.items.into_iter().zip(&host.routes).collect())
    }
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::{
        envoy::config::{
            core::v3::{HeaderValue, HeaderValueOption},
            route::v3::{RouteConfiguration, route::Action, route_match::PathSpecifier},
        },
        google::protobuf::BoolValue,
    };

    use super::*;

    fn route(name: &str, status: u32) -> pb::Route {
        let path = Some(PathSpecifier::Prefix(format!("/{name}")));
        pb::Route {
            name: name.into(),
            r#match: Some(pb::RouteMatch { path_specifier: path, ..Default::default() }),
            action: Some(Action::DirectResponse(pb::DirectResponseAction { status, ..Default::default() })),
            ..Default::default()
        }
    }

    fn config(routes: Vec<pb::Route>) -> RouteConfiguration {
        let domains = vec!["*".into()];
        let host = pb::VirtualHost { name: "v".into(), domains, routes, ..Default::default() };
        let other =
            pb::VirtualHost { name: "w".into(), domains: vec!["w".into()], routes: vec![route("w", 200)], ..Default::default() };
        RouteConfiguration { name: "t".into(), virtual_hosts: vec![host, other], ..Default::default() }
    }

    /// The table after `before`, and which routes of the first virtual host are those that there were.
    fn after(before: &RouteConfiguration, now: &RouteConfiguration) -> (RouteTable, Vec<bool>) {
        let message = before.encode_to_vec();
        let before = table(&message, None).unwrap();
        let fresh = table(&now.encode_to_vec(), Some((&message, &before))).unwrap();
        let same = |one: &Arc<Route>| before.hosts.iter().flat_map(|host| &host.routes).any(|other| Arc::ptr_eq(one, other));
        let kept = fresh.hosts[0].routes.iter().map(same).collect();
        (fresh, kept)
    }

    fn assert_as_if_read_whole(table: &RouteTable, config: RouteConfiguration) {
        let whole = super::super::table(config).unwrap();
        assert_eq!(serde_json::to_value(table).unwrap(), serde_json::to_value(&whole).unwrap());
    }

    #[test]
    fn only_what_has_changed_is_compiled_wherever_it_moved() {
        let before = config(["a", "b", "c", "d"].map(|name| route(name, 200)).into());
        for (now, kept) in [
            (vec![route("a", 200), route("b", 404), route("c", 200), route("d", 200)], [true, false, true, true].as_slice()),
            (
                vec![route("x", 200), route("a", 200), route("b", 200), route("c", 200), route("d", 200)],
                &[false, true, true, true, true],
            ),
            (vec![route("d", 200), route("a", 200)], &[true, true]),
            (Vec::new(), &[]),
        ] {
            let now = config(now);
            let (table, found) = after(&before, &now);
            assert_eq!(found, kept);
            assert_as_if_read_whole(&table, now);
        }
    }

    #[test]
    fn what_is_said_around_a_route_is_part_of_it() {
        let before = config(vec![route("a", 200)]);
        let header = HeaderValue { key: "x-a".into(), value: "1".into(), ..Default::default() };
        let added = vec![HeaderValueOption { header: Some(header), ..Default::default() }];
        let mut of_table = before.clone();
        of_table.response_headers_to_add = added.clone();
        let mut of_host = before.clone();
        of_host.virtual_hosts[0].response_headers_to_add = added;
        for now in [of_table, of_host] {
            let (table, kept) = after(&before, &now);
            assert_eq!(kept, [false]);
            assert_as_if_read_whole(&table, now);
        }
    }

    #[test]
    fn what_cannot_be_taken_is_left_to_whoever_says_why() {
        let good = config(vec![route("a", 200)]);
        let message = good.encode_to_vec();
        let compiled = table(&message, None).unwrap();
        let mut bad = good.clone();
        bad.virtual_hosts[0].routes[0].r#match = None;
        let mut unknown = good;
        unknown.virtual_hosts[0].include_is_timeout_retry_header = true;
        unknown.validate_clusters = Some(BoolValue { value: true });
        for config in [bad, unknown] {
            assert!(table(&config.encode_to_vec(), Some((&message, &compiled))).is_none());
        }
        for cut in 1..message.len() {
            let _no_panic = table(&message[..cut], Some((&message, &compiled)));
        }
    }
}
