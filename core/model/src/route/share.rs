//! Shares of requests that something is done with.

use serde::Serialize;

/// Of `of` requests `taken` are taken (`envoy.type.v3.FractionalPercent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Share {
    /// So many …
    pub taken: u32,
    /// … of so many.
    pub of: u32,
}

impl Share {
    /// Every request.
    pub const ALL: Self = Self { taken: 1, of: 1 };
    /// No request.
    pub const NONE: Self = Self { taken: 0, of: 1 };

    /// Whether a request is taken; `random` decides, evenly spread over its whole range.
    #[must_use]
    pub fn takes(self, random: u64) -> bool {
        random.checked_rem(u64::from(self.of)).is_some_and(|point| point < u64::from(self.taken))
    }

    /// The share in words, `all` or `1 of 100`.
    #[must_use]
    pub fn in_words(self) -> String {
        match self.taken >= self.of {
            true => "all".to_owned(),
            false => format!("{} of {}", self.taken, self.of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_whatever_it_is_a_share_of() {
        let taken = |taken, of| (0..1_000_000).filter(|random| Share { taken, of }.takes(*random)).count();
        for ((share, of), expected) in
            [((0, 100), 0), ((100, 100), 1_000_000), ((25, 100), 250_000), ((1, 10_000), 100), ((5, 0), 0)]
        {
            assert_eq!(taken(share, of), expected, "{share} of {of}");
        }
        assert!(Share::ALL.takes(7) && !Share::NONE.takes(7));
        assert_eq!([Share::ALL.in_words(), Share { taken: 1, of: 100 }.in_words()], ["all", "1 of 100"]);
    }
}
