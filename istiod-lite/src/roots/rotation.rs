//! How the root of a mesh changes without a connection that fails. Pure: the time and what is so are given.
//!
//! A mesh believes a set of roots and has one issuer. Another issuer under another root goes through these states:
//!
//! | state | who signs | who is believed | left when |
//! |---|---|---|---|
//! | stable | the issuer | its roots | another issuer is there |
//! | distributing | the old issuer | both roots | the new root is in every namespace, and all certificates from before that have ended: their holders were told of it with the next |
//! | overlapping | the new issuer | both roots | all certificates of the old issuer have ended |
//!
//! After that the old root is believed no more and the state is stable again. An issuer under a root that is believed already, such as a
//! renewed intermediate, signs as soon as it is valid. What is written here is kept in a Secret, so replicas agree and a restart goes on
//! where it was.

use serde::{Deserialize, Serialize};

use super::issuer::{Issuer, Origin, RootCertificate};

/// Seconds since 1970, and spans of seconds.
type Seconds = u64;

/// A root that the mesh believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// SHA-256 of the certificate, hexadecimal.
    pub sha256: String,
    /// The certificate.
    pub pem: String,
    /// Since when it is to be believed.
    pub announced: Seconds,
    /// Since when every namespace has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distributed: Option<Seconds>,
    /// Whether certificates were signed under it.
    pub signed: bool,
    /// Since when nothing is signed under it any more, nor does the issuer bring it along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<Seconds>,
}

/// What is kept beside the issuers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The roots that are believed.
    pub roots: Vec<Root>,
    /// Since when the issuer signs.
    pub activated: Seconds,
    /// The longest life of a certificate.
    pub life: Seconds,
    /// When the last certificate ends that was signed while a longer life was allowed; 0 when there was none.
    #[serde(default)]
    pub longer_until: Seconds,
}

/// The issuers and roots of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The issuer that signs.
    pub active: Issuer,
    /// The one that will.
    pub next: Option<Issuer>,
    /// How far that is.
    pub state: State,
}

/// What the Secret `cacerts` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plugged {
    /// It was not read yet, or cannot be used: nothing follows from it.
    Unknown,
    /// It is not there.
    Absent,
    /// It has this issuer.
    Is(Box<Issuer>),
}

/// What is so.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The time.
    pub now: Seconds,
    /// The longest life of a certificate from now on.
    pub life: Seconds,
    /// What is added to each wait, for replicas that learn of a step late and for files that are late in pods.
    pub margin: Seconds,
    /// Every namespace has the roots of the state as it is.
    pub distributed: bool,
    /// The plug-in CA.
    pub plugged: Plugged,
    /// A new root that was asked for.
    pub fresh: Option<Box<Issuer>>,
    /// Nothing is to be waited for, whatever fails by it.
    pub at_once: bool,
}

/// Where a mesh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// One issuer, and its roots.
    Stable,
    /// The roots of the next issuer are believed too; the old one signs.
    Distributing,
    /// The new issuer signs; the root of the old one is believed too.
    Overlapping,
}

impl Held {
    /// The first issuer of a mesh.
    #[must_use]
    pub fn first(issuer: Issuer, life: Seconds, now: Seconds) -> Self {
        let root = |root: &RootCertificate| Root {
            signed: root.sha256 == issuer.anchor,
            // Nobody believes anything else, so there is nobody to wait for.
            distributed: Some(now),
            ..announced(root, now)
        };
        let mut roots: Vec<Root> = Vec::new();
        for found in &issuer.roots {
            if roots.iter().all(|known| known.sha256 != found.sha256) {
                roots.push(root(found));
            }
        }
        let state = State { roots, activated: now, life, longer_until: 0 };
        Self { active: issuer, next: None, state }
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.next {
            Some(_) => Phase::Distributing,
            None if self.state.roots.iter().any(|root| root.unused.is_some()) => Phase::Overlapping,
            None => Phase::Stable,
        }
    }

    /// The roots that are believed, that of the issuer first, PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        let (own, others): (Vec<&Root>, Vec<&Root>) = self.state.roots.iter().partition(|root| root.sha256 == self.active.anchor);
        own.into_iter().chain(others).map(|root| format!("{}\n", root.pem.trim_end())).collect()
    }

    /// When the next step is due by the clock alone; `None` when it does not depend on it.
    #[must_use]
    pub fn due(&self, margin: Seconds) -> Option<Seconds> {
        let next = self.next.as_ref().and_then(|next| self.trusted_by_all(&next.anchor, margin));
        let retired = self.state.roots.iter().filter_map(|root| Some(self.state.ended(root.unused?, margin)));
        next.into_iter().chain(retired).min()
    }

    /// Whether a new self-signed root is wanted: it was asked for, or the last tenth of the life of the one there is has begun. The root
    /// of a plug-in CA is changed by whoever wrote it.
    #[must_use]
    pub fn wants_fresh(&self, plugged: &Plugged, asked: bool, now: Seconds) -> bool {
        let life = self.active.not_after.saturating_sub(self.active.not_before);
        let ends = self.active.origin == Origin::SelfSigned && now.saturating_add(life / 10) >= self.active.not_after;
        self.next.is_none() && *plugged == Plugged::Absent && (asked || ends)
    }

    /// The state after the steps that are due; `None` when there is none.
    #[must_use]
    pub fn advance(&self, facts: &Facts) -> Option<Self> {
        let mut after = self.clone();
        after.state.allow(facts.life, facts.now);
        after.choose(facts);
        let known = |state: &State| state.roots.iter().map(|root| root.sha256.clone()).collect::<Vec<_>>();
        let before = known(&after.state);
        after.mark(facts.now);
        if facts.distributed && known(&after.state) == before {
            for root in &mut after.state.roots {
                root.distributed.get_or_insert(facts.now);
            }
        }
        if after.may_activate(facts) {
            after.activate(facts.now);
        }
        after.retire(facts);
        (after != *self).then_some(after)
    }

    /// What comes next, if anything: what was asked for last. Never an issuer whose time is over: once it were written as the one that signs,
    /// no replica could read the state again.
    fn choose(&mut self, facts: &Facts) {
        self.next = self.next.take().filter(|next| !next.has_ended(facts.now));
        match &facts.plugged {
            Plugged::Is(plugged) if plugged.has_ended(facts.now) => {}
            Plugged::Is(plugged) if plugged.id == self.active.id => {
                self.next = None;
                // The same certificates; the texts may differ.
                self.active.origin = Origin::Cacerts;
                return;
            }
            Plugged::Is(plugged) => {
                if self.next.as_ref().is_none_or(|next| next.id != plugged.id) {
                    self.next = Some(Issuer::clone(plugged));
                }
                return;
            }
            // Whoever plugged it in took it back before it signed anything.
            Plugged::Absent if self.next.as_ref().is_some_and(|next| next.origin == Origin::Cacerts) => self.next = None,
            Plugged::Absent | Plugged::Unknown => {}
        }
        if let (None, Some(fresh)) = (&self.next, &facts.fresh) {
            self.next = Some(Issuer::clone(fresh));
        }
    }

    /// Adds the roots that the issuers bring along, and marks those that none does.
    fn mark(&mut self, now: Seconds) {
        let issuers = || [Some(&self.active), self.next.as_ref()].into_iter().flatten();
        let wanted: Vec<RootCertificate> = issuers().flat_map(|issuer| issuer.roots.clone()).collect();
        for root in &wanted {
            if self.state.roots.iter().all(|known| known.sha256 != root.sha256) {
                self.state.roots.push(announced(root, now));
            }
        }
        for root in &mut self.state.roots {
            if wanted.iter().any(|wanted| wanted.sha256 == root.sha256) {
                root.unused = None;
            } else {
                root.unused.get_or_insert(now);
            }
        }
    }

    fn may_activate(&self, facts: &Facts) -> bool {
        let Some(next) = &self.next else { return false };
        let has_ended = self.active.has_ended(facts.now);
        let believed = self.trusted_by_all(&next.anchor, facts.margin).is_some_and(|due| due <= facts.now);
        // One that begins in a moment, by the clock of whoever made it, waits for that: peers would refuse what it signs.
        let begun = next.not_before <= facts.now;
        (begun && (next.anchor == self.active.anchor || believed)) || has_ended || facts.at_once
    }

    fn activate(&mut self, now: Seconds) {
        let Some(next) = self.next.take() else { return };
        self.active = next;
        self.state.activated = now;
        for root in &mut self.state.roots {
            root.signed |= root.sha256 == self.active.anchor;
        }
        self.mark(now);
    }

    fn retire(&mut self, facts: &Facts) {
        let Self { state, .. } = self;
        let ended = |unused: Seconds| state.ended(unused, facts.margin) <= facts.now;
        let stays = |root: &Root| match root.unused {
            None => true,
            Some(unused) => root.signed && !facts.at_once && !ended(unused),
        };
        let kept: Vec<Root> = state.roots.iter().filter(|root| stays(root)).cloned().collect();
        state.roots = kept;
    }

    /// When everybody who holds a certificate has been told of a root that every namespace has.
    fn trusted_by_all(&self, sha256: &str, margin: Seconds) -> Option<Seconds> {
        let root = self.state.roots.iter().find(|root| root.sha256 == sha256)?;
        Some(self.state.ended(root.distributed?, margin))
    }
}

impl State {
    /// Has certificates live for `life` from now on.
    pub fn allow(&mut self, life: Seconds, now: Seconds) {
        if life < self.life {
            self.longer_until = self.longer_until.max(now.saturating_add(self.life));
        }
        self.life = life;
    }

    /// When the certificates have ended that were signed before `then`.
    fn ended(&self, then: Seconds, margin: Seconds) -> Seconds {
        then.saturating_add(self.life).max(self.longer_until).saturating_add(margin)
    }
}

fn announced(root: &RootCertificate, now: Seconds) -> Root {
    let RootCertificate { sha256, pem } = root.clone();
    Root { sha256, pem, announced: now, distributed: None, signed: false, unused: None }
}
