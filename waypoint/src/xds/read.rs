//! Reading messages so that nothing in them is passed over.
//!
//! A compiler takes (`std::mem::take`) each field that it understands out of a message and ends with [`finish`], which names the
//! first field still set. So a field we do not implement rejects its resource, also one that this code has never heard of; but one that the
//! generated messages do not have is gone before anything is looked at. What is cleared without being looked at is listed, each with its reason,
//! in docs/envoy.md, "What is not looked at".

use std::fmt;

use ambit_api::envoy::pb::google::protobuf::{Any, BoolValue, Duration as ProtoDuration, UInt32Value};
use prost::Message;

/// Why a resource was not taken: where in it, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    at: String,
    what: String,
}

impl Problem {
    /// A problem at this very place.
    pub fn new(what: impl Into<String>) -> Self {
        Self { at: String::new(), what: what.into() }
    }

    /// The same problem seen from one level further out.
    #[must_use]
    pub fn under(mut self, place: impl fmt::Display) -> Self {
        self.at = match self.at.is_empty() {
            true => place.to_string(),
            false => format!("{place}.{}", self.at),
        };
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "{}: {}", self.at, self.what),
        }
    }
}

impl std::error::Error for Problem {}

/// The result of compiling a part.
pub type Compiled<T> = Result<T, Problem>;

/// Adds the place to a problem.
pub trait Under<T> {
    /// Adds the place to a problem.
    fn under(self, place: impl fmt::Display) -> Compiled<T>;
}

impl<T> Under<T> for Compiled<T> {
    fn under(self, place: impl fmt::Display) -> Self {
        self.map_err(|problem| problem.under(place))
    }
}

/// Refuses a message in which a field is still set.
pub fn finish<M: Message + Default + PartialEq + fmt::Debug>(rest: &M) -> Compiled<()> {
    let empty = M::default();
    if *rest == empty {
        return Ok(());
    }
    let (set, unset) = (format!("{rest:#?}"), format!("{empty:#?}"));
    let differing = set.lines().zip(unset.lines()).find(|(a, b)| a != b).map_or("a field", |(a, _)| a);
    let name = differing.trim().split(':').next().unwrap_or_default();
    Err(Problem::new(format!("{name} is not implemented")))
}

/// Decodes a message of exactly this type.
pub fn unpack<M: Message + Default>(any: &Any, type_name: &str) -> Compiled<M> {
    if type_of(any) != type_name {
        return Err(Problem::new(format!("{} where {type_name} is expected", type_of(any))));
    }
    M::decode(any.value.as_slice()).map_err(|error| Problem::new(format!("{type_name} cannot be decoded: {error}")))
}

/// The type's name without the host it is qualified with.
pub fn type_of(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// A part that must be there.
pub fn required<T>(value: Option<T>, name: &str) -> Compiled<T> {
    value.ok_or_else(|| Problem::new(format!("{name} is missing")))
}

/// A wrapped boolean with its default.
pub fn boolean(value: Option<BoolValue>, default: bool) -> bool {
    value.map_or(default, |v| v.value)
}

/// A wrapped number.
pub fn number(value: Option<UInt32Value>) -> Option<u32> {
    value.map(|v| v.value)
}

/// A length of time.
pub fn duration(value: ProtoDuration) -> Compiled<std::time::Duration> {
    let seconds = u64::try_from(value.seconds).map_err(|_| Problem::new("a negative length of time"))?;
    let nanos = u32::try_from(value.nanos).map_err(|_| Problem::new("a negative length of time"))?;
    Ok(std::time::Duration::new(seconds, nanos))
}

/// A port.
pub fn port(value: u32) -> Compiled<u16> {
    u16::try_from(value).map_err(|_| Problem::new(format!("{value} is not a port")))
}
