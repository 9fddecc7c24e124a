//! Lengths of time in the form of Istio's resources, which is Go's: `250ms`, `1.5s`, `1h30m`.

use std::time::Duration;

/// Reads one; there is no sign, and every number has its unit.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, None);
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        let unit = rest.get(digits..)?;
        let (seconds, length) = match unit {
            _ if unit.starts_with("ns") => (1e-9, 2),
            _ if unit.starts_with("us") => (1e-6, 2),
            _ if unit.starts_with("ms") => (1e-3, 2),
            _ if unit.starts_with('h') => (3600.0, 1),
            _ if unit.starts_with('m') => (60.0, 1),
            _ if unit.starts_with('s') => (1.0, 1),
            _ => return None,
        };
        let one = Duration::try_from_secs_f64(number * seconds).ok()?;
        total = Some(total.unwrap_or(Duration::ZERO).checked_add(one)?);
        rest = unit.get(length..)?;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, microseconds) in
            [("0s", 0), ("30ms", 30_000), ("1.5s", 1_500_000), (".5s", 500_000), ("1h1m1s", 3_661_000_000), ("250us", 250)]
        {
            assert_eq!(parse(text), Some(Duration::from_micros(microseconds)), "{text}");
        }
        for text in ["", "1", "s", ".s", "1d", "-1s", "1.5.1s", "9e9h", "99999999999999999999h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
