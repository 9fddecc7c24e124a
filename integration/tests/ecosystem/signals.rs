//! The golden signals, asked of Prometheus while the load is known.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ambit_runtime::socket::{ConnectOptions, connect};
use anyhow::ensure;

use crate::load::{Load, Outcome};
use crate::user::User;

/// One in four is refused by a policy.
const ORDERS: &[&str] = &["/invoices/1", "/invoices/2", "/invoices/3", "/refunds/1"];
const REPORTS: &[&str] = &["/cgi-bin/late"];

/// Connections that are opened and held.
const HELD: u32 = 12;

/// The connections that a pod may have on its node, by which the documentation divides.
const LIMIT: f64 = 20_000.0;

/// The window of rates, and what a scrape may lag behind.
const WINDOW: Duration = Duration::from_secs(15);

pub async fn answered(user: &User<'_>) -> anyhow::Result<()> {
    user.in_the_mesh().await?;
    user.scraped().await?;
    let caller = user.network("caller").await?;
    let orders_at = user.address("orders").await?;
    let orders = Load::start(caller.clone(), "orders", orders_at, ORDERS);
    let reports = Load::start(caller, "reports", user.address("reports").await?, REPORTS);
    let holder = user.network("holder").await?;
    let mut held = Vec::new();
    for _ in 0..HELD {
        let options = ConnectOptions { netns: Some(&holder), ..ConnectOptions::default() };
        held.push(connect(SocketAddr::new(orders_at, 8080), &options).await?);
    }
    orders.settled("answered, and refused in between", 20, |outcome| matches!(outcome.status(), Some(200 | 403))).await?;
    reports.settled("answered", 5, Outcome::fine).await?;
    let begun = Instant::now();
    // Rates are of what was sent in the window, so there has to be one.
    tokio::time::sleep(WINDOW).await;

    user.signal("traffic", "destination_service_name", |values| {
        let (mut said, now) = (Vec::new(), Instant::now());
        for (name, load) in [("orders", &orders), ("reports", &reports)] {
            let sent = load.between(now.checked_sub(WINDOW).unwrap_or(begun), now).len() as f64 / WINDOW.as_secs_f64();
            let counted = values.get(name).copied().unwrap_or_default();
            let near = (counted - sent).abs() < sent * 0.2 + 0.2;
            let found = format!("{name} {counted:.1}/s, where {sent:.1}/s were sent");
            if !near {
                return Err(found);
            }
            said.push(found);
        }
        Ok(said.join(", "))
    })
    .await?;
    user.signal("errors", "destination_service_name", |values| {
        let share = values.get("orders").copied().unwrap_or_default();
        let said = format!("{:.1} % of requests to orders, where a policy refused 25 %", share * 100.0);
        let others = values.get("reports").copied().unwrap_or_default();
        if (share - 0.25).abs() < 0.05 && others == 0.0 { Ok(said) } else { Err(said) }
    })
    .await?;
    user.signal("latency", "destination_service_name", |values| {
        let of = |name| values.get(name).copied().unwrap_or(f64::NAN);
        let said = format!("orders {:.0} ms, reports {:.0} ms, which take 250 ms and more", of("orders"), of("reports"));
        // What takes 250 ms and more is in the bucket above 250, and nothing there is below it.
        if of("reports") >= 250.0 && of("orders") < of("reports") { Ok(said) } else { Err(said) }
    })
    .await?;
    user.signal("saturation", "source_workload", |values| {
        let open = values.get("holder").copied().unwrap_or_default() * LIMIT;
        let said = format!("{open:.2} connections of holder are open, where {HELD} are held");
        if (open - f64::from(HELD)).abs() < 0.01 { Ok(said) } else { Err(said) }
    })
    .await?;
    let outcomes = orders.since(begun);
    let refused = outcomes.iter().filter(|outcome| outcome.status() == Some(403)).count();
    let fine = outcomes.iter().filter(|outcome| outcome.fine()).count();
    ensure!(refused + fine == outcomes.len(), "other answers came: {}", crate::load::summed(&outcomes));
    drop(held);
    Ok(())
}
