//! The time of a rule, and those of its tries.

use super::rule::Rule;
use crate::source::FieldError;

/// The warning for a rule whose whole time is over before its tries are. Writes are not tried again for being late, so
/// it is none of theirs, but where a policy says so.
pub(super) fn within(rule: &Rule) -> Option<FieldError> {
    let (retries, request, of_try, sum) = (rule.again()?, rule.request?, rule.of_try?, rule.sum()?);
    if request >= sum {
        return None;
    }
    let reason = format!(
        "{request:?} are over before all tries are: {} of {of_try:?} each, and {:?} at least between them, take {sum:?} when all are \
         late. Make it no less than that, or have `{}` shorter or fewer attempts",
        retries.tries(),
        retries.waits(),
        rule.names.of_try
    );
    Some(FieldError::new(rule.field(rule.names.request), reason))
}
