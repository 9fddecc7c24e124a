//! What came of all requests, in counts, and what is wrong, for a person.

use std::collections::BTreeMap;

use crate::command::Sample;
use crate::explained::{self, Told};
use crate::files;
use crate::known::{Difference, Known};
use crate::run::{Pair, Ran};
use crate::world::{Chance, Service};

/// So many kinds of differences are told at most, each with one request.
const KINDS: usize = 60;
/// So many of them with the objects that they come of.
const WITH_OBJECTS: usize = 6;
/// Of so many in a hundred pairs that both have ended alike, and that have a line, the lines in both logs are known, at least; and so many in a
/// hundred of all pairs are such.
const LOGGED: usize = 99;
const ALIKE: usize = 80;
/// So many in a hundred pairs are explained, at least: of the others the question cannot be asked.
const TOLD: usize = 97;
/// And of no one reason can more than so many in a hundred not be asked about.
const NOT_ASKED: usize = 1;
/// So many pairs of all may be asked again as a matter of chance: shares of backends, endpoints that sessions begin with, a machine that is late.
const BY_CHANCE: usize = 60;
/// And so many as nothing was answered, for no fault of a waypoint.
const FAILED: usize = 3;
/// Longer texts are cut.
const LONGEST: usize = 100;

/// What is wrong, by the test that fails for it.
pub struct Report {
    pub fixed: Vec<String>,
    pub rotating: Vec<String>,
    pub unmet: Vec<String>,
    pub unlike_told: Vec<String>,
    pub unlike_files: Vec<String>,
    pub unlike_command: Vec<String>,
    pub again: Vec<String>,
}

/// What was said of requests from files: of all by the library, and of some by the command.
pub type FromFiles = (files::Told, Sample);

/// What was told of requests before.
#[derive(Default)]
struct ToldOf {
    /// Those that were not told, or did not end so.
    unlike: Vec<String>,
    told: usize,
    /// By the reasons for which the others were not asked about.
    not_asked: BTreeMap<&'static str, usize>,
}

/// Differences of a kind: how many, and one of them.
struct Found<'a> {
    count: usize,
    service: &'a Service,
    request: String,
    difference: Difference,
}

/// By field, ours, and Envoy's.
type Kinds<'a> = BTreeMap<(String, String, String), Found<'a>>;

impl Report {
    /// Counts, tells the counts, and says what is wrong. `whole`: all services were asked.
    pub fn of(
        services: &[Service],
        ran: &Ran,
        (from_files, sample): &FromFiles,
        known: &[Known],
        (seed, whole): (u64, bool),
    ) -> Self {
        let fixed = unlisted(services, ran, known, false);
        // Those of the fixed corpus are always the same.
        let unmet = known.iter().filter(|known| whole && known.met.get() == 0);
        let mut unmet: Vec<String> = unmet.map(|known| format!("known.yaml lists what is not there: {}", known.text)).collect();
        let of = ran.pairs.len();
        let by_both: Vec<bool> = ran.pairs.iter().filter_map(Pair::is_logged_by_both).collect();
        let (alike, logged) = (by_both.len(), by_both.iter().filter(|logged| **logged).count());
        if whole && (logged * 100 < alike * LOGGED || alike * 100 < of * ALIKE) {
            unmet.push(format!(
                "of {of} pairs {alike} are such as both log, and the lines in both logs are known of {logged} only"
            ));
        }
        let rotating = unlisted(services, ran, known, true);
        let ToldOf { unlike: mut unlike_told, told, not_asked } = unlike_told(services, &ran.pairs);
        if whole && told * 100 < of * TOLD {
            unlike_told.push(format!("of {of} requests {told} were explained only"));
        }
        let many = not_asked.iter().filter(|(_, count)| whole && **count * 100 > of * NOT_ASKED);
        unlike_told.extend(many.map(|(why, count)| format!("of {of} requests {count} were not asked about: {why}")));
        let mut statuses = BTreeMap::<&str, usize>::new();
        for pair in &ran.pairs {
            *statuses.entry(&pair.ours[0].answer.status).or_default() += 1;
        }
        let routes: usize = services.iter().map(Service::routes).sum();
        println!("{} pairs of requests to {} services with {routes} routes", ran.pairs.len(), services.len());
        println!("of {logged} the lines in both logs are compared, of {alike} that both log");
        println!("{told} were explained; the others cannot be asked about: {not_asked:?}");
        println!("{from_files}; {sample}");
        println!("answered by ours: {statuses:?}");
        for known in known {
            println!("{:6} known differences: {}", known.met.get(), known.text);
        }
        let again = asked_again(services, ran, whole);
        let (unlike_files, unlike_command) = (from_files.wrong(), sample.wrong(whole));
        let (fixed, rotating) = (words(fixed, seed), words(rotating, seed));
        Self { fixed, rotating, unmet, unlike_told, unlike_files, unlike_command, again }
    }
}

/// Tells which requests were asked again, and says when they are too many.
fn asked_again(services: &[Service], ran: &Ran, whole: bool) -> Vec<String> {
    let text = |at: usize| {
        let service = &services[ran.pairs[at].service];
        format!("{}: {}", service.name, cut_lines(&service.requests[ran.pairs[at].request].text()))
    };
    for (at, why) in &ran.failed {
        println!("asked once more after {why:?}: {}", text(*at));
    }
    let mut kinds: BTreeMap<Chance, usize> = BTreeMap::new();
    for chance in ran.by_chance.values() {
        *kinds.entry(*chance).or_default() += 1;
    }
    println!("{} were asked again, as that is a matter of chance: {kinds:?}", ran.by_chance.len());
    let mut wrong = Vec::new();
    if whole && ran.by_chance.len() > BY_CHANCE {
        let some: Vec<String> = ran.by_chance.keys().take(KINDS).map(|at| text(*at)).collect();
        wrong.push(format!(
            "{} requests were unlike at first, which are more than chance makes so: {kinds:?}\n{}",
            ran.by_chance.len(),
            some.join("\n")
        ));
    }
    if ran.failed.len() > FAILED {
        wrong.push(format!("{} requests were not answered at first: {:?}", ran.failed.len(), ran.failed.values()));
    }
    let failed = (0..ran.pairs.len()).filter_map(|at| Some((at, ran.pairs[at].failed()?)));
    wrong.extend(failed.take(KINDS).map(|(at, why)| format!("{why:?} in the place of an answer: {}", text(at))));
    wrong
}

/// What differs and is in no entry of the file, of the corpus that rotates or of the other.
fn unlisted<'a>(services: &'a [Service], ran: &Ran, known: &[Known], rotates: bool) -> Kinds<'a> {
    let mut kinds = Kinds::new();
    let mut found = |service: &'a Service, request: String, difference: Difference| {
        let kind = (cut(&difference.field), cut(&difference.ours), cut(&difference.envoys));
        kinds.entry(kind).or_insert(Found { count: 0, service, request, difference }).count += 1;
    };
    let of_corpus = |service: &Service| service.name.starts_with('r') == rotates;
    for pair in ran.pairs.iter().filter(|pair| of_corpus(&services[pair.service])) {
        let service = &services[pair.service];
        let request = service.requests[pair.request].text();
        for difference in pair.unlisted(known, &request) {
            found(service, request.clone(), difference);
        }
    }
    kinds
}

/// What was told of the requests, and which of them did not end so.
fn unlike_told(services: &[Service], pairs: &[Pair]) -> ToldOf {
    let mut of = ToldOf::default();
    for pair in pairs {
        let service = &services[pair.service];
        let request = || cut_lines(&service.requests[pair.request].text());
        match &pair.told {
            Some(Told::So(what)) => {
                of.told += 1;
                let said: Vec<_> = pair.ours.iter().map(|ours| explained::ended_so(what, service, ours)).collect();
                if let (true, Some(Err(wrong))) = (said.iter().all(Result::is_err), said.first()) {
                    let what = what.to_string().chars().take(1500).collect::<String>();
                    of.unlike.push(format!("{}: {}{wrong}, and told was {what}\n", service.name, request()));
                }
            }
            Some(Told::NotAsked(why)) => *of.not_asked.entry(*why).or_default() += 1,
            Some(Told::Nothing(page)) => {
                of.unlike.push(format!("{}: {}is not explained: {}\n", service.name, request(), cut(page)));
            }
            None => of.unlike.push(format!("{}: {}was not asked about\n", service.name, request())),
        }
    }
    let more = of.unlike.len().saturating_sub(KINDS);
    of.unlike.truncate(KINDS);
    if more > 0 {
        of.unlike.push(format!("… and {more} more"));
    }
    of
}

/// The most frequent ones first.
fn words(found: Kinds<'_>, seed: u64) -> Vec<String> {
    let mut found: Vec<Found<'_>> = found.into_values().collect();
    found.sort_by_key(|found| std::cmp::Reverse(found.count));
    let kinds = found.len();
    let mut texts = Vec::new();
    for (at, Found { count, service, request, difference }) in found.into_iter().take(KINDS).enumerate() {
        let Difference { field, ours, envoys, status } = difference;
        let difference = Difference { field, ours: cut(&ours), envoys: cut(&envoys), status };
        let mut text = format!("{count} times {difference}\n  {}: {}", service.name, cut_lines(&request));
        if at < WITH_OBJECTS {
            text += &format!("\n  made again by AMBIT_DIFF_SEED={seed} AMBIT_DIFF_ONLY={}, of\n{}", service.name, service.yaml());
        }
        texts.push(text);
    }
    if kinds > KINDS {
        texts.push(format!("… and {} other kinds", kinds - KINDS));
    }
    texts
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(LONGEST).collect::<String>())
    }
}

fn cut_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n    ", cut(line))).collect()
}
