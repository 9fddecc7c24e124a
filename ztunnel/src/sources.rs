//! How many connections each client has to a pod, so that one of them does not take all of its places.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ambit_model::{Reason, Refusal};

/// The clients of one pod, by their addresses.
#[derive(Debug, Default)]
pub struct Sources {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place of one client, held while its connection lives.
#[derive(Debug)]
pub struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    source: IpAddr,
}

type Open<'a> = MutexGuard<'a, HashMap<IpAddr, usize>>;

fn lock(open: &Mutex<HashMap<IpAddr, usize>>) -> Open<'_> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sources {
    /// Takes a place for one more connection of `source`, which may have `most`.
    ///
    /// # Errors
    /// `connection_limit` when it has as many.
    pub fn take(&self, source: IpAddr, most: usize) -> Result<Place, Refusal> {
        let source = source.to_canonical();
        let mut open = lock(&self.open);
        let count = open.entry(source).or_default();
        if *count >= most {
            let detail = format!("{source} has {most} connections to the pod, as many as one client may have");
            return Err(Refusal::new(Reason::ConnectionLimit, detail));
        }
        *count += 1;
        Ok(Place { open: Arc::clone(&self.open), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_no_more_places_than_it_may_and_takes_none_of_others() {
        let sources = Sources::default();
        let [web, mapped, other] = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let (one, two) = (sources.take(web, 2).unwrap(), sources.take(mapped, 2).unwrap());
        let refused = sources.take(web, 2).unwrap_err();
        assert_eq!(refused.reason, Reason::ConnectionLimit);
        assert!(refused.detail.contains("10.0.0.1"), "{refused:?}");
        let of_other = sources.take(other, 2).unwrap();
        drop(one);
        let again = sources.take(mapped, 2).unwrap();
        drop((two, again, of_other));
        assert!(lock(&sources.open).is_empty(), "nothing is kept of who has gone");
    }
}
