//! How long bodies of requests may be (`envoy.extensions.filters.http.buffer.v3`). Envoy collects a body to know; here it passes on as it comes.

use ambit_api::envoy::pb::{
    envoy::extensions::filters::http::buffer::v3::{Buffer, BufferPerRoute, buffer_per_route::Override},
    google::protobuf::Any,
};
use ambit_model::route::SizeLimits;

use super::read::{Compiled, Problem, Under, finish, number, required, unpack};

/// The name that the filter, and what a route says for it, must have.
pub const NAME: &str = "envoy.filters.http.buffer";
/// The filter's type.
pub const FILTER: &str = "envoy.extensions.filters.http.buffer.v3.Buffer";
const PER_ROUTE: &str = "envoy.extensions.filters.http.buffer.v3.BufferPerRoute";

/// The longest body that the filter lets pass where routes say nothing: any, where it is `off`.
pub fn filter(any: &Any, off: bool) -> Compiled<u64> {
    let longest = longest(unpack(any, FILTER)?)?;
    Ok(if off { SizeLimits::UNBOUNDED } else { longest })
}

/// The longest body that a route, or a virtual host, lets pass.
pub fn per_route(any: &Any) -> Compiled<u64> {
    let mut said: BufferPerRoute = unpack(any, PER_ROUTE)?;
    match required(said.r#override.take(), "override")? {
        Override::Disabled(true) => Ok(SizeLimits::UNBOUNDED),
        // Envoy takes no other value.
        Override::Disabled(false) => Err(Problem::new("disabled is false")),
        Override::Buffer(buffer) => longest(buffer).under("buffer"),
    }
}

fn longest(mut buffer: Buffer) -> Compiled<u64> {
    let longest = required(number(buffer.max_request_bytes.take()), "max_request_bytes")?;
    finish(&buffer)?;
    match longest {
        0 => Err(Problem::new("max_request_bytes is 0")),
        longest => Ok(longest.into()),
    }
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::google::protobuf::UInt32Value;
    use prost::Message;

    use super::*;

    fn of(type_name: &str, message: &impl Message) -> Any {
        Any { type_url: format!("type.googleapis.com/{type_name}"), value: message.encode_to_vec() }
    }

    fn bytes(most: Option<u32>) -> Buffer {
        Buffer { max_request_bytes: most.map(|value| UInt32Value { value }) }
    }

    #[test]
    fn a_filter_that_is_off_bounds_nothing_and_a_route_says_how_much() {
        let own = |most, off| filter(&of(FILTER, &bytes(most)), off).map_err(|problem| problem.to_string());
        assert_eq!(own(Some(7), false), Ok(7));
        assert_eq!(own(Some(7), true), Ok(SizeLimits::UNBOUNDED));
        assert_eq!(own(Some(0), true), Err("max_request_bytes is 0".to_owned()));
        assert_eq!(own(None, false), Err("max_request_bytes is missing".to_owned()));
        let routes =
            |said| per_route(&of(PER_ROUTE, &BufferPerRoute { r#override: said })).map_err(|problem| problem.to_string());
        assert_eq!(routes(Some(Override::Buffer(bytes(Some(9))))), Ok(9));
        assert_eq!(routes(Some(Override::Disabled(true))), Ok(SizeLimits::UNBOUNDED));
        assert_eq!(routes(Some(Override::Disabled(false))), Err("disabled is false".to_owned()));
        assert_eq!(routes(Some(Override::Buffer(bytes(None)))), Err("buffer: max_request_bytes is missing".to_owned()));
        assert_eq!(routes(None), Err("override is missing".to_owned()));
    }
}
