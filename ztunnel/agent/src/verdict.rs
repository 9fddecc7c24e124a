//! From what was observed of a pod to what is said of it: a pure decision.

use crate::{listeners::Listeners, status::State};

/// Checks in a row that must find a listener missing or its queue full before it is more than a moment's.
pub const PATIENCE: u32 = 3;
/// Checks for which a repair is shown after it.
pub const SHOWN: u32 = 60;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The rules, after what could be repaired was.
    pub rules: Rules,
    /// What the proxies say of the pod.
    pub offer: Offer,
    /// The proxy's sockets in the pod's namespace.
    pub listeners: Result<Listeners, String>,
}

/// The state of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rules {
    /// As they were written.
    Whole,
    /// Something was missing and was written again.
    Repaired(String),
    /// They cannot be written or verified, and the pod is cut off.
    Cut(String),
    /// As [`Rules::Cut`], and cutting it off failed too.
    Exposed(String),
}

/// The state of the handover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// The newest proxy has the pod.
    Accepted,
    /// There is no proxy.
    Nobody,
    /// The newest proxy has not answered yet.
    Asked,
    /// The newest proxy refuses the pod.
    Refused(String),
}

/// What a pod's keeper remembers from check to check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Checks in a row in which a listener was missing or stalled.
    pub silent: u32,
    /// The last repair, and the checks since.
    pub repaired: Option<(String, u32)>,
    /// How often something was repaired.
    pub repairs: u64,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The state that is told.
    pub state: State,
    /// Why.
    pub reason: String,
    /// Whether the proxy has to be given the pod once more, from the beginning.
    pub again: bool,
}

/// Decides, and remembers.
pub fn decide(observed: Observed, memory: &mut Memory) -> Verdict {
    let verdict = |state, reason: String| Verdict { state, reason, again: false };
    if let Some((_, checks)) = &mut memory.repaired {
        *checks += 1;
    }
    memory.repaired.take_if(|(_, checks)| *checks > SHOWN);
    match observed.rules {
        Rules::Whole => {}
        Rules::Repaired(what) => {
            memory.repairs += 1;
            memory.repaired = Some((format!("missing and written again: {what}"), 0));
        }
        Rules::Cut(why) => return verdict(State::CutOff, why),
        Rules::Exposed(why) => return verdict(State::Exposed, why),
    }
    let silent = match &observed.listeners {
        Ok(listeners) => listeners.complaint(),
        Err(error) => Some(format!("the proxy's listeners cannot be looked at: {error}")),
    };
    let waiting = match observed.offer {
        Offer::Accepted => None,
        Offer::Nobody => Some("no node proxy is connected".to_owned()),
        Offer::Asked => Some("the node proxy has not answered yet".to_owned()),
        Offer::Refused(reason) => Some(format!("the node proxy refuses the pod: {reason}")),
    };
    if let Some(reason) = waiting {
        memory.silent = 0;
        return verdict(State::Pending, reason);
    }
    memory.silent = if silent.is_some() { memory.silent + 1 } else { 0 };
    match silent {
        Some(reason) if memory.silent >= PATIENCE => {
            let again =
                memory.silent.is_multiple_of(PATIENCE) && observed.listeners.is_ok_and(|listeners| !listeners.missing.is_empty());
            Verdict { state: State::Pending, reason, again }
        }
        _ => match &memory.repaired {
            Some((what, _)) => verdict(State::Repaired, what.clone()),
            None => verdict(State::Captured, String::new()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Observed {
        Observed { rules: Rules::Whole, offer: Offer::Accepted, listeners: Ok(Listeners::default()) }
    }

    #[test]
    fn a_repair_is_shown_for_a_while_and_then_the_pod_is_captured_again() {
        let mut memory = Memory::default();
        assert_eq!(decide(good(), &mut memory).state, State::Captured);
        let verdict = decide(Observed { rules: Rules::Repaired("the rules".to_owned()), ..good() }, &mut memory);
        assert_eq!((verdict.state, memory.repairs), (State::Repaired, 1));
        assert!(verdict.reason.contains("the rules"));
        let later: Vec<State> = (0..=SHOWN).map(|_| decide(good(), &mut memory).state).collect();
        assert_eq!((later[0], later[SHOWN as usize]), (State::Repaired, State::Captured));
    }

    #[test]
    fn a_pod_whose_rules_cannot_be_written_is_never_called_captured_whatever_the_proxy_says() {
        let cut = Observed { rules: Rules::Cut("no permission".to_owned()), ..good() };
        assert_eq!(decide(cut, &mut Memory::default()).state, State::CutOff);
    }

    #[test]
    fn a_listener_that_stays_away_is_said_and_the_pod_is_given_to_the_proxy_again() {
        let mut memory = Memory::default();
        let deaf = || Observed { listeners: Ok(Listeners { missing: vec![15008], stalled: vec![] }), ..good() };
        for _ in 1..PATIENCE {
            assert_eq!(decide(deaf(), &mut memory).state, State::Captured, "a moment");
        }
        let verdict = decide(deaf(), &mut memory);
        assert!(verdict.state == State::Pending && verdict.again && verdict.reason.contains("15008"), "{verdict:?}");
        assert!(!decide(deaf(), &mut memory).again, "not at every check");
        assert_eq!(decide(good(), &mut memory).state, State::Captured);
    }

    #[test]
    fn without_a_proxy_a_pod_is_pending() {
        for offer in [Offer::Nobody, Offer::Asked, Offer::Refused("full".to_owned())] {
            assert_eq!(decide(Observed { offer, ..good() }, &mut Memory::default()).state, State::Pending);
        }
    }
}
