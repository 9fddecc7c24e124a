//! A three-valued algebra of conditions: what is certain beforehand is folded away.

use ambit_api::envoy::pb::envoy::config::rbac::v3::{permission, principal};
use ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

/// Whether matching lets through or refuses, which decides what an unknown condition means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// An unknown condition does not hold.
    Allow,
    /// An unknown condition holds.
    Deny,
}

impl Effect {
    /// The value of a condition that cannot be expressed, negated or not.
    pub fn unknown<T>(self) -> Term<T> {
        match self {
            Self::Allow => Term::Never,
            Self::Deny => Term::Always,
        }
    }
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Term<T> {
    /// Holds for everything.
    Always,
    /// Holds for nothing.
    Never,
    /// Has to be evaluated.
    Is(T),
}

/// Conditions that Envoy can combine.
pub trait Combine: Sized {
    /// All hold; at least two are given.
    fn and(all: Vec<Self>) -> Self;
    /// Any holds; at least two are given.
    fn or(any: Vec<Self>) -> Self;
    /// Does not hold.
    fn not(self) -> Self;
}

/// Any of them; none given holds for nothing.
pub fn any_of<T: Combine>(terms: impl IntoIterator<Item = Term<T>>) -> Term<T> {
    let mut open = Vec::new();
    for term in terms {
        match term {
            Term::Always => return Term::Always,
            Term::Never => {}
            Term::Is(condition) => open.push(condition),
        }
    }
    match (open.len(), open.pop()) {
        (_, None) => Term::Never,
        (1, Some(only)) => Term::Is(only),
        (_, Some(last)) => {
            open.push(last);
            Term::Is(T::or(open))
        }
    }
}

/// All of them; none given holds for everything.
pub fn all_of<T: Combine>(terms: impl IntoIterator<Item = Term<T>>) -> Term<T> {
    let mut open = Vec::new();
    for term in terms {
        match term {
            Term::Never => return Term::Never,
            Term::Always => {}
            Term::Is(condition) => open.push(condition),
        }
    }
    match (open.len(), open.pop()) {
        (_, None) => Term::Always,
        (1, Some(only)) => Term::Is(only),
        (_, Some(last)) => {
            open.push(last);
            Term::Is(T::and(open))
        }
    }
}

/// The opposite.
pub fn negate<T: Combine>(term: Term<T>) -> Term<T> {
    match term {
        Term::Always => Term::Never,
        Term::Never => Term::Always,
        Term::Is(condition) => Term::Is(condition.not()),
    }
}

/// A field and its `not` twin: any of `values` (when there are some) and none of `not_values`. `compile` gives `None`
/// for a value that cannot be expressed.
pub fn field<T: Combine>(
    effect: Effect,
    values: &[String],
    not_values: &[String],
    compile: impl Fn(&str) -> Option<Term<T>>,
) -> Term<T> {
    let compile = &compile;
    let wanted = if values.is_empty() {
        Term::Always
    } else {
        any_of(values.iter().map(|value| compile(value).unwrap_or_else(|| effect.unknown())))
    };
    let unwanted = not_values.iter().map(|value| compile(value).map_or_else(|| effect.unknown(), negate));
    all_of([wanted, all_of(unwanted)])
}

/// `exact`, `prefix*`, `*suffix` or `*` (present, and not empty), as AuthorizationPolicy writes values. Other stars are
/// taken as they are.
pub fn pattern(value: &str) -> Option<MatchPattern> {
    if value == "*" {
        return None;
    }
    Some(match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(suffix), _) => MatchPattern::Suffix(suffix.into()),
        (None, Some(prefix)) => MatchPattern::Prefix(prefix.into()),
        (None, None) => MatchPattern::Exact(value.into()),
    })
}

impl Combine for principal::Identifier {
    fn and(all: Vec<Self>) -> Self {
        Self::AndIds(principal::Set { ids: all.into_iter().map(super::principal::boxed).collect() })
    }

    fn or(any: Vec<Self>) -> Self {
        Self::OrIds(principal::Set { ids: any.into_iter().map(super::principal::boxed).collect() })
    }

    fn not(self) -> Self {
        Self::NotId(Box::new(super::principal::boxed(self)))
    }
}

impl Combine for permission::Rule {
    fn and(all: Vec<Self>) -> Self {
        Self::AndRules(permission::Set { rules: all.into_iter().map(super::permission::boxed).collect() })
    }

    fn or(any: Vec<Self>) -> Self {
        Self::OrRules(permission::Set { rules: any.into_iter().map(super::permission::boxed).collect() })
    }

    fn not(self) -> Self {
        Self::NotRule(Box::new(super::permission::boxed(self)))
    }
}
