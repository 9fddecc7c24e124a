//! How long who has sent a request waits for its answer, as it says itself.

use std::time::Duration;

use http::HeaderMap;

/// The header of gRPC calls: at most eight digits and a unit ("Requests" of gRPC over HTTP/2).
pub const CALL: &str = "grpc-timeout";
/// The header in which an Envoy says it of any request, in milliseconds.
pub const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

/// What eight digits say.
const MOST: u64 = 99_999_999;

/// How long the client of a gRPC call waits; `None` where nothing is said that a call can say. It may be no time at all.
#[must_use]
pub fn of_call(headers: &HeaderMap) -> Option<Duration> {
    let text = only(headers, CALL)?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = number(digits).filter(|number| digits.len() <= 8 && *number <= MOST)?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// How long the proxy before this one waits; `None` where it does not say so. Nothing is no limit, as in Envoy.
#[must_use]
pub fn expected(headers: &HeaderMap) -> Option<Duration> {
    only(headers, EXPECTED).and_then(number).filter(|milliseconds| *milliseconds > 0).map(Duration::from_millis)
}

/// The text of a call for a time of at least a millisecond, as Envoy writes it: in the smallest unit from that on in which it has eight digits.
#[must_use]
pub fn to_call(time: Duration) -> String {
    let milliseconds = milliseconds(time);
    if milliseconds <= MOST {
        return format!("{milliseconds}m");
    }
    let seconds = milliseconds / 1000;
    for (part, unit) in [(1, 'S'), (60, 'M')] {
        if seconds / part <= MOST {
            return format!("{}{unit}", seconds / part);
        }
    }
    format!("{}H", (seconds / 3600).min(MOST))
}

/// A time in milliseconds, and one where nothing is left of it: nothing would be no limit.
#[must_use]
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The text of a header that is there once: what is said twice is said wrongly.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())?.to_str().ok()
}

fn number(digits: &str) -> Option<u64> {
    // Signs are no digits.
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_call_says_in_eight_digits_and_a_unit_how_long_its_client_waits() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("5S", Some(Duration::from_secs(5))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("00000007u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("+5S", None),
            (" 5S", None),
            ("5 S", None),
            ("1.5S", None),
            ("100000000S", None),
            ("000000001S", None),
            ("184467440737095516160H", None),
            ("5é", None),
        ] {
            let headers = http::HeaderValue::from_bytes(text.as_bytes()).map(|value| {
                let mut headers = HeaderMap::new();
                headers.insert(CALL, value);
                headers
            });
            assert_eq!(of_call(&headers.unwrap()), expected, "{text:?}");
        }
        assert_eq!(of_call(&HeaderMap::new()), None);
        assert_eq!(of_call(&with(CALL, &["5S", "6S"])), None, "said twice");
    }

    #[test]
    fn a_proxy_says_in_milliseconds_how_long_it_waits() {
        for (text, time) in [
            ("1500", Some(Duration::from_millis(1500))),
            ("18446744073709551615", Some(Duration::from_millis(u64::MAX))),
            ("18446744073709551616", None),
            ("0", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1s", None),
        ] {
            assert_eq!(expected(&with(EXPECTED, &[text])), time, "{text:?}");
        }
        assert_eq!(expected(&with(EXPECTED, &["1", "2"])), None, "said twice");
    }

    #[test]
    fn what_is_left_is_told_in_at_most_eight_digits_and_never_as_nothing() {
        for (time, text) in [
            (Duration::ZERO, "1m"),
            (Duration::from_micros(900), "1m"),
            (Duration::from_millis(99_999_999), "99999999m"),
            (Duration::from_millis(100_000_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(6_000_000_000), "1666666H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(to_call(time), text, "{time:?}");
        }
    }
}
