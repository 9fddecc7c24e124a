//! Tokens of requests: what is decided about them, and how a refusal is answered.

use std::time::SystemTime;

use ambit_model::{
    Reason, Refusal,
    jwt::{JwtAuthentication, NotBelieved, Verified},
    route::RequestView,
};
use http::{HeaderValue, Request, Response, StatusCode, header, uri::Authority};

use crate::authz;

/// The most of a path that an answer repeats, in bytes; as much as Envoy.
const REALM_PATH: usize = 256;

/// Decides about the tokens of a request.
///
/// # Errors
/// With why one is not believed, and the provider that does not believe it.
pub fn request(jwt: &JwtAuthentication, request: &RequestView<'_>) -> Result<Verified, (StatusCode, Refusal)> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    jwt.decide(request, now).map_err(|NotBelieved { why, provider }| {
        let status = StatusCode::from_u16(why.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        let refusal = Refusal::new(Reason::TokenInvalid, why.text());
        (
            status,
            match provider.and_then(authz::named) {
                Some((policy, rule)) => refusal.by(policy, rule),
                None => refusal,
            },
        )
    })
}

/// Adds to a refusal what a client needs to know to do better (RFC 6750, section 3). The query is left out, for it may have the token.
pub fn challenge<A, B>(request: &Request<A>, response: &mut Response<B>) {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(Authority::as_str).or(host).unwrap_or_default();
    let path = request.uri().path();
    let path = path.get(..REALM_PATH).unwrap_or(path);
    let realm: String = format!("http://{host}{path}").chars().filter(|c| !matches!(c, '"' | '\\')).collect();
    if let Ok(value) = HeaderValue::from_str(&format!("Bearer realm=\"{realm}\", error=\"invalid_token\"")) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_repeats_no_token_and_stays_one_header() {
        let told = |path: &str| {
            let mut response = Response::new(());
            let request = Request::builder().uri(path).header("host", "shop:80").body(()).unwrap();
            challenge(&request, &mut response);
            response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
        };
        let said = r#"Bearer realm="http://shop:80/a", error="invalid_token""#;
        assert_eq!(told("/a?access_token=secret"), said);
        assert_eq!(told("/a\"?x"), said);
        assert!(told(&format!("/{}", "a".repeat(5000))).len() < 400);
    }
}
