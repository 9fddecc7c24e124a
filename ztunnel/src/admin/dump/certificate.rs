//! Certificates, as `istioctl ztunnel-config` reads them.

use std::time::SystemTime;

use ambit_tls::SvidStatus;
use jiff::Timestamp;
use serde::Serialize;

/// The certificate of an identity; never its key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    identity: String,
    state: String,
    cert_chain: Vec<Held>,
    /// Hexadecimal, as revocation lists are made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Held {
    /// Decimal.
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

impl Certificate {
    pub(super) fn of(status: SvidStatus) -> Self {
        let serial = status.serial.clone();
        let held = status.serial.zip(status.validity).map(|(serial, (from, to))| Held {
            serial_number: decimal(&serial),
            valid_from: rfc3339(from),
            expiration_time: rfc3339(to),
        });
        let state = match (&held, &status.error) {
            // One that is held serves on while a new one cannot be had.
            (Some(_), None) => "Available".to_owned(),
            (Some(_), Some(error)) => format!("Available (not renewed: {error})"),
            (None, None) => "Initializing".to_owned(),
            (None, Some(error)) => format!("Unavailable: {error}"),
        };
        Self { identity: status.id.to_string(), state, cert_chain: held.into_iter().collect(), serial }
    }
}

fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|error| error.to_string(), |time| time.to_string())
}

/// The decimal digits of a number of hexadecimal ones.
fn decimal(hexadecimal: &str) -> String {
    // The lowest first.
    let mut digits: Vec<u32> = vec![0];
    for nibble in hexadecimal.chars().filter_map(|letter| letter.to_digit(16)) {
        let mut carry = nibble;
        for digit in &mut digits {
            carry += *digit * 16;
            *digit = carry % 10;
            carry /= 10;
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().filter_map(|digit| char::from_digit(*digit, 10)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_and_times_are_written_as_others_read_them() {
        for (hexadecimal, number) in
            [("0", "0"), ("00ff", "255"), ("0A", "10"), ("ffffffffffffffffffff", "1208925819614629174706175")]
        {
            assert_eq!(decimal(hexadecimal), number);
        }
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)), "2023-11-14T22:13:20Z");
    }
}
