//! What a failure means: what is tried next and when, and when what is in force is given up.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Listing, Pause, Reflector, State};
use crate::source::crd::secret::TlsSecret;
use crate::source::kubernetes::failure::Failure;
use crate::source::object::{Event, NamespacedName, Object};

/// The server must have said this often in a row that it has no such kind before objects that were there are taken for gone.
const GONE_AFTER: u32 = 3;
/// After so many lists in a row of which the server forgot the next page all objects are asked for at once.
const WHOLE_AFTER: u32 = 3;
/// After so many failures in a row a refusal to read a Secret is believed before it was read: an API server that has just started refuses those
/// whose rights it does not know yet.
const REFUSED_AFTER: u32 = 2;

impl Reflector {
    /// Takes in a failure of what was asked.
    pub(in crate::source::kubernetes) fn failed(&mut self, failure: &Failure) -> (Vec<Event>, Pause) {
        let failures = self.failures;
        self.failures = self.failures.saturating_add(1);
        if let (Failure::Denied { code: 403, .. }, Some(only)) = (failure, self.only.clone())
            && (self.listed || failures >= REFUSED_AFTER)
        {
            return (Vec::from_iter(self.withheld(only)), Pause::Failures(failures));
        }
        if *failure != Failure::Missing {
            self.missing = 0;
        }
        match (failure, &mut self.state) {
            // A token for the next page does not live long (5 min by default): another try, and when that is of no use all at once, as
            // the API asks of its clients.
            (Failure::Expired, State::List(listing)) => {
                self.torn = if listing.token.is_some() { self.torn.saturating_add(1) } else { 0 };
                self.state = State::List(Listing::new(self.torn < WHOLE_AFTER));
            }
            // All at once may be more than comes through.
            (Failure::Unreachable(_) | Failure::Busy { .. }, State::List(listing)) if !listing.paged => {
                self.torn = 0;
                self.state = State::List(Listing::new(true));
            }
            (Failure::Expired | Failure::Broken(_), _) => self.state = State::List(Listing::new(true)),
            (Failure::Missing, _) if !self.kind.group().is_empty() => return self.missing(failures),
            // The next page, or the watch, is asked for again from where it was. Every API server has the core kinds: one that says
            // otherwise is none, but a proxy in front of it for example.
            (Failure::Missing | Failure::Denied { .. } | Failure::Busy { .. } | Failure::Unreachable(_), _) => {}
        }
        (Vec::new(), Pause::Failures(failures))
    }

    /// The server does not have the kind in this version: the next is tried, and after the last the kind is taken for absent. What is
    /// in force is not given up at the first time, nor after any other failure in between; and `watch.rs` has asked the server what it
    /// has before it says so here ([`Reflector::doubts`]), since a 404 may be the word of a proxy that has lost its servers.
    fn missing(&mut self, failures: u32) -> (Vec<Event>, Pause) {
        self.state = State::List(Listing::new(true));
        self.version += 1;
        if self.version < self.kind.versions().len() {
            return (Vec::new(), Pause::None);
        }
        self.version = 0;
        self.missing = self.missing.saturating_add(1);
        if !self.known.is_empty() && self.missing < GONE_AFTER {
            return (Vec::new(), Pause::Failures(failures));
        }
        self.listed = true;
        (self.failures, self.problems) = (0, BTreeMap::new());
        self.tell();
        let gone: Vec<NamespacedName> = self.known.keys().cloned().collect();
        (gone.into_iter().filter_map(|name| self.delete(&name)).collect(), Pause::Absent)
    }

    /// The right to read the only object is missing: nobody waits for it any more, and who names it is told. What was read before stays, and it is
    /// asked for again, since the right may be given.
    fn withheld(&mut self, only: NamespacedName) -> Option<Event> {
        // Once it is given, what is there now is looked at.
        (self.state, self.listed) = (State::List(Listing::new(true)), true);
        if self.known.contains_key(&only) {
            return None;
        }
        let why = format!(
            "the control plane has not the right to read it; give its service account the verbs list and watch on secrets, in namespace {} \
             or in all",
            only.namespace
        );
        let object = Object::TlsSecret(Arc::new(TlsSecret::unread(&only, why)));
        self.known.insert(only, object.clone());
        Some(Event::Upsert(object))
    }
}
