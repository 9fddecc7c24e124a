//! Values of `sessionPersistence` of route rules (the limits of the Gateway API's schemas).

use gateway_api::experimental::{
    grpcroutes::{
        GrpcRouteRulesSessionPersistence, GrpcRouteRulesSessionPersistenceCookieConfigLifetimeType as GrpcLifetime,
        GrpcRouteRulesSessionPersistenceType as GrpcType,
    },
    httproutes::{
        HttpRouteRulesSessionPersistence, HttpRouteRulesSessionPersistenceCookieConfigLifetimeType as HttpLifetime,
        HttpRouteRulesSessionPersistenceType as HttpType,
    },
};

use super::{Errors, route::duration};

/// The longest name of a session.
const MAX_NAME: usize = 128;
/// Headers by which a message is read, or its connection kept: none of them can bear a session.
const FRAMING: [&str; 9] =
    ["connection", "content-length", "cookie", "host", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade"];

/// What both kinds of routes say.
struct Said<'a> {
    name: Option<&'a str>,
    by_header: bool,
    permanent: bool,
    absolute: Option<&'a str>,
    idle: Option<&'a str>,
}

pub(super) fn http(said: Option<&HttpRouteRulesSessionPersistence>, rule: &str, errors: &mut Errors) {
    let Some(said) = said else { return };
    let lifetime = said.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_ref());
    let said = Said {
        name: said.session_name.as_deref(),
        by_header: matches!(said.r#type, Some(HttpType::Header)),
        permanent: matches!(lifetime, Some(HttpLifetime::Permanent)),
        absolute: said.absolute_timeout.as_deref(),
        idle: said.idle_timeout.as_deref(),
    };
    check(&said, &format!("{rule}.sessionPersistence"), errors);
}

pub(super) fn grpc(said: Option<&GrpcRouteRulesSessionPersistence>, rule: &str, errors: &mut Errors) {
    let Some(said) = said else { return };
    let lifetime = said.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_ref());
    let said = Said {
        name: said.session_name.as_deref(),
        by_header: matches!(said.r#type, Some(GrpcType::Header)),
        permanent: matches!(lifetime, Some(GrpcLifetime::Permanent)),
        absolute: said.absolute_timeout.as_deref(),
        idle: said.idle_timeout.as_deref(),
    };
    check(&said, &format!("{rule}.sessionPersistence"), errors);
}

fn check(said: &Said<'_>, path: &str, errors: &mut Errors) {
    duration(errors, &format!("{path}.absoluteTimeout"), said.absolute);
    duration(errors, &format!("{path}.idleTimeout"), said.idle);
    errors.check(!said.permanent || said.by_header || said.absolute.is_some(), &format!("{path}.absoluteTimeout"), || {
        "required for a cookie of the lifetimeType Permanent".into()
    });
    let Some(name) = said.name else { return };
    let path = format!("{path}.sessionName");
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    errors.check(name.bytes().all(token), &path, || format!("{name:?} is no name of a cookie or a header"));
    errors.check(name.len() <= MAX_NAME, &path, || format!("must be at most {MAX_NAME} bytes"));
    let framing = said.by_header && FRAMING.contains(&name.to_ascii_lowercase().as_str());
    errors.check(!framing, &path, || format!("a header {name} is read by others"));
}
