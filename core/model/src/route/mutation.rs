//! Header modification.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Serialize, Serializer};

use super::RequestView;

/// What happens when the header is already there (`HeaderValueOption.HeaderAppendAction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendAction {
    /// One more value is added.
    AppendOrAdd,
    /// Nothing; added only when it is not there.
    AddIfAbsent,
    /// The values there are replaced.
    OverwriteOrAdd,
    /// The values there are replaced; nothing when there are none.
    OverwriteIfExists,
}

/// A piece of a header value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplatePart {
    /// Text as it stands.
    Literal(String),
    /// The client's SPIFFE id (`%DOWNSTREAM_PEER_URI_SAN%`).
    PeerUri,
    /// A request header (`%REQ(name)%`).
    RequestHeader(String),
}

/// A header value with placeholders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeaderValueTemplate(pub Vec<TemplatePart>);

impl HeaderValueTemplate {
    /// Parses Envoy's format text. `%%` is a percent sign.
    ///
    /// # Errors
    /// With the placeholder that is not implemented, or the text when it is malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            let (command, tail) = after.split_once('%').ok_or_else(|| format!("{text:?} has an unfinished %"))?;
            rest = tail;
            if command.is_empty() {
                literal.push('%');
                continue;
            }
            if !literal.is_empty() {
                parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
            }
            let header = command.strip_prefix("REQ(").and_then(|c| c.strip_suffix(')'));
            parts.push(match (command, header) {
                ("DOWNSTREAM_PEER_URI_SAN", _) => TemplatePart::PeerUri,
                (_, Some(name)) if !name.contains('?') => TemplatePart::RequestHeader(name.to_ascii_lowercase()),
                _ => return Err(format!("%{command}% is not implemented")),
            });
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            literal.shrink_to_fit();
            parts.push(TemplatePart::Literal(literal));
        }
        // Most are of one part.
        parts.shrink_to_fit();
        Ok(Self(parts))
    }

    fn render(&self, request: &RequestView<'_>, peer: Option<&str>) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                TemplatePart::Literal(text) => out.push_str(text),
                TemplatePart::PeerUri => out.push_str(peer.unwrap_or_default()),
                TemplatePart::RequestHeader(name) => out.push_str(&request.header(name).unwrap_or_default()),
            }
        }
        out
    }
}

/// One header to set.
#[derive(Debug, Clone, Serialize)]
pub struct HeaderOption {
    /// The header.
    #[serde(serialize_with = "name")]
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValueTemplate,
    /// What happens when it is there.
    pub action: AppendAction,
    /// A value that comes out empty is set all the same.
    pub keep_empty: bool,
}

fn name<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

fn names<S: Serializer>(names: &[HeaderName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(HeaderName::as_str))
}

/// Changes to a set of headers: removals first, then additions (the order Envoy applies them in).
#[derive(Debug, Clone, Default, Serialize)]
pub struct HeaderMutations {
    /// Headers to remove.
    #[serde(serialize_with = "names")]
    pub remove: Vec<HeaderName>,
    /// Headers to set.
    pub set: Vec<HeaderOption>,
}

impl HeaderMutations {
    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// Applies the changes. `request` and `peer` (the client's SPIFFE id) fill placeholders.
    /// A value that is not a legal header value after filling is left out.
    pub fn apply(&self, headers: &mut HeaderMap, request: &RequestView<'_>, peer: Option<&str>) {
        for name in &self.remove {
            headers.remove(name);
        }
        for option in &self.set {
            let text = option.value.render(request, peer);
            if text.is_empty() && !option.keep_empty {
                continue;
            }
            let Ok(value) = HeaderValue::from_str(&text) else { continue };
            let there = headers.contains_key(&option.name);
            match option.action {
                AppendAction::AppendOrAdd => {
                    headers.append(option.name.clone(), value);
                }
                AppendAction::AddIfAbsent if there => {}
                AppendAction::OverwriteIfExists if !there => {}
                AppendAction::AddIfAbsent | AppendAction::OverwriteOrAdd | AppendAction::OverwriteIfExists => {
                    headers.insert(option.name.clone(), value);
                }
            }
        }
    }
}
