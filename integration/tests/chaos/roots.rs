//! The authority is away for longer than certificates wait, and roots are replaced.

use std::{fs, time::Duration};

use ambit_integration::test;
use ambit_tls::authority::{Authority, CERTIFICATE_FILE, FURTHER_ROOTS_FILE, KEY_FILE};
use anyhow::{bail, ensure};
use libtest_mimic::Trial;
use tokio::time::Instant;

use crate::{
    Chaos, PODS,
    world::{DAY, Part, SECOND, replace},
};

/// How long certificates live whose authority goes away, seconds: they are due after 50 to 61.
const LIFE: u64 = 110;
/// All are past due so long after everybody has one. The authority that is back has what is left of their lives then, half a minute, to renew
/// them all.
const PAST: Duration = Duration::from_secs(61);
/// How much older than the last certificate the first may be when the authority goes.
const ALIKE: Duration = Duration::from_secs(15);
/// How often all certificates are replaced to that end.
const TRIES: usize = 4;

pub fn longest() -> Trial {
    test("the authority is away past the half-life of all certificates", no_authority)
}

pub fn tests() -> Vec<Trial> {
    vec![test("the roots of workloads and of the control plane are replaced, and no request fails", rotation)]
}

/// Waits until each node's proxy has obtained as many certificates since `before` as it has pods.
async fn renewed(chaos: &Chaos, what: &str, before: [usize; 2]) -> anyhow::Result<()> {
    let all = async || certificates(chaos).iter().zip(before).all(|(now, before)| *now >= before + PODS / 2);
    chaos.world.until(what, all).await
}

fn certificates(chaos: &Chaos) -> [usize; 2] {
    [0, 1].map(|number| chaos.world.certificates(number))
}

/// Has all certificates replaced, so that it is known how old they are. On a machine that is busy with something else it is tried again.
async fn all_new(chaos: &Chaos, roots: &str) -> anyhow::Result<()> {
    for further in 1..=TRIES {
        let (before, begun) = (certificates(chaos), Instant::now());
        chaos.world.believe(&format!("{roots}{}", "\n".repeat(further)))?;
        renewed(chaos, "new certificates", before).await?;
        if begun.elapsed() <= ALIKE {
            return Ok(());
        }
        println!("all certificates were replaced within {:.0?}, which is tried again", begun.elapsed());
    }
    bail!("all certificates were replaced {TRIES} times, and never within {ALIKE:?}: this machine is too busy for this test")
}

async fn no_authority() -> anyhow::Result<()> {
    let mut chaos = Chaos::start(LIFE).await?;
    let roots = fs::read_to_string(chaos.world.state_of(Part::Authority).join(CERTIFICATE_FILE))?;
    all_new(&chaos, &roots).await?;
    let past = Instant::now() + PAST;
    let phase = chaos.world.begin("authority away past half-life").await?;
    chaos.world.kill_part(Part::Authority).await;
    let before = certificates(&chaos);
    tokio::time::sleep_until(past).await;
    ensure!(certificates(&chaos) == before, "there was another authority");
    chaos.world.start_part(Part::Authority).await?;
    renewed(&chaos, "certificates of the authority that is back", before).await?;
    let row = chaos.world.end(phase).await?;
    ensure!(row.failed() == 0, "{row:#?}");
    chaos.stop().await;
    Ok(())
}

async fn rotation() -> anyhow::Result<()> {
    let mut chaos = Chaos::start(DAY).await?;
    let next = chaos.world.bed.dir().join("next");
    fs::create_dir_all(&next)?;
    let second = Authority::load_or_create(&next, &"cluster.local".parse()?)?.root_pem().to_owned();
    let first = fs::read_to_string(chaos.world.state_of(Part::Authority).join(CERTIFICATE_FILE))?;
    let phase = chaos.world.begin("both roots replaced").await?;
    let steps: [(&str, bool, Option<&str>, String); 3] = [
        ("the next root is believed", false, Some(&second), format!("{first}\n{second}")),
        ("the next root signs", true, Some(&first), format!("{second}\n{first}")),
        ("the first root is gone", true, None, second.clone()),
    ];
    for (what, signs, further, believed) in steps {
        let before = certificates(&chaos);
        for part in [Part::Authority, Part::ControlPlane] {
            let state = chaos.world.state_of(part);
            if signs {
                for file in [KEY_FILE, CERTIFICATE_FILE] {
                    replace(&state.join(file), &fs::read_to_string(next.join(file))?)?;
                }
            }
            match further {
                Some(further) => replace(&state.join(FURTHER_ROOTS_FILE), further)?,
                None => fs::remove_file(state.join(FURTHER_ROOTS_FILE))?,
            }
            chaos.world.kill_part(part).await;
            chaos.world.start_part(part).await?;
        }
        chaos.world.believe(&believed)?;
        renewed(&chaos, what, before).await?;
        tokio::time::sleep(SECOND).await;
    }
    let row = chaos.world.end(phase).await?;
    ensure!(row.failed() == 0, "{row:#?}");
    chaos.stop().await;
    Ok(())
}
