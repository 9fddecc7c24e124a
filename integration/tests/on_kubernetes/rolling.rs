//! Everything of Ambit is replaced under load.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ambit_integration::wait;
use anyhow::ensure;

use crate::held::Held;
use crate::load::KEPT;
use crate::nothing::DRAIN;
use crate::parts::{AGENTS, CONTROL_PLANE, PROXIES, Part, WAYPOINT};
use crate::user::{PATIENCE, PAUSE, User};

/// A waypoint goes on for so long before it cuts what is open: it lingers, then it drains.
const WAYPOINT_DRAIN: Duration = Duration::from_secs(25);

/// For ever, as far as the test is concerned.
const LONG: Duration = Duration::from_secs(3600);

/// What the image of Ambit is called that is installed first, and what the one to which all parts are upgraded.
const FIRST: &str = concat!("ghcr.io/ambit-mesh/ambit:", env!("CARGO_PKG_VERSION"));
const NEXT: &str = "ghcr.io/ambit-mesh/ambit:next";

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/chart");

impl User<'_> {
    /// Restarts all parts, one after the other.
    pub async fn restarts(&self) -> anyhow::Result<()> {
        let load = self.under_load().await?;

        // First, for it takes longest to end. Its clients learn from it that they are to go elsewhere.
        load.keep(LONG);
        let begun = Instant::now();
        let old = self.pods(WAYPOINT, "{.metadata.uid}").await?;
        self.restart(WAYPOINT).await?;
        load.judge(self, "a new pod of the waypoint took over", begun, |held| held.waypoint.then_some(WAYPOINT_DRAIN)).await?;
        let waypoint = |since: Instant| move |held: &Held| held.waypoint.then(|| (begun + WAYPOINT_DRAIN).duration_since(since));

        let since = Instant::now();
        self.restart(CONTROL_PLANE).await?;
        self.takes_effect("v1").await?;
        load.judge(self, "the control plane was restarted", since, waypoint(since)).await?;

        let since = Instant::now();
        self.restart(AGENTS).await?;
        self.first_requests("agents", 2).await?;
        load.judge(self, "the node agents were restarted", since, waypoint(since)).await?;

        let since = Instant::now();
        self.gone(WAYPOINT, &old).await?;
        load.judge(self, "the old pod of the waypoint has drained and ended", since, waypoint(since)).await?;
        // What takes longer than it lingers and drains is cut, whatever it is.
        let left = load.outlasting(begun);
        ensure!(left.is_empty(), "held through a pod that has ended, and not cut: {left:?}");
        load.keep(KEPT);

        let since = Instant::now();
        let old = self.pods(PROXIES, "{.metadata.uid}").await?;
        self.restart(PROXIES).await?;
        self.gone(PROXIES, &old).await?;
        load.judge(self, "the node proxies were restarted", since, |_| Some(DRAIN)).await
    }

    /// Upgrades all parts at once to another image.
    pub async fn upgrade(&self) -> anyhow::Result<()> {
        let load = self.under_load().await?;
        let image = self.another_image().await?;
        let since = Instant::now();
        self.ambit(&["upgrade", "--wait", "--set", &tag(image)]).await?;
        (self.tell)("ambit upgrade --wait");
        self.all_run(image).await?;
        self.takes_effect("v2").await?;
        load.judge(self, "ambit upgrade", since, |_| Some(DRAIN)).await
    }

    /// Leaves what is installed to Helm, which upgrades all parts at once to another image; then takes it back as it is.
    pub async fn helm_upgrade(&self) -> anyhow::Result<()> {
        let load = self.under_load().await?;
        let image = self.another_image().await?;
        self.no_old(PROXIES).await?;
        let since = Instant::now();
        let settings = self.directory.join("settings.yaml");
        std::fs::write(&settings, self.ambit(&["uninstall", "--to-helm"]).await?)?;
        let (settings, tag) = (settings.display().to_string(), tag(image));
        let release = ["upgrade", "--install", "ambit", CHART, "--namespace", "istio-system", "--wait", "--timeout=180s"];
        self.helm(&[&release[..], &["--values", &settings, "--set", &tag]].concat()).await?;
        (self.tell)("helm upgrade --install --wait");
        self.all_run(image).await?;
        self.takes_effect("v1").await?;

        let before = self.all_pods().await?;
        self.ambit(&["install", "--from-helm", "--wait", "--values", &settings, "--set", &tag]).await?;
        self.takes_effect("v2").await?;
        let after = self.all_pods().await?;
        ensure!(after.is_subset(&before), "ambit install --from-helm made new pods: {before:?}, then {after:?}");
        // Connections through pods of the waypoint that were replaced before may end now.
        let may_break = |held: &Held| Some(if held.waypoint { Duration::ZERO } else { DRAIN });
        load.judge(self, "helm upgrade", since, may_break).await
    }

    /// An image of Ambit that no part runs.
    async fn another_image(&self) -> anyhow::Result<&'static str> {
        let runs = self.pods(CONTROL_PLANE, "{.spec.containers[0].image}").await?;
        if runs.contains(NEXT) {
            return Ok(FIRST);
        }
        self.load_image(&["--name", NEXT]).await?;
        Ok(NEXT)
    }

    /// The pods of the installation, but for those that end.
    async fn all_pods(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for part in [CONTROL_PLANE, AGENTS, PROXIES] {
            let pods = self.pods(part, "{.metadata.name} {.metadata.uid} {.metadata.deletionTimestamp}").await?;
            all.extend(pods.into_iter().filter(|pod| pod.ends_with(' ')));
        }
        Ok(all)
    }

    /// Waits until all parts run this image.
    async fn all_run(&self, image: &str) -> anyhow::Result<()> {
        for part in [CONTROL_PLANE, AGENTS, PROXIES, WAYPOINT] {
            self.runs(part, image).await?;
        }
        Ok(())
    }

    /// Waits until no pod of a part is about to end.
    async fn no_old(&self, part: Part) -> anyhow::Result<()> {
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let ending = self.pods(part, "{.metadata.deletionTimestamp}").await.map_err(|error| error.to_string())?;
            if ending.is_empty() { Ok(()) } else { Err(format!("{ending:?}")) }
        };
        wait::until(&format!("the end of the old pods of {}", part.owner), PATIENCE, look).await?;
        Ok(())
    }

    /// Waits until all pods of a part run this image, but for those that end.
    async fn runs(&self, part: Part, image: &str) -> anyhow::Result<()> {
        let look = async || {
            tokio::time::sleep(PAUSE).await;
            let pods = self.pods(part, "{.spec.containers[0].image} {.metadata.deletionTimestamp}").await;
            let images = pods.map_err(|error| error.to_string())?;
            let staying: Vec<_> = images.iter().filter_map(|line| line.strip_suffix(' ')).collect();
            if staying == [image] { Ok(()) } else { Err(format!("{images:?}")) }
        };
        wait::until(&format!("the new image in {}", part.owner), PATIENCE, look).await?;
        Ok(())
    }
}

/// The setting of the chart by which all parts run an image.
fn tag(image: &str) -> String {
    let tag = image.rsplit_once(':').map_or(image, |(_, tag)| tag);
    format!("image.tag={tag}")
}
