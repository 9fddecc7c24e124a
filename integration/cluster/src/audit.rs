//! What the users of an API server ask of it, by its audit log, held against the rights that their roles give them.
//!
//! A role is as narrow as can be when each of its rights allows a request that nothing else in it allows, for without that right the API
//! server refuses the request. Both halves are the API server's own words: which requests there were, and which of them it refused.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::api_server::ApiServer;
use crate::error::{Error, Result};

/// Who asked for what, not the contents. What the API server asks of itself, and those who may do everything, is left out. A watch is
/// written down when it begins.
const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ['system:masters']}
- {level: Metadata}
";

/// The log, in the directory of the API server.
const LOG: &str = "audit.log";

/// Writes the policy, and returns the arguments by which kube-apiserver follows it.
pub(crate) fn arguments(directory: &Path) -> Result<[String; 2]> {
    let policy = directory.join("audit-policy.yaml");
    std::fs::write(&policy, POLICY).map_err(Error::path("writing", &policy))?;
    Ok([format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", directory.join(LOG).display())])
}

/// One verb on one resource, as a role gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The role, and which of its rules.
    pub role: String,
    /// The one namespace that it holds in; `None` holds everywhere.
    pub namespace: Option<String>,
    /// API group.
    pub group: String,
    /// Resource, with its subresource: `pods/status`.
    pub resource: String,
    /// The one object that it holds for; `None` is any.
    pub name: Option<String>,
    /// The verb.
    pub verb: String,
}

impl Right {
    /// Whether it allows this verb of a request.
    fn allows(&self, request: &Request, verb: &str) -> bool {
        self.verb == verb
            && (&self.group, &self.resource) == (&request.group, &request.resource)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == request.namespace)
            && self.name.as_ref().is_none_or(|name| *name == request.name)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        write!(f, "{} {}{group}", self.verb, self.resource)?;
        if let Some(name) = &self.name {
            write!(f, " named {name}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in namespace {namespace}")?;
        }
        write!(f, " ({})", self.role)
    }
}

/// A request that the API server has judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub user: String,
    /// The verb of its path and method.
    pub verb: String,
    /// API group.
    pub group: String,
    /// Resource, with its subresource.
    pub resource: String,
    /// Namespace; empty for all, and for what has none.
    pub namespace: String,
    /// Name of the object; empty for all, and for one that is being made.
    pub name: String,
    /// Its path.
    pub uri: String,
    /// The status of the answer.
    pub code: u16,
}

impl Request {
    /// The verbs that it takes: to apply an object that is not there is to patch and to create.
    fn verbs(&self) -> impl Iterator<Item = &str> {
        let makes = (self.verb == "patch" || self.verb == "update") && self.code == 201;
        [Some(self.verb.as_str()), makes.then_some("create")].into_iter().flatten()
    }

    /// Whether it was refused for want of a right.
    fn refused(&self) -> bool {
        self.code == 403
    }
}

/// What the use of an account says of its rights.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What it asked for without the right to: verb and path.
    pub refused: BTreeSet<String>,
    /// The rights without which all that was allowed would be allowed as well.
    pub unused: Vec<Right>,
}

/// Holds what a user asked for against the rights that it has.
#[must_use]
pub fn compare(rights: &[Right], requests: &[Request]) -> Findings {
    let mut refused = BTreeSet::new();
    let mut used = BTreeSet::new();
    for request in requests {
        if request.refused() {
            refused.insert(format!("{} {}", request.verb, request.uri));
            continue;
        }
        for verb in request.verbs() {
            let mut allowing = rights.iter().enumerate().filter(|(_, right)| right.allows(request, verb));
            if let (Some((only, _)), None) = (allowing.next(), allowing.next()) {
                used.insert(only);
            }
        }
    }
    let unused = rights.iter().enumerate().filter(|(at, _)| !used.contains(at)).map(|(_, right)| right.clone());
    Findings { refused, unused: unused.collect() }
}

/// An entry of the log, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    uri: String,
    user: User,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// The requests for resources in a log. A last line that is still being written is for the next time.
fn read(log: &str) -> Result<Vec<Request>> {
    let whole = log.rfind('\n').and_then(|end| log.get(..end)).unwrap_or_default();
    let mut requests = Vec::new();
    for line in whole.lines() {
        let entry: Entry = serde_json::from_str(line).map_err(|error| Error::failed("reading the audit log", error))?;
        let (Some(of), Some(status)) = (entry.object_ref, entry.response_status) else { continue };
        if entry.verb == "watch" && entry.stage == "ResponseComplete" && status.code == 200 {
            // It was written down when it began.
            continue;
        }
        let resource = if of.subresource.is_empty() { of.resource } else { format!("{}/{}", of.resource, of.subresource) };
        requests.push(Request {
            user: entry.user.username,
            verb: entry.verb,
            group: of.api_group,
            resource,
            namespace: of.namespace,
            name: of.name,
            uri: entry.uri,
            code: status.code,
        });
    }
    Ok(requests)
}

impl ApiServer {
    /// What a user has asked for so far, of an API server that writes it down ([`crate::ApiServerOptions::audit`]).
    ///
    /// # Errors
    /// It writes nothing down, or not in the form that is known.
    pub fn requests_of(&self, user: &str) -> Result<Vec<Request>> {
        let path = self.directory().join(LOG);
        let log = std::fs::read_to_string(&path).map_err(Error::path("reading", &path))?;
        let mut requests = read(&log)?;
        requests.retain(|request| request.user == user);
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(verb: &str, resource: &str, name: Option<&str>) -> Right {
        let (verb, resource, name) = (verb.to_owned(), resource.to_owned(), name.map(str::to_owned));
        Right { role: "Role r, rule 1".to_owned(), namespace: None, group: String::new(), resource, name, verb }
    }

    fn entry(verb: &str, name: &str, code: u16) -> String {
        let object =
            format!(r#"{{"resource":"pods","namespace":"shop","name":"{name}","subresource":"status","apiVersion":"v1"}}"#);
        format!(
            r#"{{"stage":"ResponseComplete","verb":"{verb}","requestURI":"/x/{name}","user":{{"username":"u"}},"objectRef":{object},"responseStatus":{{"metadata":{{}},"code":{code}}}}}"#
        ) + "\n"
    }

    #[test]
    fn a_right_is_used_when_only_it_allows_something_that_was_done() {
        let log = entry("patch", "a", 200) + &entry("patch", "b", 201) + r#"{"half"#;
        let requests = read(&log).unwrap();
        assert_eq!((requests.len(), requests[0].resource.as_str()), (2, "pods/status"));
        let begun = entry("watch", "", 200).replace("ResponseComplete", "ResponseStarted");
        assert_eq!(read(&(begun + &entry("watch", "", 200))).unwrap().len(), 1, "each watch once");
        let rights = [right("patch", "pods/status", None), right("create", "pods/status", None)];
        assert_eq!(compare(&rights, &requests), Findings::default());
        assert_eq!(compare(&rights, &requests[..1]).unused, rights[1..], "nothing was made");
        // The same twice, of which either could go; and what is allowed for another object, in another namespace, on another resource.
        let twice = [rights[0].clone(), right("patch", "pods/status", Some("a")), right("patch", "pods/status", Some("b"))];
        assert_eq!(compare(&twice, &requests[..1]).unused, twice);
        let elsewhere = Right { namespace: Some("other".to_owned()), ..rights[0].clone() };
        let others = [right("patch", "pods", None), right("patch", "pods/status", Some("c")), elsewhere];
        assert_eq!(compare(&others, &requests).unused, others);
    }

    #[test]
    fn what_is_refused_uses_nothing_and_is_named() {
        let requests = read(&entry("patch", "a", 403)).unwrap();
        let rights = [right("patch", "pods/status", None)];
        let found = compare(&rights, &requests);
        assert_eq!((found.refused.into_iter().collect::<Vec<_>>(), found.unused.len()), (vec!["patch /x/a".to_owned()], 1));
        assert_eq!(rights[0].to_string(), "patch pods/status (Role r, rule 1)");
    }
}
