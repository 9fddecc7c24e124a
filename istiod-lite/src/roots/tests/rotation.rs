//! The state machine with a clock of the test, and invented issuers.

use ambit_tls::authority::Material;

use crate::roots::{
    issuer::{Issuer, Origin, RootCertificate},
    rotation::{Facts, Held, Plugged},
};

const LIFE: u64 = 1000;
const MARGIN: u64 = 10;

/// An issuer of this name under the first of these roots.
fn issuer(name: &str, origin: Origin, roots: &[&str]) -> Issuer {
    let root = |name: &&str| RootCertificate { sha256: (*name).to_owned(), pem: format!("<{name}>") };
    Issuer {
        material: Material { certificate: name.to_owned(), ..Material::default() },
        origin,
        id: format!("{name} {roots:?}"),
        anchor: roots[0].to_owned(),
        roots: roots.iter().map(root).collect(),
        not_before: 0,
        not_after: 1_000_000_000,
    }
}

fn own(name: &str, roots: &[&str]) -> Issuer {
    issuer(name, Origin::SelfSigned, roots)
}

fn plugged(name: &str, roots: &[&str]) -> Plugged {
    Plugged::Is(Box::new(issuer(name, Origin::Cacerts, roots)))
}

/// A mesh with a clock.
struct Mesh {
    held: Held,
    facts: Facts,
}

impl Mesh {
    fn new(first: Issuer) -> Self {
        let plugged = match first.origin {
            Origin::SelfSigned => Plugged::Absent,
            Origin::Cacerts => Plugged::Is(Box::new(first.clone())),
        };
        let facts = Facts { now: 100, life: LIFE, margin: MARGIN, distributed: true, plugged, fresh: None, at_once: false };
        Self { held: Held::first(first, LIFE, 100), facts }
    }

    fn ask(&mut self, fresh: Issuer) -> String {
        assert!(self.held.wants_fresh(&self.facts.plugged, true, self.facts.now));
        self.facts.fresh = Some(Box::new(fresh));
        let said = self.at(self.facts.now);
        self.facts.fresh = None;
        said
    }

    /// All steps that are due at this time, then "phase issuer roots".
    fn at(&mut self, now: u64) -> String {
        self.facts.now = now;
        let mut steps = 0;
        while let Some(next) = self.held.advance(&self.facts) {
            self.held = next;
            steps += 1;
            assert!(steps < 10, "it does not settle: {:?}", self.held);
        }
        self.said()
    }

    fn said(&self) -> String {
        let bundle = self.held.bundle().replace(['<', '>', '\n'], "");
        format!("{:?} {} {bundle}", self.held.phase(), self.held.active.material.certificate)
    }
}

#[test]
fn a_root_changes_in_steps_that_wait_for_the_certificates_before_them() {
    let mut mesh = Mesh::new(own("a", &["A"]));
    assert_eq!(mesh.at(100), "Stable a A");
    assert_eq!(mesh.held.due(MARGIN), None);
    mesh.facts.distributed = false;
    assert_eq!(mesh.ask(own("b", &["B"])), "Distributing a AB");
    // However long it takes until every namespace has the new root.
    assert_eq!(mesh.at(100_000), "Distributing a AB");
    assert_eq!(mesh.held.due(MARGIN), None);
    mesh.facts.distributed = true;
    assert_eq!(mesh.at(100_001), "Distributing a AB");
    assert_eq!(mesh.held.due(MARGIN), Some(101_011));
    assert_eq!(mesh.at(101_010), "Distributing a AB");
    assert_eq!(mesh.at(101_011), "Overlapping b BA");
    assert_eq!(mesh.held.due(MARGIN), Some(102_021));
    assert_eq!(mesh.at(102_020), "Overlapping b BA");
    assert_eq!(mesh.at(102_021), "Stable b B");
    assert_eq!(mesh.held.due(MARGIN), None);
    assert!(!mesh.held.wants_fresh(&Plugged::Absent, false, 102_021));
}

/// Whatever the distances between the looks at the clock are, and wherever the holder of the state starts anew: nobody is ever
/// presented a certificate under a root that it may not have been told of.
#[test]
fn no_certificate_is_ever_under_a_root_that_a_holder_of_another_was_not_told_of() {
    for (seed, step) in (1..30).flat_map(|seed| [1, 7, 130, 900, 5000].map(|step| (seed, step))) {
        let mut random = fastrand(seed);
        let mut mesh = Mesh::new(own("0", &["0"]));
        // What was signed: when, until when, under which root, and which roots were told with it.
        let mut signed: Vec<(u64, u64, String, String)> = Vec::new();
        let (mut now, mut roots) = (100, 0);
        for _ in 0..400 {
            now += 1 + random() % step;
            mesh.facts.distributed = !random().is_multiple_of(3);
            mesh.facts.life = LIFE - (random() % 2) * 500;
            if random().is_multiple_of(10) && mesh.held.wants_fresh(&mesh.facts.plugged, true, now) {
                roots += 1;
                let name = roots.to_string();
                mesh.facts.now = now;
                mesh.ask(own(&name, &[&name]));
            }
            mesh.at(now);
            // A replica that starts reads what was written.
            mesh.held = mesh.held.clone();
            let (anchor, told) = (mesh.held.active.anchor.clone(), mesh.held.bundle());
            signed.retain(|(_, until, ..)| now < *until);
            for (at, _, before, known) in &signed {
                let both = known.contains(&format!("<{anchor}>")) && told.contains(&format!("<{before}>"));
                assert!(both, "seed {seed}, step {step}: {at} under {before} and {now} under {anchor}: {known:?}, {told:?}");
            }
            signed.push((now, now + mesh.facts.life, anchor, told));
        }
    }
}

/// A few numbers that look random.
fn fastrand(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 33
    }
}

#[test]
fn an_issuer_under_a_root_that_is_believed_signs_at_once() {
    let mut mesh = Mesh::new(issuer("a", Origin::Cacerts, &["A"]));
    mesh.facts.plugged = plugged("renewed", &["A"]);
    assert_eq!(mesh.at(101), "Stable renewed A");
    // Another root that it brings along is believed from now on, and no more when it does not.
    mesh.facts.plugged = plugged("more", &["A", "B"]);
    assert_eq!(mesh.at(102), "Stable more AB");
    mesh.facts.plugged = plugged("under b", &["B", "A"]);
    assert_eq!(mesh.at(103), "Distributing more AB", "B is not known to all");
    assert_eq!(mesh.at(102 + LIFE + MARGIN), "Stable under b BA");
    mesh.facts.plugged = plugged("only b", &["B"]);
    assert_eq!(mesh.at(2000), "Overlapping only b BA");
    assert_eq!(mesh.at(2000 + LIFE + MARGIN), "Stable only b B");
}

#[test]
fn an_issuer_that_begins_in_a_moment_waits_for_it() {
    let begins = |name: &str, root: &str, not_before| {
        Plugged::Is(Box::new(Issuer { not_before, ..issuer(name, Origin::Cacerts, &[root]) }))
    };
    let mut mesh = Mesh::new(issuer("a", Origin::Cacerts, &["A"]));
    mesh.facts.plugged = begins("renewed", "A", 130);
    assert_eq!(mesh.at(129), "Distributing a A");
    assert_eq!(mesh.at(130), "Stable renewed A");
    mesh.facts.plugged = begins("b", "B", 5000);
    assert_eq!(mesh.at(1000), "Distributing renewed AB");
    assert_eq!(mesh.at(4999), "Distributing renewed AB");
    assert_eq!(mesh.at(5000), "Overlapping b BA");
}

#[test]
fn a_plug_in_ca_takes_over_in_steps_and_can_be_taken_back() {
    let mut mesh = Mesh::new(own("a", &["A"]));
    mesh.facts.plugged = plugged("p", &["P"]);
    assert_eq!(mesh.at(101), "Distributing a AP");
    // Another one before the first has signed anything: that one is believed no more.
    mesh.facts.plugged = plugged("q", &["Q"]);
    assert_eq!(mesh.at(102), "Distributing a AQ");
    mesh.facts.plugged = Plugged::Unknown;
    assert_eq!(mesh.at(103), "Distributing a AQ", "nothing follows from what cannot be read");
    mesh.facts.plugged = Plugged::Absent;
    assert_eq!(mesh.at(104), "Stable a A");
    mesh.facts.plugged = plugged("p", &["P"]);
    assert_eq!(mesh.at(200), "Distributing a AP");
    assert_eq!(mesh.at(200 + LIFE + MARGIN), "Overlapping p PA");
    assert_eq!(mesh.held.active.origin, Origin::Cacerts);
    mesh.facts.plugged = Plugged::Absent;
    assert_eq!(mesh.at(5000), "Stable p P", "without it the issuer signs on");
    assert!(mesh.held.wants_fresh(&Plugged::Absent, true, 5000));
    assert!(!mesh.held.wants_fresh(&plugged("p", &["P"]), true, 5000), "whoever wrote the Secret changes it");
    assert!(!mesh.held.wants_fresh(&Plugged::Unknown, true, 5000));
}

#[test]
fn at_once_waits_for_nothing() {
    let mut mesh = Mesh::new(own("a", &["A"]));
    mesh.facts.distributed = false;
    mesh.facts.at_once = true;
    assert_eq!(mesh.ask(own("b", &["B"])), "Stable b B");
    mesh.facts.at_once = false;
    assert_eq!(mesh.ask(own("c", &["C"])), "Distributing b BC");
    mesh.facts.at_once = true;
    assert_eq!(mesh.at(200), "Stable c C");
}

#[test]
fn an_issuer_that_has_ended_is_not_waited_for() {
    let mut first = own("a", &["A"]);
    first.not_after = 500;
    let mut mesh = Mesh::new(first);
    mesh.facts.distributed = false;
    assert_eq!(mesh.ask(own("b", &["B"])), "Distributing a AB");
    assert_eq!(mesh.at(499), "Distributing a AB");
    assert_eq!(mesh.at(500), "Overlapping b BA");
}

#[test]
fn an_issuer_that_ended_while_it_waited_never_signs_and_its_root_goes() {
    let ends = |name: &str, root: &str, not_after| Issuer { not_after, ..issuer(name, Origin::Cacerts, &[root]) };
    let is = |issuer: &Issuer| Plugged::Is(Box::new(issuer.clone()));
    let short = ends("p", "P", 100 + LIFE);
    let mut mesh = Mesh::new(own("a", &["A"]));
    mesh.facts.plugged = is(&short);
    assert_eq!(mesh.at(100), "Distributing a AP");
    assert_eq!(mesh.at(100 + LIFE - 1), "Distributing a AP");
    assert_eq!(mesh.at(100 + LIFE), "Stable a A", "it ended before everybody knew its root");
    // Nor does anything else get it in: that nothing is to be waited for, that it is under the root of the issuer, that the issuer has ended.
    mesh.facts.at_once = true;
    assert_eq!(mesh.at(3000), "Stable a A");
    mesh.facts.at_once = false;
    mesh.facts.plugged = is(&ends("q", "A", 3000));
    assert_eq!(mesh.at(3001), "Stable a A");
    mesh.held.active.not_after = 3002;
    assert_eq!(mesh.at(3002), "Stable a A");
    mesh.held.active.not_after = 1_000_000;
    // Renewed, it begins anew.
    mesh.facts.plugged = is(&ends("p2", "P", 1_000_000));
    assert_eq!(mesh.at(4000), "Distributing a AP");
    assert_eq!(mesh.at(4000 + LIFE + MARGIN), "Overlapping p2 PA");
    // One of our own that waits in the state is dropped as well.
    mesh.facts.plugged = Plugged::Absent;
    assert_eq!(mesh.at(9000), "Stable p2 P");
    mesh.facts.distributed = false;
    assert_eq!(mesh.ask(Issuer { not_after: 9500, ..own("b", &["B"]) }), "Distributing p2 PB");
    assert_eq!(mesh.at(9500), "Stable p2 P");
}

#[test]
fn a_self_signed_root_is_followed_by_another_in_the_last_tenth_of_its_life() {
    let mut first = own("a", &["A"]);
    (first.not_before, first.not_after) = (0, 100_000);
    let held = Held::first(first.clone(), LIFE, 0);
    assert!(!held.wants_fresh(&Plugged::Absent, false, 89_999));
    assert!(held.wants_fresh(&Plugged::Absent, false, 90_000));
    first.origin = Origin::Cacerts;
    assert!(
        !Held::first(first, LIFE, 0).wants_fresh(&Plugged::Absent, false, 99_999),
        "that of somebody else is theirs to renew"
    );
}

#[test]
fn certificates_that_were_allowed_to_live_longer_are_waited_for() {
    let mut mesh = Mesh::new(own("a", &["A"]));
    mesh.facts.life = 10 * LIFE;
    mesh.at(200);
    mesh.facts.life = LIFE;
    mesh.at(300);
    mesh.ask(own("b", &["B"]));
    assert_eq!(mesh.held.due(MARGIN), Some(300 + 10 * LIFE + MARGIN));
    assert_eq!(mesh.at(300 + 10 * LIFE + MARGIN - 1), "Distributing a AB");
    assert_eq!(mesh.at(300 + 10 * LIFE + MARGIN), "Overlapping b BA");
    // They have ended by then: the next wait is short again.
    assert_eq!(mesh.at(300 + 11 * LIFE + 2 * MARGIN), "Stable b B");
}

#[test]
fn a_clock_that_goes_back_makes_nothing_happen_early() {
    let mut mesh = Mesh::new(own("a", &["A"]));
    mesh.facts.now = 10_000;
    mesh.ask(own("b", &["B"]));
    for now in [9_000, 0, 10_000 + LIFE + MARGIN - 1] {
        assert_eq!(mesh.at(now), "Distributing a AB");
    }
    mesh.at(10_000 + LIFE + MARGIN);
    assert_eq!(mesh.at(0), "Overlapping b BA");
}
