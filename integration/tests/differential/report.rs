//! What came of all requests, in counts, and what is wrong, for a person.

use std::collections::BTreeMap;

use crate::command::Sample;
use crate::explained::{self, Told};
use crate::known::{Difference, Known};
use crate::run::{Pair, Ran};
use crate::world::Service;

/// So many kinds of differences are told at most, each with one request.
const KINDS: usize = 60;
/// So many of them with the objects that they come of.
const WITH_OBJECTS: usize = 6;
/// Of so many in a hundred pairs that both have ended alike, and that have a line, the lines in both logs are known, at least; and so many in a
/// hundred of all pairs are such.
const LOGGED: usize = 99;
const ALIKE: usize = 80;
/// So many in a hundred pairs are explained, at least: of the others the question cannot be asked.
const TOLD: usize = 95;
/// Longer texts are cut.
const LONGEST: usize = 100;

/// What is wrong, by the test that fails for it.
pub struct Report {
    pub fixed: Vec<String>,
    pub rotating: Vec<String>,
    pub unmet: Vec<String>,
    pub unlike_told: Vec<String>,
    pub unlike_command: Vec<String>,
}

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
    pub fn of(services: &[Service], ran: &Ran, sample: &Sample, known: &[Known], (seed, whole): (u64, bool)) -> Self {
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
        let mut statuses = BTreeMap::<&str, usize>::new();
        for pair in &ran.pairs {
            *statuses.entry(&pair.ours[0].answer.status).or_default() += 1;
        }
        let routes: usize = services.iter().map(Service::routes).sum();
        println!("{} pairs of requests to {} services with {routes} routes", ran.pairs.len(), services.len());
        println!("{} were asked again, and of {logged} the lines in both logs are compared, of {alike} that both log", ran.again);
        println!("{told} were explained; the others cannot be asked about: {not_asked:?}");
        println!("{sample}");
        println!("answered by ours: {statuses:?}");
        for known in known {
            println!("{:6} known differences: {}", known.met.get(), known.text);
        }
        let unlike_command = sample.wrong(whole);
        Self { fixed: words(fixed, seed), rotating: words(rotating, seed), unmet, unlike_told, unlike_command }
    }
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
