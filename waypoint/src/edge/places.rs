//! Who may make a TLS handshake now: so many clients in all, and a share of them with one address, so that no client holds all places.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use ambit_model::{Reason, Refusal};

/// One in so many places is for the clients of one address.
const SHARE: usize = 4;

/// The places for handshakes.
#[derive(Debug)]
pub struct Places {
    all: usize,
    of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By [`network`]; none is 0.
    by: HashMap<IpAddr, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    of: IpAddr,
}

impl Places {
    /// So many places.
    pub fn new(all: usize) -> Arc<Self> {
        Arc::new(Self { all, of_one: (all / SHARE).max(1), taken: Mutex::default() })
    }

    /// A place for a client of this address.
    ///
    /// # Errors
    /// When all are taken, or all that one address may have.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refusal> {
        let of = network(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.all {
            return Err(Refusal::new(Reason::ConnectionLimit, "too many TLS handshakes are being made"));
        }
        if taken.by.get(&of).is_some_and(|own| *own >= self.of_one) {
            let detail = format!("clients of {of} make {} TLS handshakes already", self.of_one);
            return Err(Refusal::new(Reason::ConnectionLimit, detail));
        }
        taken.all += 1;
        *taken.by.entry(of).or_default() += 1;
        Ok(Place { places: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by.get_mut(&self.of) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by.remove(&self.of);
            }
        }
    }
}

/// What counts as one address: of IPv6 all that one client is commonly given, a /64 (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_has_a_quarter_of_the_places_and_gives_them_back() {
        let places = Places::new(8);
        let of = |text: &str| places.take(address(text));
        let first = of("192.0.2.1").unwrap();
        let _second = of("::ffff:192.0.2.1").unwrap();
        assert!(of("192.0.2.1").unwrap_err().to_string().contains("192.0.2.1 make 2"));
        let _other = of("192.0.2.2").unwrap();
        drop(first);
        assert!(of("192.0.2.1").is_ok());
        // All of a /64 are one client's.
        let _held = [of("2001:db8::1").unwrap(), of("2001:db8::2").unwrap()];
        assert!(of("2001:db8::ffff:0:0:3").is_err());
        let _next = of("2001:db8:0:1::1").unwrap();
        assert_eq!(places.taken.lock().unwrap().by.len(), 4);
    }

    #[test]
    fn all_places_together_are_bounded_and_few_are_still_some() {
        let places = Places::new(2);
        let held = [places.take(address("192.0.2.1")).unwrap(), places.take(address("192.0.2.2")).unwrap()];
        assert!(places.take(address("192.0.2.3")).is_err());
        drop(held);
        assert!(places.take(address("192.0.2.3")).is_ok());
        assert!(places.taken.lock().unwrap().by.is_empty());
    }
}
