//! What both access logs say of each request: its flags (`%RESPONSE_FLAGS%`), its route, and by which rule it was denied
//! (`%RESPONSE_CODE_DETAILS%`), in lines that a Telemetry asks both waypoints for, as these name the request.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::ID;
use crate::known::Side;
use crate::mesh::Mesh;

/// How each line begins.
pub const BEGINNING: &str = "request ";
/// What stands for something that is not known.
pub const NONE: &str = "-";
/// How the details begin of what policies refuse, before the name of the rule; and all of them where no rule allows it.
pub const DENIED: &str = "rbac_access_denied_matched_policy[";
pub const BY_NONE: &str = "rbac_access_denied_matched_policy[none]";
/// What is buffered comes in less than half of this (`ambit/src/envoy/process.rs`).
const QUIET: Duration = Duration::from_millis(700);
/// For so many times that nothing more is written, it is over.
const TIMES: usize = 2;

/// What a line says of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub flags: String,
    pub route: String,
    /// What denied it, of details of which all others are words of their own on each side.
    pub rule: String,
}

/// Those of one side, by the ids of their requests.
pub type Lines = HashMap<String, Logged>;

/// What has both waypoints write such lines, to where a process writes what it has to say.
pub fn objects() -> [Value; 2] {
    let text = format!("{BEGINNING}%REQ({})% %RESPONSE_FLAGS% %ROUTE_NAME% %RESPONSE_CODE_DETAILS%", ID.to_uppercase());
    let provider = json!({"name": "lines", "envoyFileAccessLog": {"path": "/dev/stdout", "logFormat": {"text": text}}});
    [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": json!({"extensionProviders": [provider]}).to_string()},
        }),
        json!({
            "apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry", "metadata": {"name": "lines", "namespace": "shop"},
            "spec": {"accessLogging": [{"providers": [{"name": "lines"}]}]},
        }),
    ]
}

/// All that has been written, once nothing more is.
pub async fn settled(mesh: &Mesh) -> [Lines; 2] {
    let (mut before, mut quiet) = (usize::MAX, 0);
    loop {
        let texts = [Side::Ours, Side::Envoys].map(|side| mesh.access_log(side));
        let now = texts.iter().map(String::len).sum();
        quiet = if now == before { quiet + 1 } else { 0 };
        if quiet == TIMES {
            return texts.map(|text| text.lines().filter_map(line).collect());
        }
        before = now;
        tokio::time::sleep(QUIET).await;
    }
}

/// Reads a line; of a request that was not read as far as its id there is nothing to tell.
fn line(line: &str) -> Option<(String, Logged)> {
    let mut words = line.strip_prefix(BEGINNING)?.split(' ');
    let (id, flags, route) = (words.next()?, words.next()?, words.next()?);
    let rule = words.next().filter(|details| details.starts_with(DENIED)).unwrap_or(NONE);
    (id != NONE).then(|| (id.to_owned(), Logged { flags: flags.to_owned(), route: route.to_owned(), rule: rule.to_owned() }))
}
