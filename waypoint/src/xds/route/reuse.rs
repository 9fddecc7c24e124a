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

use super::{Host, Table, alike::Alike};

/// `RouteConfiguration.virtual_hosts`
const VIRTUAL_HOSTS: u32 = 2;
/// `VirtualHost.routes`
const ROUTES: u32 = 3;
/// Of how many routes that have changed it is looked at what they said before. Where there are more, they are alike among themselves.
const TAUGHT: usize = 32;

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
    let before = before.filter(|_| host.said.is_empty()).and_then(|before| before.host(&host.name, &apart.rest));
    let known = before.as_ref().map(|before| before.of(&apart.items)).unwrap_or_default();
    let mut alike = Alike::default();
    if let Some(before) = &before {
        before.teach(&known, &mut alike);
    }
    let mut routes = Vec::with_capacity(apart.items.len());
    for (index, message) in apart.items.into_iter().enumerate() {
        routes.push(match known.get(index).copied().flatten() {
            Some(route) => Arc::clone(route),
            None => host.route(table, index, pb::Route::decode(message).ok()?, &mut alike).ok()?,
        });
    }
    Some(match before {
        Some(before) => host.after(before.host, routes),
        None => host.of(routes),
    })
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

    /// A virtual host, if all that it said beside its routes was `rest`.
    fn host(&self, name: &str, rest: &[u8]) -> Option<HostBefore<'a>> {
        let (message, host) = *self.0.get(name)?;
        let apart = Apart::take(message, ROUTES).filter(|apart| apart.rest == rest)?;
        (apart.items.len() == host.routes.len()).then_some(HostBefore { host, messages: apart.items })
    }
}

/// The same virtual host as it was, with the message of each of its routes.
struct HostBefore<'a> {
    host: &'a VirtualHost,
    messages: Vec<&'a [u8]>,
}

impl<'a> HostBefore<'a> {
    /// Of each of these messages the route that was made of it, if there was one.
    fn of(&self, now: &[&[u8]]) -> Vec<Option<&'a Arc<Route>>> {
        let (host, held) = (self.host, self.messages.as_slice());
        let same = |(one, other): &(&&[u8], &&[u8])| one == other;
        let begin = now.iter().zip(held).take_while(same).count();
        let (now_left, held_left) = (now.iter().skip(begin), held.iter().skip(begin));
        let end = now_left.rev().zip(held_left.rev()).take_while(same).count();
        // What is left between the two has changed, or moved.
        let (changed, were) = (begin..now.len() - end, begin..held.len() - end);
        let in_place = |at: usize| changed == were && now.get(at) == held.get(at);
        let moved: HashMap<&[u8], &'a Arc<Route>> =
            were.clone().filter(|at| !in_place(*at)).filter_map(|at| Some((*held.get(at)?, host.routes.get(at)?))).collect();
        let between = changed.clone().map(|at| match in_place(at) {
            true => host.routes.get(at),
            false => moved.get(*now.get(at)?).copied(),
        });
        let (first, last) = (host.routes.iter().take(begin), host.routes.iter().skip(were.end));
        first.map(Some).chain(between).chain(last.map(Some)).collect()
    }

    /// What routes that have changed said before: most of it they say again.
    fn teach(&self, known: &[Option<&Arc<Route>>], alike: &mut Alike) {
        let changed = known.iter().enumerate().filter(|(_, route)| route.is_none()).map(|(at, _)| at);
        for at in changed.take(TAUGHT) {
            // One that was added is likely to be like its neighbour.
            let at = at.min(self.messages.len().saturating_sub(1));
            if let (Some(message), Some(route)) = (self.messages.get(at), self.host.routes.get(at)) {
                alike.learn(message, route);
            }
        }
    }
}

#[cfg(test)]
mod tests;
