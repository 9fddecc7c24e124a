//! Which plots the page has.

use crate::{
    document::Document,
    figure::{BULK, Figure, MEMORY_HELD, MEMORY_IDLE, MEMORY_PEAK, REQUESTS},
};

use super::{
    plot::{self, Bar, Series, escape},
    scale::{Scale, nines},
};

/// All plots of which something was measured.
pub(super) fn all(document: &Document) -> String {
    let many = REQUESTS.last().copied().unwrap_or(REQUESTS[0]);
    let streams = BULK.last().copied().unwrap_or(BULK[0]);
    let plots = [
        throughput(document),
        latency(document),
        split(document, many.cpu, "CPU-seconds of the proxies for 10,000 requests on 64 connections"),
        split(document, streams.cpu, "CPU-seconds of the proxies for a GB on 8 streams"),
        memory(document),
    ];
    let series = document.results.series.iter().map(|(title, points)| over_time(title, points));
    plots.into_iter().flatten().chain(series).collect()
}

fn frame(title: &str, legend: &str, svg: &str, caption: &str) -> String {
    format!("<figure><h2>{}</h2>{legend}{svg}<figcaption>{}</figcaption></figure>\n", escape(title), escape(caption))
}

fn class(path: &str) -> String {
    format!("path-{path}")
}

fn legend(series: &[Series]) -> String {
    plot::legend(series.iter().map(|series| (series.class.as_str(), series.name.as_str())))
}

fn throughput(document: &Document) -> Option<String> {
    let mut all = Vec::new();
    for path in &document.paths {
        let mut series = Series { name: path.clone(), class: class(path), points: Vec::new(), ranges: Vec::new() };
        for figures in REQUESTS {
            let Some(summary) = document.results.summary(path, figures.rate.key) else { continue };
            series.points.push([figures.connections as f64, summary.median]);
            series.ranges.push([summary.min, summary.max]);
        }
        all.extend(Some(series).filter(|series| !series.points.is_empty()));
    }
    let most = all.iter().flat_map(|series| &series.ranges).map(|[_, high]| *high).reduce(f64::max)?;
    let across = Scale::logarithmic(1.0, 100.0).with_ticks(&REQUESTS.map(|figures| figures.connections as f64));
    let svg = plot::lines(&across, &Scale::linear(most), ["requests/s", "connections"], &all);
    Some(frame(
        "Requests a second by connections",
        &legend(&all),
        &svg,
        "1 KB answers, keep-alive. The wide part of a line is the range of the rounds.",
    ))
}

fn latency(document: &Document) -> Option<String> {
    let mut all = Vec::new();
    for path in &document.paths {
        let curve = document.results.curve(path);
        let points: Vec<[f64; 2]> = curve
            .into_iter()
            .filter(|[share, _]| *share < 1.0)
            .map(|[share, milliseconds]| [nines(share), milliseconds])
            .collect();
        if !points.is_empty() {
            all.push(Series { name: path.clone(), class: class(path), points, ranges: Vec::new() });
        }
    }
    let values = || all.iter().flat_map(|series| &series.points).map(|[_, milliseconds]| *milliseconds);
    let up = Scale::logarithmic(values().reduce(f64::min)?, values().reduce(f64::max)?);
    let svg = plot::lines(&Scale::shares(), &up, ["milliseconds", "share of the requests answered within"], &all);
    let caption = "Milliseconds at 2,000 requests/s, counted from when each request was due. Medians of the rounds.";
    Some(frame("Latency", &legend(&all), &svg, caption))
}

fn split(document: &Document, figure: Figure, title: &str) -> Option<String> {
    let mut bars = Vec::new();
    for path in &document.paths {
        for process in document.results.parts.get(path).into_iter().flat_map(|processes| processes.keys()) {
            let part = |what: &str| document.results.part(path, process, &format!("{}_{what}", figure.key));
            let (Some(user), Some(system)) = (part("user"), part("system")) else { continue };
            let parts = vec![("in the program".to_owned(), user.median), ("in the kernel".to_owned(), system.median)];
            bars.push(Bar { name: format!("{path}: {process}"), class: class(path), parts });
        }
    }
    let caption = "Strong: in the program. Weak: in the kernel for it.";
    (!bars.is_empty()).then(|| frame(title, "", &plot::bars(&bars), caption))
}

fn memory(document: &Document) -> Option<String> {
    let mut bars = Vec::new();
    for path in &document.paths {
        for (figure, what) in [(MEMORY_IDLE, "idle"), (MEMORY_HELD, "1,000 connections"), (MEMORY_PEAK, "peak")] {
            if let Some(summary) = document.results.summary(path, figure.key) {
                bars.push(Bar {
                    name: format!("{path}, {what}"),
                    class: class(path),
                    parts: vec![(what.to_owned(), summary.median)],
                });
            }
        }
    }
    let caption =
        "All proxies of the path together. Idle and with connections: each shared page divided among its users (PSS); peak: RSS.";
    (!bars.is_empty()).then(|| frame("Memory of the proxies, MB", "", &plot::bars(&bars), caption))
}

fn over_time(title: &str, points: &[[f64; 2]]) -> String {
    let most = |at: usize| points.iter().map(|point| point[at]).fold(0.0, f64::max);
    let series = Series { name: title.to_owned(), class: class("ztunnel"), points: points.to_vec(), ranges: Vec::new() };
    let svg = plot::lines(&Scale::linear(most(0)), &Scale::linear(most(1)), ["MB", "seconds"], &[series]);
    frame(title, "", &svg, "Sampled twice a second.")
}
