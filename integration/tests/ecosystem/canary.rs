//! Flagger, which leads requests to a new version by the weights of an HTTPRoute, and asks Prometheus whether it does well.

use std::time::{Duration, Instant};

use ambit_integration::wait;
use ambit_testbed::Command;
use anyhow::ensure;
use serde_json::{Value, json};

use crate::documented;
use crate::load::{Load, Outcome, summed};
use crate::user::{PAUSE, User};

/// The deployments, in their first version.
const RELEASES: &str = include_str!("../../manifests/ecosystem/20-releases.yaml");

/// For a promotion: five steps of ten seconds each on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(360);

/// After a change of weights: until the waypoint knows of it, and requests of before have ended.
const LAG: Duration = Duration::from_secs(2);

/// Requests in one step that are enough to say something about their share.
const ENOUGH: usize = 40;

/// A release that Flagger looks after, with the load on it.
struct Release {
    name: &'static str,
    load: Load,
    /// The weight of the new version, and since when.
    weights: Vec<(Instant, u64)>,
    /// What Flagger says of it, in the end.
    phase: String,
}

pub async fn promotes_and_rolls_back(user: &User<'_>) -> anyhow::Result<()> {
    user.in_the_mesh().await?;
    user.scraped().await?;
    user.apply("releases.yaml", RELEASES).await?;
    let words = [("interval: 1m", "interval: 10s"), ("threshold: 5", "threshold: 1"), ("{max: 500}", "{max: 10000}")];
    let text = documented::changed("flagger.yaml", &words)?;
    user.apply("catalog.yaml", &text).await?;
    user.apply("checkout.yaml", &text.replace("catalog", "checkout")).await?;
    let command = Command::new(&user.outside.flagger).arg(format!("-kubeconfig={}", user.cluster.kubeconfig_inside().display()));
    let command = command.args(["-mesh-provider=gatewayapi:v1", "-metrics-server=http://prometheus.monitoring:9090"]);
    user.start("flagger", command.args(["-control-loop-interval=1s", "-port=8089"]))?;
    let (mut good, mut bad) = (Release::begin(user, "catalog").await?, Release::begin(user, "checkout").await?);
    (user.tell)("Flagger has taken over two releases");

    let since = Instant::now();
    let working = "storage=http://storage.data:8080";
    good.deploy(user, working).await?;
    // Nobody listens there, so that each request is answered 502.
    bad.deploy(user, "storage=http://127.0.0.1:9").await?;
    let look = async || {
        tokio::time::sleep(PAUSE).await;
        for release in [&mut good, &mut bad] {
            release.look(user).await.map_err(|error| format!("{error:#}"))?;
        }
        let ended = |phase: &str| matches!(phase, "Succeeded" | "Failed");
        let said = format!("{} is {}, {} is {}", good.name, good.phase, bad.name, bad.phase);
        if ended(&good.phase) && ended(&bad.phase) { Ok(said) } else { Err(said) }
    };
    let (said, _) = wait::until("the end of both releases", PATIENCE, look).await?;
    (user.tell)(&said);

    good.judge_promoted(user, since).await?;
    bad.judge_rolled_back(user, since).await?;
    Ok(())
}

impl Release {
    /// Waits until Flagger has taken it over, and asks for it from then on.
    async fn begin(user: &User<'_>, name: &'static str) -> anyhow::Result<Self> {
        user.wait_for(("shop", &format!("canary/{name}"), "{.status.phase}"), |phase| phase == "Initialized").await?;
        let (from, to) = (user.network("caller").await?, user.address(name).await?);
        let load = Load::start(from, name, to, &["/invoices/1"]);
        load.settled("answered by v1", 20, |outcome| outcome.fine() && outcome.is_from("v1")).await?;
        Ok(Self { name, load, weights: Vec::new(), phase: String::new() })
    }

    /// Deploys the second version.
    async fn deploy(&self, user: &User<'_>, storage: &str) -> anyhow::Result<()> {
        let arguments = ["--name", self.name, "--as-version", "v2", "--downstream", storage];
        let patch = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/args", "value": arguments }]).to_string();
        user.cluster.kubectl(&["patch", "deployment", "-n", "shop", self.name, "--type=json", "-p", &patch]).await?;
        Ok(())
    }

    /// Looks at the route and at what Flagger says.
    async fn look(&mut self, user: &User<'_>) -> anyhow::Result<()> {
        let backends = user.read("shop", &format!("httproute/{}", self.name), "{.spec.rules[0].backendRefs}").await?;
        let seen = Instant::now();
        let backends: Vec<Value> = serde_json::from_str(&backends)?;
        let canary = format!("{}-canary", self.name);
        let weight = backends.iter().find(|backend| backend["name"] == canary.as_str());
        let weight = weight.and_then(|backend| backend["weight"].as_u64()).unwrap_or_default();
        if self.weights.last().is_none_or(|(_, last)| *last != weight) {
            (user.tell)(&format!("{}: {weight} of 100 to the new version", self.name));
            self.weights.push((seen, weight));
        }
        self.phase = user.read("shop", &format!("canary/{}", self.name), "{.status.phase}").await?;
        Ok(())
    }

    /// Fails unless requests were shared as the route said, as long as it did.
    fn judge_steps(&self, user: &User<'_>) -> anyhow::Result<()> {
        for pair in self.weights.windows(2) {
            let [(from, weight), (to, _)] = pair else { continue };
            let outcomes = self.load.between(*from + LAG, *to);
            if *weight == 0 || outcomes.len() < ENOUGH {
                continue;
            }
            let new = outcomes.iter().filter(|outcome| outcome.is_from("v2")).count();
            let share = 100.0 * new as f64 / outcomes.len() as f64;
            let said = format!("{}: {share:.0} % of {} requests by v2 at a weight of {weight}", self.name, outcomes.len());
            ensure!((share - *weight as f64).abs() < 20.0, "{said}");
            (user.tell)(&said);
        }
        Ok(())
    }

    fn steps(&self) -> Vec<u64> {
        self.weights.iter().map(|(_, weight)| *weight).collect()
    }

    async fn judge_promoted(&self, user: &User<'_>, since: Instant) -> anyhow::Result<()> {
        ensure!(self.phase == "Succeeded", "{} was not promoted: {}, weights {:?}", self.name, self.phase, self.steps());
        ensure!(self.steps() == [0, 30, 60, 0], "weights of {}: {:?}", self.name, self.steps());
        self.judge_steps(user)?;
        self.load.settled("answered by v2", 50, |outcome| outcome.fine() && outcome.is_from("v2")).await?;
        let outcomes = self.load.since(since);
        let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.fine()).cloned().collect();
        (user.tell)(&format!("{}: {} of {} requests failed {}", self.name, failed.len(), outcomes.len(), summed(&failed)));
        // Pods of the old version end while they are asked.
        ensure!(failed.len() * 100 <= outcomes.len(), "{} of {} requests failed", failed.len(), outcomes.len());
        Ok(())
    }

    async fn judge_rolled_back(&self, user: &User<'_>, since: Instant) -> anyhow::Result<()> {
        ensure!(self.phase == "Failed", "{} was not rolled back: {}, weights {:?}", self.name, self.phase, self.steps());
        ensure!(self.steps() == [0, 30, 0], "weights of {}: {:?}", self.name, self.steps());
        self.judge_steps(user)?;
        self.load.settled("answered by v1", 50, |outcome| outcome.fine() && outcome.is_from("v1")).await?;
        let outcomes = self.load.since(since);
        let of_new: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.is_from("v2")).collect();
        ensure!(of_new.iter().all(|outcome| outcome.status() == Some(502)) && !of_new.is_empty(), "{}", summed(&outcomes));
        (user.tell)(&format!("{}: {} of {} requests got to the bad version", self.name, of_new.len(), outcomes.len()));
        Ok(())
    }
}
