//! Everything of Ambit is replaced under load.

use std::time::{Duration, Instant};

use ambit_integration::wait;

use crate::held::Held;
use crate::load::KEPT;
use crate::nothing::DRAIN;
use crate::parts::{AGENTS, CONTROL_PLANE, PROXIES, Part, WAYPOINT};
use crate::user::{PATIENCE, PAUSE, User};

/// A waypoint goes on for so long before it cuts what is open: it lingers, then it drains.
const WAYPOINT_DRAIN: Duration = Duration::from_secs(25);

/// For ever, as far as the test is concerned.
const LONG: Duration = Duration::from_secs(3600);

/// What the image of Ambit is called to which all parts are upgraded.
const NEXT: &str = "ghcr.io/ambit-mesh/ambit:next";

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
        self.load_image(&["--name", NEXT]).await?;
        let since = Instant::now();
        let tag = NEXT.rsplit_once(':').map(|(_, tag)| format!("image.tag={tag}")).unwrap_or_default();
        self.ambit(&["upgrade", "--wait", "--set", &tag]).await?;
        (self.tell)("ambit upgrade --wait");
        for part in [CONTROL_PLANE, AGENTS, PROXIES, WAYPOINT] {
            self.runs(part, NEXT).await?;
        }
        self.takes_effect("v2").await?;
        load.judge(self, "ambit upgrade", since, |_| Some(DRAIN)).await
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
