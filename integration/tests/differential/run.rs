//! All requests through both waypoints.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use futures::StreamExt as _;

use crate::explained::{self, Told};
use crate::known::{Difference, Known, Outcome, PROXY, Side};
use crate::logs;
use crate::mesh::{Client, Mesh};
use crate::wire::Answer;
use crate::world::{Chance, Service};

/// So many services are asked at a time.
const AT_A_TIME: usize = 4;
/// What is unlike at first and a matter of chance is asked again so often, in each of these rounds.
const AGAIN: usize = 4;
const ROUNDS: usize = 2;

/// A request to a service, and what became of it on each side, each time.
pub struct Pair {
    pub service: usize,
    pub request: usize,
    pub ours: Vec<Outcome>,
    pub envoys: Vec<Outcome>,
    /// What our waypoint said of it before it was asked for the first time.
    pub told: Option<Told>,
}

/// What came of all.
pub struct Ran {
    pub pairs: Vec<Pair>,
    /// Which of them were asked again as they are a matter of chance, and of which.
    pub by_chance: BTreeMap<usize, Chance>,
    /// Which were asked once more as nothing was answered, for no fault of a waypoint, and what was said of that.
    pub failed: BTreeMap<usize, String>,
}

/// What one request was answered, each time, by both.
struct Asked {
    pair: usize,
    told: Option<Told>,
    answers: Vec<(usize, [Answer; 2])>,
}

impl Pair {
    /// Whether the lines in both logs are compared; `None` of what never ended alike, or was refused by a parser, whose line names no
    /// request.
    pub fn is_logged_by_both(&self) -> Option<bool> {
        let refused = |outcome: &Outcome| {
            let status = outcome.answer.status.as_str();
            outcome.answered_by() == PROXY && (["400", "431"].contains(&status) || status.parse::<u16>().is_err())
        };
        let both = self.ours.iter().flat_map(|ours| self.envoys.iter().map(move |envoys| (ours, envoys)));
        let alike = both.filter(|(ours, envoys)| {
            ours.answer.status == envoys.answer.status && ours.answered_by() == envoys.answered_by() && !refused(ours)
        });
        alike.map(|(ours, envoys)| ours.logged.is_some() && envoys.logged.is_some()).reduce(|one, other| one || other)
    }

    /// What failed, and no waypoint, where nothing was answered.
    pub fn failed(&self) -> Option<&str> {
        self.ours.iter().chain(&self.envoys).find_map(|outcome| outcome.answer.failed())
    }

    /// Leaves such out where the other time there was an answer.
    fn forget_failures(&mut self) {
        let answered = |outcome: &Outcome| outcome.answer.failed().is_none();
        for outcomes in [&mut self.ours, &mut self.envoys] {
            if outcomes.iter().any(answered) {
                outcomes.retain(answered);
            }
        }
    }

    /// What of its end is a matter of chance, by the objects of its service, and by what was told of it where something was.
    fn chance(&self, service: &Service) -> Option<Chance> {
        let is = |chance: &Chance| match &self.told {
            Some(Told::So(told)) => explained::may_differ(told, *chance),
            _ => true,
        };
        service.chance().into_iter().find(is)
    }

    /// The differences that are in no entry of the file, of the two outcomes that are most alike. Entries that the others are in have been met.
    pub fn unlisted(&self, known: &[Known], text: &str) -> Vec<Difference> {
        let mut least: Option<Vec<Difference>> = None;
        // Where the lines of some are known, the others say less.
        let is_logged = |outcome: &&Outcome| outcome.logged.is_some();
        let of_all = !self.ours.iter().any(|ours| is_logged(&ours)) || !self.envoys.iter().any(|envoys| is_logged(&envoys));
        for ours in self.ours.iter().filter(|ours| of_all || is_logged(ours)) {
            for envoys in self.envoys.iter().filter(|envoys| of_all || is_logged(envoys)) {
                let all = ours.differences(envoys);
                let entry = |difference: &Difference| known.iter().find(|known| known.is(difference, text));
                let unlisted: Vec<Difference> = all.iter().filter(|difference| entry(difference).is_none()).cloned().collect();
                if unlisted.is_empty() {
                    all.iter().filter_map(entry).for_each(|known| known.met.set(known.met.get() + 1));
                    return unlisted;
                }
                if least.as_ref().is_none_or(|least| unlisted.len() < least.len()) {
                    least = Some(unlisted);
                }
            }
        }
        least.unwrap_or_default()
    }
}

/// Asks everything, and again what is unlike and a matter of chance; and once more what failed by itself. All else has to be alike at once.
///
/// # Errors
/// When the admin page does not answer.
pub async fn all(mesh: &Mesh, services: &[Service], known: &[Known]) -> anyhow::Result<Ran> {
    let each =
        services.iter().enumerate().flat_map(|(service, of)| (0..of.requests.len()).map(move |request| (service, request)));
    let new = |(service, request)| Pair { service, request, ours: Vec::new(), envoys: Vec::new(), told: None };
    let mut pairs: Vec<Pair> = each.map(new).collect();
    let every: BTreeSet<usize> = (0..pairs.len()).collect();
    ask(mesh, services, &mut pairs, &every, 0..1).await?;
    let unlike = which_are_unlike(services, &pairs, known);
    let failed: BTreeMap<usize, String> = unlike.iter().filter_map(|at| Some((*at, pairs[*at].failed()?.to_owned()))).collect();
    if !failed.is_empty() {
        ask(mesh, services, &mut pairs, &failed.keys().copied().collect(), 1..2).await?;
        failed.keys().for_each(|at| pairs[*at].forget_failures());
    }
    let chance = |at: &usize| Some((*at, pairs[*at].chance(&services[pairs[*at].service])?));
    let by_chance: BTreeMap<usize, Chance> = unlike.iter().filter(|at| !failed.contains_key(*at)).filter_map(chance).collect();
    let mut again: BTreeSet<usize> = by_chance.keys().copied().collect();
    for round in 0..ROUNDS {
        if again.is_empty() {
            break;
        }
        let first = 2 + round * AGAIN;
        ask(mesh, services, &mut pairs, &again, first..first + AGAIN).await?;
        let unlike = which_are_unlike(services, &pairs, known);
        again.retain(|at| unlike.contains(at));
    }
    known.iter().for_each(|known| known.met.set(0));
    Ok(Ran { pairs, by_chance, failed })
}

fn which_are_unlike(services: &[Service], pairs: &[Pair], known: &[Known]) -> BTreeSet<usize> {
    let is = |pair: &Pair| {
        let service = &services[pair.service];
        let otherwise = match &pair.told {
            Some(Told::So(told)) => !pair.ours.iter().any(|ours| explained::ended_so(told, service, ours).is_ok()),
            _ => false,
        };
        // Of what failed on both sides nothing is known to be alike.
        otherwise || pair.failed().is_some() || !pair.unlisted(known, &service.requests[pair.request].text()).is_empty()
    };
    // What counts how often it is asked would be another one the next time.
    (0..pairs.len()).filter(|at| !services[pairs[*at].service].once && is(&pairs[*at])).collect()
}

async fn ask(
    mesh: &Mesh,
    services: &[Service],
    pairs: &mut [Pair],
    which: &BTreeSet<usize>,
    times: Range<usize>,
) -> anyhow::Result<()> {
    let mut of_service: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for at in which {
        of_service.entry(pairs[*at].service).or_default().push((*at, pairs[*at].request));
    }
    let work = of_service.into_iter().map(|(service, which)| Box::pin(of_one(mesh, &services[service], which, times.clone())));
    let asked: Vec<anyhow::Result<Vec<Asked>>> = futures::stream::iter(work).buffer_unordered(AT_A_TIME).collect().await;
    let asked: Vec<Asked> = asked.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect();
    let arrivals = mesh.arrivals.settled().await;
    let mut lines = logs::settled(mesh).await;
    for Asked { pair, told, answers } in asked {
        for (time, answers) in answers {
            let [ours, envoys] = answers;
            let mut outcome = |side: Side, answer: Answer| {
                let id = id(pair, time, side);
                let arrivals = arrivals.get(&id).cloned().unwrap_or_default();
                Outcome { answer, arrivals, logged: lines[side as usize].remove(&id) }
            };
            let (ours, envoys) = (outcome(Side::Ours, ours), outcome(Side::Envoys, envoys));
            pairs[pair].ours.push(ours);
            pairs[pair].envoys.push(envoys);
        }
        let place = &mut pairs[pair];
        place.told = place.told.take().or(told);
    }
    Ok(())
}

fn id(pair: usize, time: usize, side: Side) -> String {
    format!("{pair}-{time}-{}", side as usize)
}

/// The requests to one service, one after the other, each to both waypoints at once.
async fn of_one(mesh: &Mesh, service: &Service, which: Vec<(usize, usize)>, times: Range<usize>) -> anyhow::Result<Vec<Asked>> {
    let mut ours = Client::new(mesh, Side::Ours, service.address);
    let mut envoys = Client::new(mesh, Side::Envoys, service.address);
    let mut asked = Vec::new();
    for (pair, request) in which {
        let request = &service.requests[request];
        let told = if times.start == 0 { Some(explained::ask(mesh, service, request).await?) } else { None };
        let mut answers = Vec::new();
        for time in times.clone() {
            let [for_ours, for_envoy] = [Side::Ours, Side::Envoys].map(|side| id(pair, time, side));
            let both = futures::join!(ours.ask(request, &for_ours), envoys.ask(request, &for_envoy));
            answers.push((time, both.into()));
        }
        asked.push(Asked { pair, told, answers });
    }
    Ok(asked)
}
