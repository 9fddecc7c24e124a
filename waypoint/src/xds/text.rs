//! Tests on texts, headers, query parameters and paths; header modification.

use std::mem::take;

use ambit_api::envoy::pb::envoy::{
    config::{
        core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
        route::v3::{
            HeaderMatcher, QueryParameterMatcher, header_matcher::HeaderMatchSpecifier,
            query_parameter_matcher::QueryParameterMatchSpecifier,
        },
    },
    r#type::matcher::v3::{
        FilterStateMatcher, MetadataMatcher, PathMatcher, RegexMatchAndSubstitute, RegexMatcher, StringMatcher, ValueMatcher,
        filter_state_matcher, list_matcher, metadata_matcher::path_segment::Segment, path_matcher, string_matcher::MatchPattern,
        value_matcher,
    },
};
use ambit_model::{
    jwt,
    route::{
        AppendAction, HeaderMatch, HeaderMutations, HeaderOption, HeaderTest, HeaderValueTemplate, MetadataMatch, PathMatch,
        PathTest, Pattern, QueryMatch, QueryTest, StringMatch, StringTest, ValueMatch,
    },
};

use super::read::{Compiled, Problem, Under, boolean, finish, required};

/// The connection fact that carries the client's SPIFFE id.
pub const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// An expression.
pub fn pattern(matcher: &RegexMatcher) -> Compiled<Pattern> {
    Pattern::new(&matcher.regex).map_err(|error| Problem::new(format!("{:?} is not an expression: {error}", matcher.regex)))
}

/// An expression with what replaces its matches.
pub fn substitution(rewrite: RegexMatchAndSubstitute) -> Compiled<(Pattern, String)> {
    Ok((pattern(&required(rewrite.pattern, "pattern")?)?, rewrite.substitution))
}

/// A test on a text.
pub fn string(matcher: StringMatcher) -> Compiled<StringMatch> {
    let test = match required(matcher.match_pattern, "match_pattern")? {
        MatchPattern::Exact(text) => StringTest::Exact(text),
        MatchPattern::Prefix(text) => StringTest::Prefix(text),
        MatchPattern::Suffix(text) => StringTest::Suffix(text),
        MatchPattern::Contains(text) => StringTest::Contains(text),
        MatchPattern::SafeRegex(regex) => StringTest::Regex(pattern(&regex)?),
        MatchPattern::Custom(_) => return Err(Problem::new("custom is not implemented")),
    };
    Ok(StringMatch::new(test, matcher.ignore_case))
}

/// A test on a header.
pub fn header(mut matcher: HeaderMatcher) -> Compiled<HeaderMatch> {
    let name = take(&mut matcher.name).to_ascii_lowercase();
    if name.is_empty() {
        return Err(Problem::new("name is empty"));
    }
    let plain = |test| HeaderTest::Value(StringMatch::new(test, false));
    #[allow(deprecated)]
    let test = match matcher.header_match_specifier.take() {
        None => HeaderTest::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => HeaderTest::Present(present),
        Some(HeaderMatchSpecifier::StringMatch(test)) => HeaderTest::Value(string(test).under("string_match")?),
        Some(HeaderMatchSpecifier::ExactMatch(text)) => plain(StringTest::Exact(text)),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => plain(StringTest::Prefix(text)),
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => plain(StringTest::Suffix(text)),
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => plain(StringTest::Contains(text)),
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => plain(StringTest::Regex(pattern(&regex)?)),
        Some(HeaderMatchSpecifier::RangeMatch(range)) => HeaderTest::Range(range.start, range.end),
    };
    let (invert, missing_is_empty) = (take(&mut matcher.invert_match), take(&mut matcher.treat_missing_header_as_empty));
    finish(&matcher)?;
    Ok(HeaderMatch { name, test, invert, missing_is_empty })
}

/// A test on a query parameter.
pub fn query(matcher: QueryParameterMatcher) -> Compiled<QueryMatch> {
    let test = match matcher.query_parameter_match_specifier {
        None => QueryTest::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => QueryTest::Present(present),
        Some(QueryParameterMatchSpecifier::StringMatch(test)) => QueryTest::Value(string(test).under("string_match")?),
    };
    Ok(QueryMatch { name: matcher.name, test })
}

/// A test on the path by text.
pub fn path(matcher: PathMatcher) -> Compiled<PathMatch> {
    let path_matcher::Rule::Path(test) = required(matcher.rule, "path")?;
    Ok(PathMatch { test: PathTest::Text(Box::new(string(test).under("path")?)), case_sensitive: true })
}

/// A test on the client's identity, the one connection fact that is known.
pub fn peer(matcher: FilterStateMatcher) -> Compiled<StringMatch> {
    if matcher.key != PEER_PRINCIPAL {
        return Err(Problem::new(format!("filter state {:?} is not implemented", matcher.key)));
    }
    match required(matcher.matcher, "matcher")? {
        filter_state_matcher::Matcher::StringMatch(test) => string(test).under("string_match"),
        filter_state_matcher::Matcher::AddressMatch(_) => Err(Problem::new("address_match is not implemented")),
    }
}

/// A test on what a token says, the one thing that filters find out.
pub fn metadata(matcher: MetadataMatcher) -> Compiled<MetadataMatch> {
    if matcher.filter != jwt::METADATA {
        return Err(Problem::new(format!("filter {:?} is not implemented", matcher.filter)));
    }
    let key = |segment: Option<Segment>| required(segment, "key").map(|Segment::Key(key)| key);
    let path = matcher.path.into_iter().map(|part| key(part.segment)).collect::<Compiled<Vec<_>>>().under("path")?;
    let value = value(required(matcher.value, "value")?).under("value")?;
    Ok(MetadataMatch { path, value, invert: matcher.invert })
}

fn value(matcher: ValueMatcher) -> Compiled<ValueMatch> {
    use value_matcher::MatchPattern as Test;
    Ok(match required(matcher.match_pattern, "match_pattern")? {
        Test::StringMatch(test) => ValueMatch::Text(string(test).under("string_match")?),
        Test::ListMatch(list) => {
            let list_matcher::MatchPattern::OneOf(test) = required(list.match_pattern, "one_of").under("list_match")?;
            ValueMatch::OneOf(Box::new(value(*test).under("list_match")?))
        }
        Test::OrMatch(several) => {
            let tests = several.value_matchers.into_iter().map(value).collect::<Compiled<Vec<_>>>();
            ValueMatch::Any(tests.under("or_match")?)
        }
        Test::NullMatch(_) => return Err(Problem::new("null_match is not implemented")),
        Test::DoubleMatch(_) => return Err(Problem::new("double_match is not implemented")),
        Test::BoolMatch(_) => return Err(Problem::new("bool_match is not implemented")),
        Test::PresentMatch(_) => return Err(Problem::new("present_match is not implemented")),
    })
}

fn header_option(mut option: HeaderValueOption) -> Compiled<HeaderOption> {
    let mut header = required(option.header.take(), "header")?;
    let key = take(&mut header.key);
    let value = take(&mut header.value);
    finish(&header)?;
    let name = key.parse().map_err(|_| Problem::new(format!("{key:?} is not a header that can be changed")))?;
    #[allow(deprecated)]
    let append = option.append.take();
    let mut action = match HeaderAppendAction::try_from(take(&mut option.append_action)) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) => AppendAction::AppendOrAdd,
        Ok(HeaderAppendAction::AddIfAbsent) => AppendAction::AddIfAbsent,
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => AppendAction::OverwriteOrAdd,
        Ok(HeaderAppendAction::OverwriteIfExists) => AppendAction::OverwriteIfExists,
        Err(_) => return Err(Problem::new("append_action is not implemented")),
    };
    if action == AppendAction::AppendOrAdd && !boolean(append, true) {
        action = AppendAction::OverwriteOrAdd;
    }
    let keep_empty = take(&mut option.keep_empty_value);
    finish(&option)?;
    Ok(HeaderOption { name, value: HeaderValueTemplate::parse(&value).map_err(Problem::new).under(&key)?, action, keep_empty })
}

/// Headers to add and to remove.
pub fn mutations(add: Vec<HeaderValueOption>, remove: Vec<String>) -> Compiled<HeaderMutations> {
    let mut remove = remove
        .into_iter()
        .map(|name| name.parse().map_err(|_| Problem::new(format!("{name:?} is not a header that can be removed"))))
        .collect::<Compiled<Vec<_>>>()?;
    let mut set = add.into_iter().map(header_option).collect::<Compiled<Vec<_>>>()?;
    // They may have the room that the messages had, which are larger.
    remove.shrink_to_fit();
    set.shrink_to_fit();
    Ok(HeaderMutations { remove, set })
}
