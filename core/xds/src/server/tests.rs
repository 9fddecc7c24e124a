mod cache;
mod connection;
mod delta;
mod seen;
mod sotw;
mod wire;

use super::Change;
use crate::Any;

/// A resource of any type whose content is `text`.
fn change(name: &str, text: &str) -> Change {
    aliased(name, &[], text)
}

fn aliased(name: &str, aliases: &[&str], text: &str) -> Change {
    let body = Any { type_url: "type/any".to_owned(), value: text.as_bytes().to_vec() };
    Change::upsert(name, aliases.iter().map(|alias| (*alias).to_owned()).collect(), body)
}
