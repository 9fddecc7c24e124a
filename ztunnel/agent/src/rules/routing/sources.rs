//! How strictly the kernel looks at where packets come from (`rp_filter`), on devices that do not lead to what is far.
//!
//! By the routing of the capture the source of what comes in is found in the pod itself, by the device of the way out. A device that is
//! strict takes only what would be answered by itself, so all TCP that comes in by another one is dropped. There it is made loose: the
//! source must be found by some device. The strictest of the device's setting and that of all devices counts, which is the greatest.

use std::io;

use ambit_runtime::netns::NetNs;

/// `rp_filter` of a device: strict.
const STRICT: u32 = 1;
/// The greatest that the kernel's documentation has: loose, as everything above [`STRICT`] is.
const LOOSE: u32 = 2;
/// Loose, and written by us: nobody else writes this, so that what others made loose stays so when the capture goes.
pub(super) const LOOSENED: u32 = 3;

/// The settings that a namespace has for all of its devices, and for those that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sources {
    all: u32,
    default: u32,
}

impl Sources {
    /// The settings of a namespace. A kernel that does not show them looks at no sources.
    pub(super) fn of(netns: &NetNs) -> io::Result<Self> {
        let read = |of: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"));
        let (all, default) = netns.run(|| (read("all"), read("default")))?;
        let number = |text: io::Result<String>| text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        Ok(Self { all: number(all), default: number(default) })
    }

    /// Whether a device with this setting is strict.
    pub(super) fn is_strict(self, device: u32) -> bool {
        self.all.max(device) == STRICT
    }

    /// What a device is given back that was made loose: it was strict, by its own setting or by that of all.
    pub(super) fn before(self) -> u32 {
        if self.all == STRICT && self.default < LOOSE { self.default } else { STRICT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_strict_is_strict_again_and_nothing_else_was_touched() {
        for (all, default, device) in
            (0..3).flat_map(|all| (0..3).flat_map(move |default| (0..3).map(move |device| (all, default, device))))
        {
            let sources = Sources { all, default };
            if !sources.is_strict(device) {
                assert!(all.max(device) != 1);
                continue;
            }
            assert!(!sources.is_strict(LOOSENED), "it would be made loose again and again");
            assert!(sources.is_strict(sources.before()), "{sources:?}");
        }
        assert!(!Sources { all: 2, default: 1 }.is_strict(1), "loose for all is loose");
        assert_eq!(Sources { all: 1, default: 0 }.before(), 0);
    }
}
