//! What the Gateway API's own policy for backends, XBackendTrafficPolicy, asks for.

use std::collections::BTreeMap;

use ambit_integration::{SharedMesh, client::get, shared, suite::Suite};
use anyhow::{Context, ensure};
use bytes::Bytes;
use libtest_mimic::Trial;

use super::CLIENT;

const SERVICE: &str = "shop/kept";

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![shared(mesh, "sessions with a Service are kept as its XBackendTrafficPolicy says, whatever the path", kept)]
}

/// The Service has no route, and its policy names the cookie.
async fn kept(suite: &Suite) -> anyhow::Result<()> {
    let mut session = suite.client(CLIENT, SERVICE, 80)?.session().await?;
    let mut told = BTreeMap::new();
    for _ in 0..40 {
        let answer = session.get("/begins").await?;
        let cookie = answer.header("set-cookie").context("nothing is told of the session")?.to_owned();
        ensure!(cookie.starts_with("basket=") && cookie.ends_with("; Max-Age=600; Path=/; HttpOnly"), "{cookie}");
        let says = cookie.split(';').next().unwrap_or_default().to_owned();
        told.insert(answer.echo()?.version, says);
    }
    ensure!(told.keys().eq(["v1", "v2"]), "{told:?}");
    for (version, says) in &told {
        // Also on another connection, and for another path.
        session = suite.client(CLIENT, SERVICE, 80)?.session().await?;
        for path in ["/begins", "/goes/on", "/"].into_iter().cycle().take(12) {
            let answer = session.send(get(path).header("cookie", says.as_str()), Bytes::new()).await?;
            let again = answer.echo()?.version;
            ensure!(again == *version && answer.header("set-cookie").is_none(), "{path}: {again} after {version}");
        }
    }
    Ok(())
}
