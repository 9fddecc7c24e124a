//! The root of the mesh changes, and the API server knows who answers all the while.

use std::time::Duration;

use istiod_lite::roots::{Phase, remote};
use tokio::time::{Instant, sleep};

use crate::bed::{BROKEN, Bed, PATIENCE, eventually, policy};

/// How long certificates live here, and the margin of a rotation, seconds.
const LIFE: u64 = 5;
const MARGIN: u64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_refused_before_while_and_after_the_root_changes() {
    let bed = Bed::new().await;
    bed.install(&["ValidatingWebhookConfiguration"]).await;
    let control_plane = bed.control_plane(LIFE, MARGIN).await;
    eventually("a refusal", async || !bed.try_out(&policy("p", BROKEN)).await.done).await;
    let before = bed.bundles().await.unwrap();

    let client = bed.api.client().await.unwrap();
    remote::rotate(client.clone(), "istio-system", false).await.unwrap();
    let status = async || remote::status(client.clone(), "istio-system").await.unwrap();
    // Of each phase how many objects were refused, and how many passed.
    let mut seen = Vec::<(Phase, u32, u32)>::new();
    let end = Instant::now() + PATIENCE;
    loop {
        let phase = status().await.phase;
        if seen.last().is_none_or(|(last, ..)| *last != phase) {
            seen.push((phase, 0, 0));
        }
        let refused = !bed.try_out(&policy("p", BROKEN)).await.done;
        let (_, refusals, passes) = seen.last_mut().unwrap();
        *(if refused { &mut *refusals } else { passes }) += 1;
        let enough = *refusals >= 5;
        if enough && phase == Phase::Stable && seen.len() > 2 {
            break;
        }
        assert!(Instant::now() < end, "{seen:?}");
        sleep(Duration::from_millis(100)).await;
    }
    println!("refused and passed by phase: {seen:?}");
    for expected in [Phase::Distributing, Phase::Overlapping, Phase::Stable] {
        let (refused, passed) = seen
            .iter()
            .filter(|(phase, ..)| *phase == expected)
            .fold((0, 0), |sum, (_, refused, passed)| (sum.0 + refused, sum.1 + passed));
        // One that a busy machine answers too late passes, as it should.
        assert!(refused > 0 && refused >= 5 * passed, "{expected:?}: {seen:?}");
    }
    eventually("the new root alone", async || {
        bed.bundles().await.is_some_and(|now| now != before && now[0].len() < before[0].len() * 3 / 2)
    })
    .await;
    control_plane.stop().await;
}
