//! Requests of a session go on with the endpoint that their client was told.

use std::collections::BTreeMap;

use ambit_integration::{
    SharedMesh,
    client::{Answer, Session, get},
    shared,
    suite::Suite,
};
use anyhow::{Context, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use libtest_mimic::Trial;

use super::{CLIENT, ECHO};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "requests with the cookie of a session reach one endpoint, and without it all", by_cookie),
        shared(mesh, "requests with the header of a session reach one endpoint, and without it all", by_header),
        shared(mesh, "a session that names no endpoint reaches one that is and begins anew", made_up),
    ]
}

/// How a client says what it was told: the path, the header, and what it makes of an answer.
struct Way {
    path: &'static str,
    header: &'static str,
    told: fn(&Answer) -> Option<String>,
}

const COOKIE: Way = Way {
    path: "/session/a?b",
    header: "cookie",
    told: |answer| Some(answer.header("set-cookie")?.split(';').next()?.to_owned()),
};
const HEADER: Way =
    Way { path: "/session-by-header", header: "x-session", told: |answer| answer.header("x-session").map(str::to_owned) };

impl Way {
    /// Who answers, and what it tells.
    async fn ask(&self, session: &mut Session, says: Option<&str>) -> anyhow::Result<(String, Option<String>)> {
        let request = says.into_iter().fold(get(self.path), |request, says| request.header(self.header, says));
        let answer = session.send(request, Bytes::new()).await?;
        Ok((answer.echo()?.version, (self.told)(&answer)))
    }

    /// What clients of each endpoint are told.
    async fn all(&self, session: &mut Session) -> anyhow::Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for _ in 0..40 {
            let (version, told) = self.ask(session, None).await?;
            all.insert(version, told.context("nothing is told of the session")?);
        }
        ensure!(all.keys().eq(["v1", "v2"]), "{all:?}");
        Ok(all)
    }

    async fn keeps(&self, suite: &Suite) -> anyhow::Result<BTreeMap<String, String>> {
        let mut session = suite.client(CLIENT, ECHO, 80)?.session().await?;
        let all = self.all(&mut session).await?;
        for (version, says) in &all {
            // Also on another connection.
            session = suite.client(CLIENT, ECHO, 80)?.session().await?;
            for _ in 0..20 {
                let again = self.ask(&mut session, Some(says)).await?;
                ensure!(again == (version.clone(), None), "{says} of {version}: {again:?}");
            }
        }
        Ok(all)
    }
}

/// The name that the endpoint of a pod has in a session.
fn endpoint(suite: &Suite, pod: &str) -> anyhow::Result<String> {
    let address = std::net::SocketAddr::new(suite.pod(pod)?.ip(), 8080);
    Ok(format!("envoy://connect_originate/{address}"))
}

async fn by_cookie(suite: &Suite) -> anyhow::Result<()> {
    for (version, says) in COOKIE.keeps(suite).await? {
        let value = says.strip_prefix("cart=").context("the cookie's name")?.trim_matches('"');
        let told = BASE64_STANDARD.decode(value)?;
        let (told, name) = (String::from_utf8_lossy(&told), endpoint(suite, &format!("shop/echo-{version}"))?);
        ensure!(told.contains(&name), "{told:?} is not {name}");
    }
    let request = get(COOKIE.path).header("origin", "https://shop.example");
    let answer = suite.client(CLIENT, ECHO, 80)?.send(request).await?;
    let cookie = answer.header("set-cookie").unwrap_or_default();
    ensure!(cookie.ends_with("; Max-Age=600; Path=/session; HttpOnly"), "{cookie}");
    ensure!(answer.header("access-control-allow-origin").is_some(), "{:?}", answer.headers);
    Ok(())
}

async fn by_header(suite: &Suite) -> anyhow::Result<()> {
    for (version, says) in HEADER.keeps(suite).await? {
        let told = String::from_utf8(BASE64_STANDARD.decode(&says)?)?;
        ensure!(told == endpoint(suite, &format!("shop/echo-{version}"))?, "{told}");
    }
    Ok(())
}

/// The client's own pod answers as the service does, and is none of its endpoints.
async fn made_up(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, ECHO, 80)?.session().await?;
    let own = endpoint(suite, CLIENT)?;
    let in_clear = own.trim_start_matches("envoy://connect_originate/").to_owned();
    for name in [own, in_clear, "envoy://main_internal/".into(), "envoy://connect_originate/".into(), "nobody".into()] {
        // A message with the text as its first field, and no end (`source/extensions/http/stateful_session/cookie/cookie.proto`).
        let told = [&[10, u8::try_from(name.len())?][..], name.as_bytes()].concat();
        let cookie = format!("cart=\"{}\"", BASE64_STANDARD.encode(told));
        let (version, told) = COOKIE.ask(&mut session, Some(&cookie)).await?;
        ensure!(["v1", "v2"].contains(&version.as_str()) && told.is_some(), "{name}: {version:?} {told:?}");
        let (version, told) = HEADER.ask(&mut session, Some(&BASE64_STANDARD.encode(&name))).await?;
        ensure!(["v1", "v2"].contains(&version.as_str()) && told.is_some(), "{name}: {version:?} {told:?}");
    }
    let (version, told) = COOKIE.ask(&mut session, Some("cart=x")).await?;
    ensure!(["v1", "v2"].contains(&version.as_str()) && told.is_some(), "{version:?} {told:?}");
    Ok(())
}
