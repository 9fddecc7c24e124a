//! What one address may have of what a server has for all of them, so that one pod does not take everything.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

/// The shares of all addresses.
#[derive(Debug)]
pub(crate) struct Shares {
    connections: usize,
    requests: usize,
    /// Of addresses that have connections: how many, and who may ask.
    taken: Mutex<HashMap<IpAddr, (usize, Arc<Semaphore>)>>,
}

impl Shares {
    /// So many connections for each address, and requests at one time in all of these.
    pub(crate) fn new(connections: usize, requests: usize) -> Arc<Self> {
        Arc::new(Self { connections, requests, taken: Mutex::default() })
    }

    /// The place of one more connection from an address; `None` when it has all that it may have.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let address = address.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (connections, requests) = taken.entry(address).or_insert_with(|| (0, Arc::new(Semaphore::new(self.requests))));
        if *connections >= self.connections {
            return None;
        }
        *connections += 1;
        Some(Share { requests: Arc::clone(requests), shares: Arc::clone(self), address })
    }
}

/// The place of one connection, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    /// One permit for each request at one time, of all connections of the address.
    pub(crate) requests: Arc<Semaphore>,
    shares: Arc<Shares>,
    address: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((connections, _)) = taken.get_mut(&self.address) {
            *connections -= 1;
            if *connections == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_however_it_is_written_and_others_have_theirs() {
        let shares = Shares::new(2, 1);
        let take = |address: &str| shares.take(address.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let second = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        assert!(take("2001:db8::1").is_some());
        let asking = first.requests.try_acquire().unwrap();
        assert!(second.requests.try_acquire().is_err(), "requests are counted over all connections");
        drop(asking);
        drop(second);
        drop(take("192.0.2.1").unwrap());
        drop(first);
        assert!(shares.taken.lock().unwrap().is_empty(), "addresses without connections are forgotten");
    }
}
