//! The `networking.istio.io` custom resource that routes requests for a host, as far as a waypoint carries it out. Of all other fields, known
//! by name to be refused by it, only that they are there is read.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Fields that are not carried out, whatever they say.
pub type Others = BTreeMap<String, Value>;
/// The gateway that stands for all of the mesh.
pub const MESH: &str = "mesh";

/// How requests for hosts are routed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct VirtualService {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is asked.
    #[serde(default)]
    pub spec: VirtualServiceSpec,
    /// What was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// The wish of a [`VirtualService`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// Services of its namespace, or the whole host names of such.
    pub hosts: Vec<String>,
    /// Where it holds; for the mesh where nothing is said.
    pub gateways: Vec<String>,
    /// Rules for requests, of which the first that matches holds.
    pub http: Vec<HttpRule>,
    /// Namespaces that see it: all but `*` and `.` not carried out.
    pub export_to: Vec<String>,
    /// `tcp`, `tls`.
    #[serde(flatten)]
    pub others: Others,
}

impl VirtualServiceSpec {
    /// Whether it is about what clients in the mesh ask.
    #[must_use]
    pub fn is_for_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|gateway| gateway == MESH)
    }

    /// Whether any of its rules can be for a request of the mesh at a port.
    #[must_use]
    pub fn is_for(&self, port: u16) -> bool {
        let can_be = |rule: &HttpRule| rule.conditions.is_empty() || rule.conditions.iter().any(|said| said.is_for(port));
        self.http.iter().any(can_be)
    }
}

/// What is done with some of the requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRule {
    /// Its name.
    pub name: Option<String>,
    /// Which requests: those that any of these is for, or all.
    #[serde(rename = "match")]
    pub conditions: Vec<HttpMatch>,
    /// Where they are sent.
    pub route: Vec<Weighted>,
    /// To where the client is sent.
    pub redirect: Option<Redirect>,
    /// What is answered.
    pub direct_response: Option<DirectResponse>,
    /// What is changed of the target.
    pub rewrite: Option<Rewrite>,
    /// How long it may take.
    pub timeout: Option<String>,
    /// How often it is tried.
    pub retries: Option<Retries>,
    /// What is put in the way.
    pub fault: Option<Fault>,
    /// Who gets a copy.
    pub mirror: Option<Destination>,
    /// How many are copied.
    pub mirror_percentage: Option<Percent>,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
    /// What pages of other origins may do.
    pub cors_policy: Option<CorsPolicy>,
    /// What is changed of headers.
    pub headers: Option<Headers>,
    /// `delegate`, and older forms.
    #[serde(flatten)]
    pub others: Others,
}

/// All of what it says must be so.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    /// Its name.
    pub name: Option<String>,
    /// The path.
    pub uri: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The host.
    pub authority: Option<StringMatch>,
    /// Headers by name; a test that says nothing is for their presence.
    pub headers: BTreeMap<String, StringMatch>,
    /// Headers that are not so.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Parameters by name.
    pub query_params: BTreeMap<String, StringMatch>,
    /// The port of the Service.
    pub port: Option<i64>,
    /// The namespace of the client.
    pub source_namespace: Option<String>,
    /// Where it holds.
    pub gateways: Vec<String>,
    /// `ignoreUriCase`, `sourceLabels`, `scheme`, `statPrefix`.
    #[serde(flatten)]
    pub others: Others,
}

impl HttpMatch {
    /// Whether it can be for a request of the mesh at a port.
    #[must_use]
    pub fn is_for(&self, port: u16) -> bool {
        let of_mesh = self.gateways.is_empty() || self.gateways.iter().any(|gateway| gateway == MESH);
        of_mesh && self.port.is_none_or(|number| number == i64::from(port))
    }
}

/// A test of text.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct StringMatch {
    /// All of it.
    pub exact: Option<String>,
    /// Its beginning.
    pub prefix: Option<String>,
    /// A regular expression (RE2) for all of it.
    pub regex: Option<String>,
    /// Nothing that is known.
    #[serde(flatten)]
    pub others: Others,
}

/// A destination with its share.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Weighted {
    /// Where to.
    pub destination: Destination,
    /// Its share; of an only one all.
    pub weight: Option<i64>,
    /// What is changed of headers.
    pub headers: Option<Headers>,
    /// Nothing that is known.
    #[serde(flatten)]
    pub others: Others,
}

/// Where to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Destination {
    /// A Service, as in `hosts`.
    pub host: String,
    /// One of its ports; not needed where it has one, or the same that was asked for.
    pub port: Option<PortSelector>,
    /// A part of its endpoints, as a DestinationRule names it.
    pub subset: Option<String>,
    /// Nothing that is known.
    #[serde(flatten)]
    pub others: Others,
}

impl Destination {
    /// The part of the endpoints that is meant, if it is not all of them.
    #[must_use]
    pub fn named_subset(&self) -> Option<&str> {
        self.subset.as_deref().filter(|name| !name.is_empty())
    }
}

/// A port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct PortSelector {
    /// Its number.
    pub number: i64,
}

/// Who gets copies.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Mirror {
    /// Where to.
    pub destination: Destination,
    /// How many are copied.
    pub percentage: Option<Percent>,
    /// Nothing that is known.
    #[serde(flatten)]
    pub others: Others,
}

/// A share.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Percent {
    /// Of a hundred.
    pub value: f64,
}

/// To where the client is sent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Redirect {
    /// The path.
    pub uri: Option<String>,
    /// The host.
    pub authority: Option<String>,
    /// The port.
    pub port: Option<i64>,
    /// The scheme.
    pub scheme: Option<String>,
    /// The status; 301 when not given.
    pub redirect_code: Option<i64>,
    /// `derivePort`.
    #[serde(flatten)]
    pub others: Others,
}

/// What is answered.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct DirectResponse {
    /// The status.
    pub status: i64,
    /// The body.
    pub body: Option<ResponseText>,
    /// Nothing that is known.
    #[serde(flatten)]
    pub others: Others,
}

/// A body.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ResponseText {
    /// As text.
    pub string: Option<String>,
    /// `bytes`.
    #[serde(flatten)]
    pub others: Others,
}

/// What is changed of the target.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Rewrite {
    /// What takes the place of the matched prefix, or of the whole path where that was matched.
    pub uri: Option<String>,
    /// The host.
    pub authority: Option<String>,
    /// `uriRegexRewrite`.
    #[serde(flatten)]
    pub others: Others,
}

/// How often it is tried.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Retries {
    /// How often more.
    pub attempts: i64,
    /// How long each may take.
    pub per_try_timeout: Option<String>,
    /// After what.
    pub retry_on: Option<String>,
    /// How long is waited before the first.
    pub backoff: Option<String>,
    /// `retryRemoteLocalities`, `retryIgnorePreviousHosts`.
    #[serde(flatten)]
    pub others: Others,
}

/// What is put in the way.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Fault {
    /// Time.
    pub delay: Option<Delay>,
    /// An answer.
    pub abort: Option<Abort>,
    /// Nothing that is known.
    #[serde(flatten)]
    pub others: Others,
}

/// Time in the way.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Delay {
    /// How long.
    pub fixed_delay: Option<String>,
    /// Of how many; none when not given.
    pub percentage: Option<Percent>,
    /// Older forms.
    #[serde(flatten)]
    pub others: Others,
}

/// An answer in the way.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Abort {
    /// Its status.
    pub http_status: Option<i64>,
    /// To how many; none when not given.
    pub percentage: Option<Percent>,
    /// `grpcStatus`.
    #[serde(flatten)]
    pub others: Others,
}

/// What pages of other origins may do.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsPolicy {
    /// Which origins.
    pub allow_origins: Vec<StringMatch>,
    /// Which methods.
    pub allow_methods: Vec<String>,
    /// Which headers.
    pub allow_headers: Vec<String>,
    /// Which headers of answers they see.
    pub expose_headers: Vec<String>,
    /// How long that is so.
    pub max_age: Option<String>,
    /// Whether with credentials.
    pub allow_credentials: Option<bool>,
    /// `allowOrigin`, `unmatchedPreflights`.
    #[serde(flatten)]
    pub others: Others,
}

/// What is changed of headers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Headers {
    /// Of the request.
    pub request: HeaderOperations,
    /// Of the answer.
    pub response: HeaderOperations,
    /// Nothing that is known.
    #[serde(flatten)]
    pub others: Others,
}

/// What is changed of the headers of one direction.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct HeaderOperations {
    /// In the place of what there is.
    pub set: BTreeMap<String, String>,
    /// Besides what there is.
    pub add: BTreeMap<String, String>,
    /// Taken out.
    pub remove: Vec<String>,
    /// Nothing that is known.
    #[serde(flatten)]
    pub others: Others,
}
