//! Rule sets (`envoy.config.rbac.v3`).

use std::mem::take;

use ambit_api::envoy::pb::envoy::config::{
    core::v3::CidrRange,
    rbac::v3::{self as pb, MetadataSource, SourcedMetadata, permission::Rule, principal::Identifier},
};
use ambit_model::route::{MetadataMatch, Permission, Principal, Rbac, RbacAction, RbacPolicy};
use ipnet::IpNet;

use super::{
    read::{Compiled, Problem, Under, finish, number, port, required},
    text,
};

/// A rule set.
pub fn rules(mut rbac: pb::Rbac) -> Compiled<Rbac> {
    let action = match pb::rbac::Action::try_from(take(&mut rbac.action)) {
        Ok(pb::rbac::Action::Allow) => RbacAction::Allow,
        Ok(pb::rbac::Action::Deny) => RbacAction::Deny,
        _ => return Err(Problem::new("an action other than ALLOW and DENY is not implemented")),
    };
    let mut policies = take(&mut rbac.policies)
        .into_iter()
        .map(|(name, policy)| self::policy(&name, policy).under(format!("policies[{name}]")))
        .collect::<Compiled<Vec<_>>>()?;
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    finish(&rbac)?;
    Ok(Rbac { action, policies })
}

fn policy(name: &str, mut policy: pb::Policy) -> Compiled<RbacPolicy> {
    let permissions = list(take(&mut policy.permissions), permission).under("permissions")?;
    let principals = list(take(&mut policy.principals), principal).under("principals")?;
    finish(&policy)?;
    Ok(RbacPolicy { name: name.to_owned(), permissions, principals })
}

fn list<P, T>(parts: Vec<P>, compile: fn(P) -> Compiled<T>) -> Compiled<Vec<T>> {
    parts.into_iter().map(compile).collect()
}

fn permission(permission: pb::Permission) -> Compiled<Permission> {
    Ok(match required(permission.rule, "rule")? {
        Rule::Any(true) => Permission::Any,
        Rule::Any(false) => Permission::Not(Box::new(Permission::Any)),
        Rule::AndRules(set) => Permission::And(list(set.rules, self::permission)?),
        Rule::OrRules(set) => Permission::Or(list(set.rules, self::permission)?),
        Rule::NotRule(not) => Permission::Not(Box::new(self::permission(*not)?)),
        Rule::Header(test) => Permission::Header(text::header(test).under("header")?),
        Rule::UrlPath(test) => Permission::Path(text::path(test).under("url_path")?),
        Rule::DestinationIp(range) => Permission::DestinationIp(net(&range)?),
        Rule::DestinationPort(value) => Permission::DestinationPort(port(value)?),
        Rule::DestinationPortRange(range) => {
            let bound = |n: i32| u16::try_from(n).map_err(|_| Problem::new(format!("{n} is not a port")));
            Permission::DestinationPortRange(bound(range.start)?, bound(range.end)?)
        }
        Rule::RequestedServerName(test) => Permission::ServerName(text::string(test).under("requested_server_name")?),
        #[allow(deprecated)]
        Rule::Metadata(_) => return Err(Problem::new("metadata is not implemented")),
        Rule::Matcher(_) => return Err(Problem::new("matcher is not implemented")),
        Rule::UriTemplate(_) => return Err(Problem::new("uri_template is not implemented")),
        Rule::SourcedMetadata(_) => return Err(Problem::new("sourced_metadata is not implemented")),
    })
}

fn principal(principal: pb::Principal) -> Compiled<Principal> {
    #[allow(deprecated)]
    Ok(match required(principal.identifier, "identifier")? {
        Identifier::Any(true) => Principal::Any,
        Identifier::Any(false) => Principal::Not(Box::new(Principal::Any)),
        Identifier::AndIds(set) => Principal::And(list(set.ids, self::principal)?),
        Identifier::OrIds(set) => Principal::Or(list(set.ids, self::principal)?),
        Identifier::NotId(not) => Principal::Not(Box::new(self::principal(*not)?)),
        Identifier::Authenticated(authenticated) => {
            Principal::Authenticated(authenticated.principal_name.map(text::string).transpose().under("authenticated")?)
        }
        Identifier::FilterState(test) => Principal::Authenticated(Some(text::peer(test).under("filter_state")?)),
        Identifier::SourceIp(range) | Identifier::DirectRemoteIp(range) => Principal::DirectRemoteIp(net(&range)?),
        Identifier::RemoteIp(range) => Principal::RemoteIp(net(&range)?),
        Identifier::Header(test) => Principal::Header(text::header(test).under("header")?),
        Identifier::UrlPath(test) => Principal::Path(text::path(test).under("url_path")?),
        Identifier::Metadata(test) => Principal::Metadata(text::metadata(test).under("metadata")?),
        Identifier::SourcedMetadata(sourced) => Principal::Metadata(dynamic(sourced).under("sourced_metadata")?),
        Identifier::Custom(_) => return Err(Problem::new("custom is not implemented")),
    })
}

/// A test on what is known of the request, not of its route.
fn dynamic(sourced: SourcedMetadata) -> Compiled<MetadataMatch> {
    if sourced.metadata_source != MetadataSource::Dynamic as i32 {
        return Err(Problem::new("a metadata_source other than DYNAMIC is not implemented"));
    }
    text::metadata(required(sourced.metadata_matcher, "metadata_matcher")?)
}

/// A range of addresses. Envoy takes a missing length for 0.
pub fn net(range: &CidrRange) -> Compiled<IpNet> {
    self::range(&range.address_prefix, number(range.prefix_len).unwrap_or(0))
}

/// A range of addresses; bits beyond the length are dropped.
pub fn range(address: &str, length: u32) -> Compiled<IpNet> {
    let bad = || Problem::new(format!("{address}/{length} is not a range of addresses"));
    let address = address.parse().map_err(|_| bad())?;
    let length = u8::try_from(length).map_err(|_| bad())?;
    IpNet::new(address, length).map(|net| net.trunc()).map_err(|_| bad())
}
