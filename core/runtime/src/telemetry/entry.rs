//! One line of the access log.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeMap};

/// Durations are written in microseconds, to the nearest one.
const HALF_A_MICROSECOND: Duration = Duration::from_nanos(500);

/// Which side of the mesh this proxy was on for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a pod of this node into the mesh.
    Outbound,
    /// From the mesh to a pod of this node, or to a waypoint.
    Inbound,
}

impl Direction {
    /// `outbound` or `inbound`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// How the connection was protected on the mesh side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Mutual TLS with verified SPIFFE identities.
    MutualTls,
    /// Verified identities, and the bytes never left the node: no wire on which they could be read.
    NodeLocal,
    /// TLS with a client outside of the mesh, which proves no identity.
    Tls,
    /// Not protected.
    None,
}

impl Security {
    /// `mutual_tls`, `node_local`, `tls` or `none`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::NodeLocal => "node_local",
            Self::Tls => "tls",
            Self::None => "none",
        }
    }

    /// The value of the label `connection_security_policy`, of which dashboards know `mutual_tls` and `none`: the first means that the
    /// mesh made the connection secure, so it stands for what stayed on the node as well, and not for TLS that is no doing of the mesh's.
    pub fn label(self) -> &'static str {
        match self {
            Self::MutualTls | Self::NodeLocal => "mutual_tls",
            Self::Tls | Self::None => "none",
        }
    }
}

/// One connection or request, as it is written to the access log when it ends. Fields that are `None` are written as `-`, the
/// HTTP fields are left out.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Which side this proxy was on.
    pub direction: Direction,
    /// The client.
    pub source: SocketAddr,
    /// Name of the client's workload.
    pub source_workload: Option<Cow<'a, str>>,
    /// Namespace of the client.
    pub source_namespace: Option<Cow<'a, str>>,
    /// SPIFFE id of the client, verified when `security` is mutual TLS.
    pub source_identity: Option<Cow<'a, str>>,
    /// SPIFFE id of the client on whose behalf the client, a waypoint, says that it connects; only where it may say so.
    pub forwarded_client: Option<Cow<'a, str>>,
    /// Where the client was going.
    pub destination: SocketAddr,
    /// Name of the workload it reached.
    pub destination_workload: Option<Cow<'a, str>>,
    /// Namespace of the workload it reached.
    pub destination_namespace: Option<Cow<'a, str>>,
    /// Host name of the service it asked for.
    pub destination_service: Option<Cow<'a, str>>,
    /// SPIFFE id of the server.
    pub destination_identity: Option<Cow<'a, str>>,
    /// `namespace/name` of the policy that decided, if one did.
    pub policy: Option<Cow<'a, str>>,
    /// What policies that are not enforced would have decided, as `namespace/name:reason`, if there are any.
    pub dry_run: Option<Cow<'a, str>>,
    /// The W3C trace that the connection or request is part of: by it the lines of all proxies on its way are found.
    pub trace: Option<u128>,
    /// The reason code: `ok` when fine, else `ambit_model::Reason::label`.
    pub reason: Cow<'a, str>,
    /// Bytes from the client to the server.
    pub bytes_sent: u64,
    /// Bytes from the server to the client.
    pub bytes_received: u64,
    /// From accept (or the request's head) to the end.
    pub duration: Duration,
    /// Protection on the mesh side.
    pub security: Security,
    /// HTTP method.
    pub method: Option<Cow<'a, str>>,
    /// HTTP path.
    pub path: Option<Cow<'a, str>>,
    /// HTTP status.
    pub status: Option<u16>,
    /// How a request went wrong, in the short codes of Envoy (`%RESPONSE_FLAGS%`).
    pub flags: Option<Cow<'a, str>>,
    /// Name of the route.
    pub route: Option<Cow<'a, str>>,
    /// Name of the cluster.
    pub cluster: Option<Cow<'a, str>>,
    /// How often a request was sent, if more than once.
    pub attempts: Option<u32>,
    /// What went wrong, in a sentence.
    pub error: Option<Cow<'a, str>>,
}

impl<'a> Entry<'a> {
    /// An entry with only what is known at accept; reason `ok`, no protection.
    pub fn new(direction: Direction, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            direction,
            source,
            source_workload: None,
            source_namespace: None,
            source_identity: None,
            forwarded_client: None,
            destination,
            destination_workload: None,
            destination_namespace: None,
            destination_service: None,
            destination_identity: None,
            policy: None,
            dry_run: None,
            trace: None,
            reason: Cow::Borrowed("ok"),
            bytes_sent: 0,
            bytes_received: 0,
            duration: Duration::ZERO,
            security: Security::None,
            method: None,
            path: None,
            status: None,
            flags: None,
            route: None,
            cluster: None,
            attempts: None,
            error: None,
        }
    }
}

impl Display for Entry<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "access direction={} src.addr={}", self.direction.as_str(), self.source)?;
        field(out, " src.workload=", self.source_workload.as_deref())?;
        field(out, " src.namespace=", self.source_namespace.as_deref())?;
        field(out, " src.identity=", self.source_identity.as_deref())?;
        write!(out, " dst.addr={}", self.destination)?;
        field(out, " dst.workload=", self.destination_workload.as_deref())?;
        field(out, " dst.namespace=", self.destination_namespace.as_deref())?;
        field(out, " dst.service=", self.destination_service.as_deref())?;
        field(out, " dst.identity=", self.destination_identity.as_deref())?;
        field(out, " policy=", self.policy.as_deref())?;
        field(out, " reason=", Some(&self.reason))?;
        write!(out, " bytes_sent={} bytes_recv={}", self.bytes_sent, self.bytes_received)?;
        let micros = self.duration.saturating_add(HALF_A_MICROSECOND).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        write!(out, " duration_ms={}.{:03} security={}", micros / 1000, micros % 1000, self.security.as_str())?;
        if let Some(trace) = self.trace {
            write!(out, " trace={trace:032x}")?;
        }
        known(out, " src.forwarded_client=", self.forwarded_client.as_deref())?;
        known(out, " dry_run=", self.dry_run.as_deref())?;
        known(out, " method=", self.method.as_deref())?;
        known(out, " path=", self.path.as_deref())?;
        if let Some(status) = self.status {
            write!(out, " status={status}")?;
        }
        known(out, " flags=", self.flags.as_deref())?;
        known(out, " route=", self.route.as_deref())?;
        known(out, " cluster=", self.cluster.as_deref())?;
        if let Some(attempts) = self.attempts {
            write!(out, " attempts={attempts}")?;
        }
        known(out, " error=", self.error.as_deref())
    }
}

/// A line in JSON: the fields of the text, without those that are not known; numbers are numbers.
impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("direction", self.direction.as_str())?;
        map.serialize_entry("src.addr", &self.source)?;
        map.serialize_entry("dst.addr", &self.destination)?;
        let trace = self.trace.map(|trace| format!("{trace:032x}"));
        for (name, value) in [
            ("src.workload", &self.source_workload),
            ("src.namespace", &self.source_namespace),
            ("src.identity", &self.source_identity),
            ("src.forwarded_client", &self.forwarded_client),
            ("dst.workload", &self.destination_workload),
            ("dst.namespace", &self.destination_namespace),
            ("dst.service", &self.destination_service),
            ("dst.identity", &self.destination_identity),
            ("policy", &self.policy),
            ("dry_run", &self.dry_run),
            ("trace", &trace.map(Cow::Owned)),
            ("method", &self.method),
            ("path", &self.path),
            ("flags", &self.flags),
            ("route", &self.route),
            ("cluster", &self.cluster),
            ("error", &self.error),
        ] {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        map.serialize_entry("reason", &self.reason)?;
        map.serialize_entry("bytes_sent", &self.bytes_sent)?;
        map.serialize_entry("bytes_recv", &self.bytes_received)?;
        map.serialize_entry("duration_ms", &(self.duration.as_micros() as f64 / 1000.0))?;
        map.serialize_entry("security", self.security.as_str())?;
        if let Some(status) = self.status {
            map.serialize_entry("status", &status)?;
        }
        if let Some(attempts) = self.attempts {
            map.serialize_entry("attempts", &attempts)?;
        }
        map.end()
    }
}

/// Writes the field, if it is known.
fn known(out: &mut fmt::Formatter<'_>, name: &str, value: Option<&str>) -> fmt::Result {
    if value.is_some() { field(out, name, value) } else { Ok(()) }
}

/// Writes the name, given as ` name=`, and the value, quoted when it would not read back as one word. A peer may choose some of the values, so
/// nothing in them may end the line or start another field.
fn field(out: &mut fmt::Formatter<'_>, name: &str, value: Option<&str>) -> fmt::Result {
    out.write_str(name)?;
    match value {
        None => out.write_char('-'),
        Some(value) if is_word(value) => out.write_str(value),
        Some(value) => {
            out.write_char('"')?;
            for part in value.chars() {
                match part {
                    '"' | '\\' => write!(out, "\\{part}")?,
                    part if part.is_control() => write!(out, "{}", part.escape_default())?,
                    part => out.write_char(part)?,
                }
            }
            out.write_char('"')
        }
    }
}

fn is_word(value: &str) -> bool {
    // Nearly all are this.
    if value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=')) {
        return !value.is_empty() && value != "-";
    }
    !value.is_empty()
        && value != "-"
        && !value.chars().any(|part| part.is_whitespace() || part.is_control() || "\"\\=".contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry::new(Direction::Outbound, "10.244.1.2:40000".parse().unwrap(), "[fd96::1]:80".parse().unwrap())
    }

    #[test]
    fn an_entry_is_one_line_of_named_fields() {
        let mut entry = entry();
        entry.source_identity = Some("spiffe://cluster.local/ns/shop/sa/web".into());
        entry.security = Security::MutualTls;
        entry.duration = Duration::from_micros(1500);
        assert_eq!(
            entry.to_string(),
            "access direction=outbound src.addr=10.244.1.2:40000 src.workload=- src.namespace=- \
             src.identity=spiffe://cluster.local/ns/shop/sa/web dst.addr=[fd96::1]:80 dst.workload=- dst.namespace=- \
             dst.service=- dst.identity=- policy=- reason=ok bytes_sent=0 bytes_recv=0 duration_ms=1.500 security=mutual_tls"
        );
    }

    #[test]
    fn a_line_in_json_has_the_same_names_and_reads_back() {
        let mut entry = entry();
        (entry.trace, entry.status, entry.bytes_sent) = (Some(0xabc), Some(200), 7);
        entry.forwarded_client = Some("spiffe://cluster.local/ns/shop/sa/web".into());
        entry.path = Some("/a\"\n".into());
        let read: serde_json::Value = serde_json::from_str(&serde_json::to_string(&entry).unwrap()).unwrap();
        let text = entry.to_string();
        for (name, value) in read.as_object().unwrap() {
            assert!(text.contains(&format!(" {name}=")), "{name} is not in {text}");
            assert!(value.is_string() || value.is_number(), "{name} is {value}");
        }
        assert_eq!((&read["path"], &read["status"], &read["bytes_sent"]), (&"/a\"\n".into(), &200.into(), &7.into()));
        assert_eq!((&read["trace"], read.get("policy")), (&format!("{:032x}", 0xabc).into(), None));
        let client = "src.forwarded_client=spiffe://cluster.local/ns/shop/sa/web";
        let end = format!(r#" trace=00000000000000000000000000000abc {client} path="/a\"\n" status=200"#);
        assert!(text.ends_with(&end), "{text}");
    }

    #[test]
    fn a_value_chosen_by_a_peer_cannot_forge_a_field_or_a_line() {
        let mut entry = entry();
        entry.path = Some("/a\" reason=ok\n".into());
        assert!(entry.to_string().ends_with(r#" path="/a\" reason=ok\n""#), "{entry}");
    }
}
