//! `?mask=` of `/config_dump`: some fields of what would be shown, by the paths of a `google.protobuf.FieldMask`. As in Envoy a path goes on in
//! what is in an envelope.

use ambit_api::envoy::pb::google::protobuf::Any;
use ambit_runtime::admin::{Query, Reply, decoded};
use http::StatusCode;
use prost::Message;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value};

use super::envoy::{ENVELOPE, Envoy};

/// The most fields of a path, each in the one before.
const DEEPEST: usize = 32;

/// The fields that are asked for, by the names of their paths.
pub struct Mask(Vec<Vec<String>>);

impl Mask {
    /// Reads the parameter; as in Envoy an empty one is none.
    pub fn of(query: &Query) -> Result<Option<Self>, Reply> {
        let Some(text) = query.get("mask") else { return Ok(None) };
        let text = decoded(text).ok_or_else(|| refused("it is not percent-encoded text"))?;
        let paths = text.split(',').filter(|path| !path.is_empty());
        let paths: Vec<Vec<String>> = paths.map(|path| path.split('.').map(str::to_owned).collect()).collect();
        if paths.iter().any(|path| path.len() > DEEPEST) {
            return Err(refused(&format!("a path has more than {DEEPEST} fields")));
        }
        Ok(Some(Self(paths)).filter(|mask| !mask.0.is_empty()))
    }

    /// Of each resource the fields that are asked for.
    pub fn of_each(&self, envoy: &Envoy, resources: Vec<Any>) -> Result<Vec<Any>, Reply> {
        let trimmed: Result<Vec<Any>, String> = resources.iter().map(|resource| self.trimmed(envoy, resource)).collect();
        trimmed.map_err(|why| refused(&why))
    }

    /// The same of the sections that have them all, and nothing of the others.
    pub fn of_some(&self, envoy: &Envoy, sections: Vec<Any>) -> Result<Vec<Any>, Reply> {
        let (mut kept, mut reasons) = (Vec::new(), Vec::new());
        for section in &sections {
            match self.trimmed(envoy, section) {
                Ok(trimmed) => kept.push(trimmed),
                Err(why) => reasons.push(why),
            }
        }
        if kept.is_empty() {
            return Err(refused(&format!("it fits no section: {}", reasons.join("; "))));
        }
        Ok(kept)
    }

    fn trimmed(&self, envoy: &Envoy, config: &Any) -> Result<Any, String> {
        let paths: Vec<&[String]> = self.0.iter().map(Vec::as_slice).collect();
        in_envelope(envoy, config, &paths)
    }
}

fn refused(why: &str) -> Reply {
    Reply::text(format!("mask: {why}\n")).status(StatusCode::BAD_REQUEST)
}

fn in_envelope(envoy: &Envoy, envelope: &Any, paths: &[&[String]]) -> Result<Any, String> {
    let mut message = envoy.opened(envelope)?;
    trim(envoy, &mut message, paths)?;
    Ok(Any { type_url: envelope.type_url.clone(), value: message.encode_to_vec() })
}

/// Takes out what none of these paths leads to.
fn trim(envoy: &Envoy, message: &mut DynamicMessage, paths: &[&[String]]) -> Result<(), String> {
    let description = message.descriptor();
    paths.iter().try_for_each(|path| check(&description, path))?;
    for field in description.fields() {
        let below = |path: &&[String]| path.split_first().is_some_and(|(first, _)| first == field.name());
        let below: Vec<&[String]> = paths.iter().copied().filter(below).filter_map(|path| path.get(1..)).collect();
        if below.is_empty() {
            message.clear_field(&field);
            continue;
        }
        let all_of_it = below.iter().any(|path| path.is_empty());
        if all_of_it || !message.has_field(&field) {
            continue;
        }
        let Value::Message(inner) = message.get_field_mut(&field) else { continue };
        if inner.descriptor().full_name() != ENVELOPE {
            trim(envoy, inner, &below)?;
            continue;
        }
        let envelope = inner.transcode_to::<Any>().map_err(|error| error.to_string())?;
        let trimmed = in_envelope(envoy, &envelope, &below)?;
        // What is read into a message is added to it.
        inner.clear();
        inner.transcode_from(&trimmed).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// That a path leads to a field, as far as that is known without what is in envelopes.
fn check(description: &MessageDescriptor, path: &[String]) -> Result<(), String> {
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    let Some(field) = description.get_field_by_name(name) else {
        return Err(format!("{} has no field {name:?}", description.full_name()));
    };
    if rest.is_empty() {
        return Ok(());
    }
    if field.is_list() || field.is_map() {
        return Err(format!("{name} of {} is repeated, and nothing in it can be named", description.full_name()));
    }
    match field.kind() {
        Kind::Message(inner) if inner.full_name() == ENVELOPE => Ok(()),
        Kind::Message(inner) => check(&inner, rest),
        _ => Err(format!("{name} of {} has no fields", description.full_name())),
    }
}
