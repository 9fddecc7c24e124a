//! `xds.type.matcher.v3.IPMatcher`, which the generated Envoy types leave out.

use envoy_types::pb::xds::{core::v3::CidrRange, r#type::matcher::v3::matcher::OnMatch};

/// The type URL of [`IpMatcher`].
pub const TYPE_URL: &str = "type.googleapis.com/xds.type.matcher.v3.IPMatcher";

/// Matches an address against ranges; the most specific range wins.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpMatcher {
    /// The ranges with what each leads to.
    #[prost(message, repeated, tag = "1")]
    pub range_matchers: Vec<IpRangeMatcher>,
}

/// `xds.type.matcher.v3.IPMatcher.IPRangeMatcher`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpRangeMatcher {
    /// An address in one of these matches.
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<CidrRange>,
    /// Where it leads.
    #[prost(message, optional, tag = "2")]
    pub on_match: Option<OnMatch>,
    /// A less specific range is not tried when this one leads nowhere.
    #[prost(bool, tag = "3")]
    pub exclusive: bool,
}
