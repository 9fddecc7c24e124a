//! What the admin page of our waypoint says of a request, against what became of it.

use http::uri::PathAndQuery;
use serde_json::Value;

use crate::backend::TWIN;
use crate::known::{Outcome, PROXY};
use crate::logs::{BY_NONE, DENIED, Logged, NONE};
use crate::mesh::{Mesh, identity};
use crate::world::{Chance, HTTP2, Request, Service, backend_of};

/// Longer questions are too long for an address.
const LONGEST: usize = 32 * 1024;
/// Heads with more fields are refused by whoever reads them, before anything is decided.
const FIELDS: usize = 100;

/// What is told of a fault that nobody comes past.
const ABORTS_ALL: &str = "of such requests all are answered with";
/// Reasons of what is in the way of some requests, and what is told of it: which of them meet it is a matter of chance, or of others.
const IN_THE_WAY: [(&str, &str); 3] = [
    ("fault_injected", "are answered with"),
    ("rate_limited", "and are refused beyond"),
    ("request_too_large", "are refused with 413 beyond"),
];

/// What is told of routes with times: within which an answer, a try, or a stream has to end.
const TIMES: [&str; 4] = ["must end within", "each try within", "in either direction for", "after its beginning, also"];

/// What was said of a request before it was sent.
#[derive(Debug, Clone)]
pub enum Told {
    /// This.
    So(Value),
    /// It cannot be asked about, and why.
    NotAsked(&'static str),
    /// It was asked about, and this came in place of an explanation.
    Nothing(String),
}

/// Why a request cannot be asked about: a question has one host, one path, and headers that say where the request ends.
pub fn cannot_be_asked(request: &Request) -> Option<&'static str> {
    let hosts = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host")).count();
    let length: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let ascii = request.target.bytes().all(|byte| byte.is_ascii_graphic());
    if hosts != 1 {
        Some("it has no host, or two")
    } else if !request.target.starts_with('/') {
        Some("its target is no path")
    } else if !ascii || PathAndQuery::try_from(request.target.as_str()).is_err() {
        Some("its target has letters that no URI has")
    } else if request
        .header("transfer-encoding")
        .is_some_and(|coding| coding != "chunked" || request.header("content-length").is_some())
    {
        Some("nobody knows where its body ends")
    } else if request.headers.len() > FIELDS {
        Some("it has more fields than are read")
    } else if length > LONGEST {
        Some("it is too long for a question")
    } else {
        None
    }
}

/// Asks the page.
///
/// # Errors
/// When the page does not answer.
pub async fn ask(mesh: &Mesh, service: &Service, request: &Request) -> anyhow::Result<Told> {
    if let Some(why) = cannot_be_asked(request) {
        return Ok(Told::NotAsked(why));
    }
    let headers = request.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    let headers: Vec<String> = headers.map(|(name, value)| format!("{name}:{value}")).collect();
    let query = format!(
        "/explain?identity={}&address={}&destination={}:80&method={}&host={}&path={}&headers={}",
        encoded(&identity(request.account).to_string()),
        mesh.client(),
        service.address,
        encoded(&request.method),
        encoded(request.header("host").unwrap_or_default()),
        encoded(&request.target),
        encoded(&headers.join("\n")),
    );
    let query = if request.version == HTTP2 { query + "&http2=" } else { query };
    let mut page = mesh.page(&query).await?;
    Ok(match page.get_mut("explanation").map(Value::take) {
        Some(explanation) => Told::So(explanation),
        None => Told::Nothing(page.to_string()),
    })
}

/// All but letters and digits as their bytes (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Whether a request of which this was told may meet a chance that its service has.
pub fn may_differ(told: &Value, chance: Chance) -> bool {
    let clusters = || told["clusters"].as_array().into_iter().flatten();
    match chance {
        Chance::Backends => clusters().count() > 1,
        Chance::Endpoints => clusters().any(|cluster| cluster["endpoints"].as_array().is_some_and(|all| all.len() > 1)),
        Chance::Time => {
            let steps = told["steps"].to_string();
            TIMES.iter().any(|words| steps.contains(words))
        }
        Chance::Share => true,
    }
}

/// Whether a request has ended as was told by the waypoint that it went through: also at the endpoint that was told.
///
/// # Errors
/// In what it has not.
pub fn ended_so(told: &Value, service: &Service, outcome: &Outcome) -> Result<(), String> {
    agrees(told, service, outcome)?;
    // That of a session, or to which a hash leads, is told by its name; of those that chance leads to only how many there are.
    let Ok(port) = outcome.answered_by().parse::<u16>() else { return Ok(()) };
    let (pod, other) = if port > TWIN { ("twin", "app") } else { ("app", "twin") };
    let elsewhere = format!(" to shop/{other} at ");
    let mut says = told["steps"].as_array().into_iter().flatten().filter_map(|step| step["says"].as_str());
    match says.find(|says| says.contains(&elsewhere)) {
        Some(says) => Err(format!("the pod {pod} answered, and not as in {says:?}")),
        None => Ok(()),
    }
}

/// Whether a request has ended as was told, and by the route that was told.
///
/// # Errors
/// In what it has not.
pub fn agrees(told: &Value, service: &Service, outcome: &Outcome) -> Result<(), String> {
    if let Some(logged) = &outcome.logged {
        same_route(told, logged)?;
        same_rule(told, logged)?;
    }
    let clusters: Vec<&Value> = told["clusters"].as_array().into_iter().flatten().collect();
    let by = outcome.answered_by();
    let reason = outcome.answer.header("x-ambit-reason");
    let steps = told["steps"].to_string();
    // What is in the way of requests is told with the share that meets it: of all of them none comes past it.
    if steps.contains(ABORTS_ALL) && reason.as_deref() != Some("fault_injected") {
        return Err("no fault was in its way".to_owned());
    }
    if let Some((_, words)) = IN_THE_WAY.iter().find(|(met, _)| reason.as_deref() == Some(*met) && told["reason"] != *met) {
        let status = &outcome.answer.status;
        let of_service = |policy: &str| is_request_policy(service, policy);
        if let Some(policy) = outcome.answer.header("x-ambit-policy").filter(|policy| !of_service(policy)) {
            return Err(format!("it was answered {status} by the policy {policy}, which its service has not"));
        }
        return if steps.contains(words) { Ok(()) } else { Err(format!("it was answered {status}, for what was not told")) };
    }
    let sent_on = told["status"].is_null();
    let is = |cluster: &Value, name: &str| cluster["name"].as_str().is_some_and(|of| of.contains(&format!("|{name}.shop.")));
    if by != PROXY {
        let name = backend_of(&by).unwrap_or(&service.name);
        let led = clusters.iter().any(|cluster| cluster["status"].is_null() && is(cluster, name));
        return if sent_on && led { Ok(()) } else { Err(format!("{name} answered")) };
    }
    if let Some(location) = outcome.answer.header("location") {
        let written = Value::from(location.as_str()).to_string();
        if !steps.contains(&format!("sends the client to {}", written.trim_matches('"'))) {
            return Err(format!("the client was sent to {location}"));
        }
    }
    let same_reason = |of: &Value| reason.is_none() || of["reason"].as_str() == reason.as_deref();
    // Calls are told in another place than in the status.
    let call = outcome.answer.headers.contains_key("grpc-status");
    let same = |of: &Value| {
        same_reason(of) && (call || of["status"].as_u64().is_some_and(|status| status.to_string() == outcome.answer.status))
    };
    if same(told) || (sent_on && clusters.iter().any(|cluster| same(cluster))) {
        return same_policy(told, outcome);
    }
    // What endpoints make of it is not known before.
    let tried = !outcome.arrivals.is_empty() || clusters.iter().any(|cluster| is(cluster, "closed"));
    if sent_on && tried && (call || ["503", "504"].contains(&outcome.answer.status.as_str())) {
        return Ok(());
    }
    Err(format!("the waypoint answered {}, for {}", outcome.answer.status, reason.as_deref().unwrap_or("no reason")))
}

/// Whether this is a RequestPolicy of the service, `namespace/name`.
fn is_request_policy(service: &Service, policy: &str) -> bool {
    let mut policies = service.objects.iter().filter(|object| object["kind"] == "RequestPolicy");
    policies.any(|object| {
        let metadata = &object["metadata"];
        policy.split_once('/') == metadata["namespace"].as_str().zip(metadata["name"].as_str())
    })
}

/// The answer names the policy that was told, or none where none was.
fn same_policy(told: &Value, outcome: &Outcome) -> Result<(), String> {
    let policy = outcome.answer.header("x-ambit-policy");
    match policy.as_deref() == told["policy"].as_str() {
        true => Ok(()),
        false => Err(format!("the answer names the policy {}", policy.as_deref().unwrap_or(NONE))),
    }
}

/// The access log names the rule that was told to deny the request; and none where no rule allows it, or no policy had to do with it.
fn same_rule(told: &Value, logged: &Logged) -> Result<(), String> {
    let rule = match told["reason"].as_str() {
        Some("policy_denied_explicit") => denying(told).unwrap_or_else(|| "of which nothing is told".to_owned()),
        Some("policy_denied_no_allow_match") => BY_NONE.to_owned(),
        _ => NONE.to_owned(),
    };
    if rule == logged.rule { Ok(()) } else { Err(format!("the rule in the log is {}, and not {rule}", logged.rule)) }
}

/// The rule that was told to deny it, as logs have it: of those in force the last that decides, as nothing is asked after it.
fn denying(told: &Value) -> Option<String> {
    let said = told["policies"].as_array()?.iter().rev();
    let mut denies = said.filter(|rule| rule["action"] == "deny" && rule["decides"] == true && rule["dry_run"] == false);
    let (policy, index) = denies.next()?["rule"].as_str()?.split_once(", rules[")?;
    let (namespace, name) = policy.split_once('/')?;
    Some(format!("{DENIED}ns[{namespace}]-policy[{name}]-rule[{index}]"))
}

/// The access log names the route that was told, or none where none was to be found. Of what policies refuse it is not told which route would
/// have taken it.
fn same_route(told: &Value, logged: &Logged) -> Result<(), String> {
    let route = told["route"].as_str().filter(|route| !route.is_empty());
    let none = told["reason"] == "route_not_found";
    match route.or(none.then_some(NONE)) {
        Some(route) if route != logged.route => Err(format!("the route in the log is {}", logged.route)),
        _ => Ok(()),
    }
}
