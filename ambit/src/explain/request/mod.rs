//! What becomes of a request: the connection that it needs is explained first, and then, where that goes through a waypoint, what the
//! waypoint decides about the request; at last, from files, whether the endpoints let the waypoint in.

#[cfg(test)]
mod tests;
mod text;
mod way;

use ambit_model::explain::Asked;
use hyper::Uri;
use serde_json::{Value, json};
use waypoint::explain as at_waypoint;

use super::args::RequestArgs;
use super::files::World;
use super::{Answer, live};
use crate::error::{Error, Result};
use text::{headline, write_steps};
use way::Way;

/// The request as it was asked for.
struct Request<'a> {
    args: &'a RequestArgs,
    /// What the client dials.
    to: String,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
}

/// Where answers are from.
enum Of<'a> {
    Files(&'a World),
    Running { ztunnel: &'a str, waypoint: Option<&'a str> },
}

/// Answers.
///
/// # Errors
/// When the request is not one, the files cannot be read, or who is asked does not answer.
pub(super) async fn answer(args: &RequestArgs) -> Result<Answer> {
    let request = Request::of(args)?;
    match &args.of.dir {
        Some(directory) => {
            let world = Box::new(World::read(&args.of, directory).await?);
            answered(&Of::Files(&world), &request).await
        }
        None => {
            let of = Of::Running { ztunnel: &args.of.ztunnel, waypoint: args.waypoint.as_deref() };
            answered(&of, &request).await
        }
    }
}

/// Answers from files that were read before.
///
/// # Errors
/// When the request is not one, or the files do not say who it is from and for.
pub(super) async fn of_files(world: &World, args: &RequestArgs) -> Result<Answer> {
    answered(&Of::Files(world), &Request::of(args)?).await
}

async fn answered(of: &Of<'_>, request: &Request<'_>) -> Result<Answer> {
    let args = request.args;
    let connection = match of {
        Of::Files(world) => world.connection(&args.from, &request.to)?,
        Of::Running { ztunnel, .. } => live::connection(ztunnel, &args.from, &request.to).await?,
    };
    let told = &connection.explanation;
    let title = format!("{} -> {} {}", told["from"].as_str().unwrap_or(&args.from), args.method, args.url);
    let through: Vec<&Value> = list(&told["ways"]).filter(|way| way["carriage"] == "waypoint").collect();
    if through.is_empty() {
        return Ok(without_a_waypoint(&title, request, &connection));
    }
    let mut ways: Vec<Way> = Vec::new();
    for way in through {
        of.way(request, way).await?.join(&mut ways);
    }
    // Not every way of the connection may go through one: on the others nobody looks at requests.
    for way in list(&told["ways"]).filter(|way| way["carriage"] != "waypoint") {
        Way::of_connection(way).join(&mut ways);
    }
    Ok(with_ways(&title, request, told, &ways))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl<'a> Request<'a> {
    fn of(args: &'a RequestArgs) -> Result<Self> {
        let wrong = |why: &str| Error::Invalid(format!("{}: {why}", args.url));
        let uri: Uri = args.url.parse().map_err(|_| wrong("it is not of the form http://HOST[:PORT]/PATH"))?;
        let host = match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => authority.clone(),
            (Some("https"), _) => {
                return Err(wrong(
                    "what is inside TLS of the application no proxy of the mesh reads: ask with `ambit explain connection`",
                ));
            }
            _ => return Err(wrong("it is not of the form http://HOST[:PORT]/PATH")),
        };
        let headers = args.headers.iter().map(|header| -> Result<(String, String)> {
            let (name, value) =
                header.split_once(':').ok_or_else(|| Error::Invalid(format!("{header:?} is not of the form NAME:VALUE")))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        });
        Ok(Self {
            args,
            to: format!("{}:{}", host.host(), host.port_u16().unwrap_or(80)),
            host: host.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            headers: headers.collect::<Result<_>>()?,
        })
    }

    /// As a waypoint is asked.
    fn question(&self, asked: &Asked) -> Result<at_waypoint::Question> {
        let request = at_waypoint::request(&self.args.method, &self.host, &self.path, &self.headers, self.args.http2);
        Ok(at_waypoint::Question {
            identity: asked.identity.clone(),
            address: asked.address,
            destination: asked.destination,
            request: request.map_err(Error::Invalid)?,
        })
    }

    /// As the page of a waypoint is asked.
    async fn ask(&self, waypoint: &str, asked: &Asked) -> Result<Value> {
        let headers: Vec<String> = self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let (identity, address, destination) =
            (asked.identity.to_string(), asked.address.to_string(), asked.destination.to_string());
        let mut query = vec![
            ("identity", identity.as_str()),
            ("address", &address),
            ("destination", &destination),
            ("method", &self.args.method),
            ("host", &self.host),
            ("path", &self.path),
        ];
        let headers = headers.join("\n");
        if !headers.is_empty() {
            query.push(("headers", &headers));
        }
        if self.args.http2 {
            query.push(("http2", ""));
        }
        live::request(waypoint, &query).await
    }
}

impl Of<'_> {
    /// What becomes of the request on a way of its connection that goes through a waypoint.
    async fn way(&self, request: &Request<'_>, way: &Value) -> Result<Way> {
        let before: Vec<Value> = list(&way["steps"]).filter(|step| step["stage"] != "beyond").cloned().collect();
        let pod = way["to"].as_str().unwrap_or_default();
        let mut told = Way::ending(Some(self.name(pod)), before);
        if told.verdict != "allowed" {
            return Ok(told);
        }
        let asked: Asked = serde_json::from_value(way["asked"].clone()).map_err(|error| {
            Error::Call(format!(
                "the node proxy does not say what the waypoint is asked for ({error}): is it of an older version?"
            ))
        })?;
        let decided = match self {
            Of::Files(world) => {
                let gateway = world.gateway(pod).ok_or_else(|| Error::Invalid(format!("{pod} is the pod of no waypoint")))?;
                let held = world.waypoint(&gateway);
                let (snapshot, rejected) = held.ok_or_else(|| Error::Invalid(format!("{gateway} asks for no waypoint")))?;
                for rejected in rejected {
                    let says = format!("the waypoint {gateway} does not take {}", rejected.name);
                    told.steps.push(json!({"stage": "chain", "says": says, "because": [rejected.reason]}));
                }
                let explained = at_waypoint::explain(&snapshot, &request.question(&asked)?);
                serde_json::to_value(explained).map_err(|error| Error::part("writing the answer", error))?
            }
            Of::Running { waypoint: Some(waypoint), .. } => request.ask(waypoint, &asked).await?,
            Of::Running { waypoint: None, .. } => {
                let (namespace, name) = pod.split_once('/').unwrap_or(("", pod));
                let doubt = format!(
                    "what it decides: give the address of its admin page with --waypoint, as after `kubectl port-forward -n {namespace} pod/{name} 15001:15000`"
                );
                let says = format!("the waypoint {pod} decides about the request");
                told.steps.push(json!({"stage": "chain", "says": says, "because": [], "doubt": doubt}));
                return Ok(Way::ending(told.waypoint, told.steps));
            }
        };
        told.decided(decided);
        if let Of::Files(world) = self {
            told.beyond(world, pod);
        }
        Ok(told)
    }

    fn name(&self, pod: &str) -> String {
        let gateway = match self {
            Of::Files(world) => world.gateway(pod),
            Of::Running { .. } => None,
        };
        gateway.map_or_else(|| pod.to_owned(), |gateway| gateway.to_string())
    }
}

/// The answer for a connection of which no waypoint reads what is in it.
fn without_a_waypoint(title: &str, request: &Request<'_>, connection: &Answer) -> Answer {
    const SAYS: &str =
        "no waypoint handles it: what is said for requests does not apply, and what follows is about the connection";
    let mut lines = connection.text.lines();
    let (_, verdict) = (lines.next(), lines.next().unwrap_or_default());
    let rest: String = lines.map(|line| format!("{line}\n")).collect();
    let told = &connection.explanation;
    let explanation = json!({
        "from": told["from"], "method": request.args.method, "url": request.args.url, "verdict": told["verdict"], "reason": told["reason"],
        "status": null, "says": SAYS, "connection": told, "ways": [], "assumed": told["assumed"],
    });
    Answer { explanation, text: format!("{title}\n{verdict}\n  {SAYS}\n{rest}") }
}

fn with_ways(title: &str, request: &Request<'_>, connection: &Value, ways: &[Way]) -> Answer {
    let end = |way: &Way| (way.verdict.clone(), way.reason.clone(), way.status);
    let (verdict, reason, status) = match ways {
        [first, rest @ ..] if rest.iter().all(|way| end(way) == end(first)) => end(first),
        _ => ("unknown".to_owned(), None, None),
    };
    let mut text = format!("{title}\n{}\n", headline(&verdict, reason.as_deref(), status));
    for assumed in list(&connection["assumed"]).filter_map(Value::as_str) {
        text.push_str(&format!("  assumed: {assumed}\n"));
    }
    let common: Vec<Value> = list(&connection["steps"]).cloned().collect();
    let mut number = 0;
    write_steps(&mut text, &common, &mut number);
    for way in ways {
        if ways.len() > 1 {
            let by = way.waypoint.as_ref().map_or("no waypoint".to_owned(), |name| format!("the waypoint {name}"));
            text.push_str(&format!("\nif it goes by {by}: {}\n", headline(&way.verdict, way.reason.as_deref(), way.status)));
        }
        let mut own = number;
        write_steps(&mut text, &way.steps, &mut own);
        if !way.also.is_empty() {
            text.push_str(&format!("     or, by chance, through the waypoint {}, with the same end\n", way.also.join(", ")));
        }
    }
    let explanation = json!({
        "from": connection["from"], "method": request.args.method, "url": request.args.url, "verdict": verdict, "reason": reason,
        "status": status, "connection": connection, "ways": ways, "assumed": connection["assumed"],
    });
    Answer { explanation, text }
}
