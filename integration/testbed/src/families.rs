//! Which IP families a bed has.

/// The IP families of a bed, or of one pod in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 and IPv6; where one address has to do, the IPv4 one.
    #[default]
    Dual,
    /// IPv6 alone: but for loopback, no place has an address or a route of IPv4.
    Ipv6,
}

impl Families {
    /// Both kinds of bed: for suites that are to pass in each.
    pub const ALL: [Self; 2] = [Self::Dual, Self::Ipv6];

    /// Of a pair, IPv4 first, what belongs to these families.
    pub fn of<T>(self, [v4, v6]: [T; 2]) -> Vec<T> {
        match self {
            Self::Dual => vec![v4, v6],
            Self::Ipv6 => vec![v6],
        }
    }

    /// The name of a test that runs in a bed of these families.
    pub fn title(self, test: &str) -> String {
        match self {
            Self::Dual => test.to_owned(),
            Self::Ipv6 if test.contains('_') => format!("{test}_over_ipv6_alone"),
            Self::Ipv6 => format!("{test}, over IPv6 alone"),
        }
    }
}
