//! An endpoint that fails while the others of its service do not.

use std::time::Duration;

use ambit_integration::wait::until;
use anyhow::ensure;

use crate::client::Channel;
use crate::mesh::{Mesh, PATIENCE};
use crate::objects::{EJECTING, RETURNING};

/// How many requests the endpoints have been given, each.
fn given(mesh: &Mesh) -> [u64; 3] {
    [0, 1, 2].map(|at: usize| mesh.ejecting[at].came())
}

/// Asks one after the other; says how many of them went well, and how many came to the first endpoint.
async fn ask(mesh: &Mesh, channel: &Channel, count: u64) -> anyhow::Result<(u64, u64)> {
    let [before, ..] = given(mesh);
    let mut fine = 0;
    for _ in 0..count {
        let (status, _) = channel.get(&mesh.caller, "/", "").await?;
        fine += u64::from(status == 200);
    }
    let [after, ..] = given(mesh);
    Ok((fine, after - before))
}

/// Waits until the first endpoint is given what the others are; how many of 30 that was, and how long it took.
async fn whole_again(mesh: &Mesh, channel: &Channel) -> anyhow::Result<(u64, Duration)> {
    let whole = async || match ask(mesh, channel, 30).await {
        Ok((_, first)) if first >= 9 => Ok(first),
        Ok((_, first)) => Err(format!("{first} of 30 came to it")),
        Err(error) => Err(format!("{error:#}")),
    };
    until("the endpoint has its whole share", PATIENCE, whole).await
}

/// It is left alone while it fails, but for tries now and then, and has its share again when it is well.
pub async fn returns(mesh: &Mesh) -> anyhow::Result<()> {
    let channel = Channel::new(EJECTING);
    let (fine, first) = ask(mesh, &channel, 60).await?;
    ensure!(fine == 60 && (12..=28).contains(&first), "while all are well {fine} of 60 went well, {first} at the first endpoint");
    mesh.ejecting[0].fail(100);
    let (fine, first) = ask(mesh, &channel, 120).await?;
    println!("of 120 requests while one of three endpoints failed {fine} went well, {first} were tried there");
    // A third would be 40.
    ensure!(first <= 20 && fine + first == 120, "{first} of 120 were sent to an endpoint that fails, {fine} went well");
    mesh.ejecting[0].fail(0);
    let back = async || match ask(mesh, &channel, 5).await {
        Ok((_, 0)) => Err("it is given nothing".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error:#}")),
    };
    let ((), after) = until("the endpoint is asked again", PATIENCE, back).await?;
    let (fine, at_first) = ask(mesh, &channel, 60).await?;
    // A third would be 20. Nobody asks for a slow start: it is on probation.
    ensure!(fine == 60 && at_first <= 12, "{fine} of 60 went well, {at_first} at an endpoint that has just returned");
    whole_again(mesh, &channel).await?;
    let (fine, first) = ask(mesh, &channel, 120).await?;
    println!(
        "it was asked again {after:.1?} after it was well, and had {at_first} of the next 60 requests, and {first} of 120 later"
    );
    ensure!(fine == 120 && (12..=60).contains(&first), "{fine} of 120 went well, {first} at the endpoint that is well again");
    Ok(())
}

/// With a window of 4 seconds: a tenth of a share at first, and the whole of it at the end.
pub async fn returns_slowly(mesh: &Mesh) -> anyhow::Result<()> {
    let channel = Channel::new(RETURNING);
    let (fine, first) = ask(mesh, &channel, 60).await?;
    ensure!(fine == 60 && (12..=28).contains(&first), "while all are well {fine} of 60 went well, {first} at the first endpoint");
    mesh.ejecting[0].fail(100);
    let alone = async || match ask(mesh, &channel, 10).await {
        Ok((_, 0)) => Ok(()),
        Ok((_, first)) => Err(format!("{first} of 10 came to it")),
        Err(error) => Err(format!("{error:#}")),
    };
    until("the endpoint is left alone", PATIENCE, alone).await?;
    mesh.ejecting[0].fail(0);
    let back = async || match ask(mesh, &channel, 5).await {
        Ok((_, 0)) => Err("it is given nothing".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error:#}")),
    };
    until("the endpoint is asked again", PATIENCE, back).await?;
    let (fine, at_first) = ask(mesh, &channel, 60).await?;
    // A third would be 20.
    ensure!(fine == 60 && at_first <= 12, "{fine} of 60 went well, {at_first} at an endpoint that has just returned");
    let (whole, after) = whole_again(mesh, &channel).await?;
    println!("of 60 requests {at_first} came to an endpoint that had just returned, {after:.1?} later {whole} of 30");
    Ok(())
}
