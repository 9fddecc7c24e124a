//! What a change makes worse, of all that is wrong with an object after it. Pure.
//!
//! An object may have been stored before anybody looked, or by rules of another version; whoever changes something else of it, moves
//! its rules or mends a part of it is not asked to mend the rest first.

use std::collections::HashMap;

use crate::source::FieldError;

/// Divides what is wrong into what was not so before, and what was. A problem is the same wherever in a list its item stands, as often
/// as it was there; and of what is too much there may be less, or as much.
pub(super) fn newly(errors: Vec<FieldError>, before: &[FieldError]) -> (Vec<FieldError>, Vec<FieldError>) {
    let (mut left, mut most) = (HashMap::<String, usize>::new(), HashMap::<&str, usize>::new());
    for error in before {
        *left.entry(anywhere(error)).or_default() += 1;
        if let Some(count) = too_many(error) {
            most.insert(&error.path, count);
        }
    }
    errors.into_iter().partition(|error| match left.get_mut(&anywhere(error)) {
        Some(times) if *times > 0 => {
            *times -= 1;
            false
        }
        _ => {
            let had = most.get(error.path.as_str());
            too_many(error).is_none_or(|count| had.is_none_or(|had| count >= *had))
        }
    })
}

/// Path and reason, without the positions in lists.
fn anywhere(FieldError { path, reason, .. }: &FieldError) -> String {
    let mut inside = false;
    let mut without = String::with_capacity(path.len() + 1 + reason.len());
    for character in path.chars() {
        match character {
            '[' => inside = true,
            ']' => inside = false,
            digit if inside && digit.is_ascii_digit() => continue,
            _ => {}
        }
        without.push(character);
    }
    without + "\n" + reason
}

/// How many there are of what there may not be so many of.
fn too_many(FieldError { reason, .. }: &FieldError) -> Option<usize> {
    let counted = [" are more than ", "exactly one rule, not "].iter().any(|part| reason.contains(part));
    let mut numbers = reason.split(|character: char| !character.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
    if counted { numbers.next() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: &[(&str, &str)], after: &[(&str, &str)], new: &[(&str, &str)]) {
        let errors = |of: &[(&str, &str)]| of.iter().map(|(path, reason)| FieldError::new(*path, *reason)).collect::<Vec<_>>();
        let (found, old) = newly(errors(after), &errors(before));
        assert_eq!(found, errors(new), "old: {old:?}");
        assert_eq!(found.len() + old.len(), after.len());
    }

    #[test]
    fn what_moves_in_a_list_is_not_new_and_what_comes_once_more_is() {
        let (first, second) = (("spec.rules[0].a[12]", "bad"), ("spec.rules[1].a[0]", "bad"));
        check(&[first], &[second], &[]);
        check(&[first], &[first, second], &[second]);
        check(&[first, second], &[second], &[]);
        check(&[first], &[("spec.rules[0].a[12]", "worse")], &[("spec.rules[0].a[12]", "worse")]);
        check(&[first], &[("spec.rules[0].b[12]", "bad")], &[("spec.rules[0].b[12]", "bad")]);
        // Keys of mappings are no positions.
        check(&[("spec.ports.80", "bad")], &[("spec.ports.81", "bad")], &[("spec.ports.81", "bad")]);
    }

    #[test]
    fn of_what_is_too_much_there_may_be_less_and_not_more() {
        let hosts = |count: &'static str| ("spec.hosts", count);
        let (some, more) = (hosts("300 are more than 256"), hosts("301 are more than 256"));
        check(&[more], &[some], &[]);
        check(&[some], &[some], &[]);
        check(&[some], &[more], &[more]);
        let ports = ("spec.port", "70000 is not a port (1 to 65535)");
        check(&[ports], &[("spec.port", "0 is not a port (1 to 65535)")], &[("spec.port", "0 is not a port (1 to 65535)")]);
    }
}
