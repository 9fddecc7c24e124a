//! What a processor changes of a head, as far as its rules allow it.

use ambit_api::envoy::pb::envoy::{config::core::v3::HeaderValueOption, service::ext_proc::v3::HeaderMutation};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};

use crate::{
    compiled::MutationRules,
    http::{
        call::{MOST_CHANGES, is_of_the_connection},
        select::Target,
    },
};

/// What is in the first line of a head, or in pseudo headers.
pub enum Line<'a> {
    /// Of a request, whose method changes only along with its body.
    Request {
        /// Its path, and its host, which stays.
        target: &'a mut Target,
        /// The method, where it may change.
        method: Option<&'a mut Method>,
    },
    /// Of a response.
    Response(&'a mut StatusCode),
    /// Of an answer of the processor's, which says its status elsewhere.
    Nothing,
}

/// Makes the changes. Headers may take `most` bytes together afterwards.
///
/// # Errors
/// With what cannot be done; some of the rest has been then.
pub fn apply(
    mutation: HeaderMutation,
    rules: &MutationRules,
    headers: &mut HeaderMap,
    line: &mut Line<'_>,
    most: usize,
) -> Result<(), String> {
    if mutation.set_headers.len().max(mutation.remove_headers.len()) > MOST_CHANGES {
        return Err(format!("it changes more than {MOST_CHANGES} headers"));
    }
    for name in mutation.remove_headers {
        let name = name.to_ascii_lowercase();
        let parsed = match name.strip_prefix(':').unwrap_or(&name).parse::<HeaderName>() {
            Ok(_) if name.starts_with(':') => None,
            Ok(parsed) => Some(parsed),
            Err(_) => return Err("it removes something that is no header".into()),
        };
        match parsed.filter(|parsed| allows(rules, parsed.as_str())) {
            Some(parsed) => drop(headers.remove(parsed)),
            None => disallowed(rules, &name)?,
        }
    }
    for option in mutation.set_headers {
        set(option, rules, headers, line)?;
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    match bytes > most {
        true => Err(format!("{bytes} bytes of header fields, more than {most}")),
        false => Ok(()),
    }
}

fn set(option: HeaderValueOption, rules: &MutationRules, headers: &mut HeaderMap, line: &mut Line<'_>) -> Result<(), String> {
    // Envoy goes by the older of the two ways to say it, and replaces where that says nothing.
    #[allow(deprecated)]
    let append = option.append.is_some_and(|append| append.value);
    let Some(said) = option.header else { return Ok(()) };
    if !said.value.is_empty() && !said.raw_value.is_empty() {
        return Err(format!("it gives {:?} two values", said.key));
    }
    let name = said.key.to_ascii_lowercase();
    let value = HeaderValue::from_bytes(&said.raw_value).map_err(|_| format!("it gives {name:?} a value that is none"))?;
    if name.starts_with(':') {
        let done = (allows(rules, &name) || (name == ":method" && replaces(line))) && pseudo(&name, &value, line);
        return if done { Ok(()) } else { disallowed(rules, &name) };
    }
    let parsed: HeaderName = name.parse().map_err(|_| "it sets something that is no header".to_owned())?;
    if !allows(rules, &name) {
        return disallowed(rules, &name);
    }
    match append {
        true => {
            headers.append(parsed, value);
        }
        false => {
            headers.insert(parsed, value);
        }
    }
    Ok(())
}

fn disallowed(rules: &MutationRules, name: &str) -> Result<(), String> {
    match rules.disallow_is_error {
        true => Err(format!("it may not change {name:?}")),
        false => Ok(()),
    }
}

/// Whether a header of this name may be changed at all.
fn allows(rules: &MutationRules, name: &str) -> bool {
    let of_the_route = matches!(name, ":authority" | ":method" | ":scheme");
    let of_envoy = name.starts_with("x-envoy") && !rules.allow_envoy;
    let of_the_system = name.starts_with(':') && rules.disallow_system;
    !(rules.disallow_all || of_the_route || of_envoy || of_the_system || is_of_the_connection(name))
}

fn replaces(line: &Line<'_>) -> bool {
    matches!(line, Line::Request { method: Some(_), .. })
}

/// Whether a pseudo header could be given this value.
fn pseudo(name: &str, value: &HeaderValue, line: &mut Line<'_>) -> bool {
    let Ok(text) = value.to_str() else { return false };
    match (name, line) {
        // What follows a `#` would be lost.
        (":path", Line::Request { target, .. }) if text.starts_with('/') && !text.contains('#') => {
            let good = PathAndQuery::try_from(text).is_ok();
            if good {
                target.path_and_query = text.to_owned();
            }
            good
        }
        (":method", Line::Request { method: Some(method), .. }) => match text.parse::<Method>() {
            Ok(parsed) if parsed != Method::CONNECT => {
                **method = parsed;
                true
            }
            _ => false,
        },
        (":status", Line::Response(status)) => match text.parse::<StatusCode>() {
            Ok(parsed) if parsed.as_u16() >= 200 => {
                **status = parsed;
                true
            }
            _ => false,
        },
        _ => false,
    }
}
