//! What policies that are not enforced would have decided, counted.

use ::metrics::{Label, SharedString, counter};

use super::{SeriesLimit, label, metric};

/// Counts that `policy` would have decided with `reason`, as `reporter` has found.
pub fn count_dry_run(reporter: &'static str, reason: &'static str, policy: String, limit: &SeriesLimit) {
    let labels = vec![
        Label::from_static_parts(label::REPORTER, reporter),
        Label::from_static_parts(label::REASON, reason),
        Label::new(SharedString::const_str(label::POLICY), SharedString::from_owned(policy)),
    ];
    let (admitted, _used) = limit.admit(labels);
    counter!(metric::POLICY_DRY_RUN, admitted.labels()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics_handle;

    #[test]
    fn each_policy_in_dry_run_is_counted_for_itself_until_there_are_too_many() {
        let metrics = metrics_handle().unwrap();
        let limit = SeriesLimit::new(2, SeriesLimit::IDLE);
        for (reason, policy) in [("ok", "shop/a"), ("ok", "shop/b"), ("ok", "shop/a"), ("policy_denied_explicit", "shop/c")] {
            count_dry_run("waypoint", reason, policy.to_owned(), &limit);
        }
        let text = metrics.render();
        for (reason, policy, times) in [("ok", "shop/a", 2), ("ok", "shop/b", 1), ("policy_denied_explicit", "other", 1)] {
            let labels = format!(r#"reporter="waypoint",reason="{reason}",policy="{policy}""#);
            let line = format!("ambit_policy_dry_run_total{{{labels}}} {times}");
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
    }
}
