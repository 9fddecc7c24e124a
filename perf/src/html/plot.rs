//! Plots as SVG, drawn here so that the page needs no script; colours are classes of the page's style.

use std::fmt::Write as _;

use super::scale::{Scale, short};

/// Room of a plot in its own units, and of what is beside its axes.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 26.0;

/// A line of a plot.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its colour: a class of the page's style.
    pub class: String,
    /// Its points from left to right.
    pub points: Vec<[f64; 2]>,
    /// The least and most at each point, if rounds differ.
    pub ranges: Vec<[f64; 2]>,
}

/// A bar made of parts on top of each other.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What is written at its beginning.
    pub name: String,
    /// Its colour: a class of the page's style.
    pub class: String,
    /// What each part is, and its size.
    pub parts: Vec<(String, f64)>,
}

/// Text that is text in HTML and SVG.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Lines over two axes.
#[must_use]
pub fn lines(across: &Scale, up: &Scale, labels: [&str; 2], series: &[Series]) -> String {
    let x = |value: f64| LEFT + across.place(value) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - up.place(value) * (HEIGHT - BOTTOM - TOP);
    let mut out =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(&labels.join(" over ")));
    for (value, text) in &up.ticks {
        let at = y(*value);
        let _ = write!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - RIGHT);
        let _ =
            write!(out, "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, at + 4.0);
    }
    for (value, text) in &across.ticks {
        let (at, low) = (x(*value), HEIGHT - BOTTOM + 16.0);
        let _ = write!(out, "<text class=\"tick\" x=\"{at:.1}\" y=\"{low:.1}\" text-anchor=\"middle\">{text}</text>");
    }
    let [above, below] = labels.map(escape);
    let (middle, floor) = (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 6.0);
    let _ = write!(out, "<text class=\"axis\" x=\"{middle:.1}\" y=\"{floor:.1}\" text-anchor=\"middle\">{below}</text>");
    let _ = write!(out, "<title>{above} over {below}</title>");
    for Series { name, class, points, ranges } in series {
        let path: Vec<String> = points.iter().map(|[across, up]| format!("{:.1},{:.1}", x(*across), y(*up))).collect();
        let _ = write!(out, "<g class=\"{class}\"><polyline class=\"line\" points=\"{}\"/>", path.join(" "));
        for ([at, _], [low, high]) in points.iter().zip(ranges) {
            let _ = write!(
                out,
                "<line class=\"range\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>",
                x(*at),
                y(*low),
                y(*high)
            );
        }
        for [across, up] in points.iter().take(40) {
            let _ = write!(
                out,
                "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {}</title></circle>",
                x(*across),
                y(*up),
                escape(name),
                short(*up)
            );
        }
        out.push_str("</g>");
    }
    out.push_str("</svg>");
    out
}

/// Bars from left to right, one below the other, each of the same colour in stronger and weaker parts.
#[must_use]
pub fn bars(bars: &[Bar]) -> String {
    const NAMES: f64 = 206.0;
    const STEP: f64 = 26.0;
    let most = bars.iter().map(|bar| bar.parts.iter().map(|(_, size)| size).sum::<f64>()).fold(0.0, f64::max);
    let scale = Scale::linear(most);
    let x = |value: f64| NAMES + scale.place(value) * (WIDTH - NAMES - 48.0);
    let height = bars.len() as f64 * STEP + 30.0;
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    for (value, text) in &scale.ticks {
        let at = x(*value);
        let _ = write!(out, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{:.1}\"/>", height - 24.0);
        let _ = write!(out, "<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", height - 8.0);
    }
    for (at, Bar { name, class, parts }) in bars.iter().enumerate() {
        let top = at as f64 * STEP + 4.0;
        let (name, line) = (escape(name), top + 13.0);
        let _ = write!(out, "<text class=\"name\" x=\"{:.1}\" y=\"{line:.1}\" text-anchor=\"end\">{name}</text>", NAMES - 8.0);
        let _ = write!(out, "<g class=\"{class}\">");
        let mut from = 0.0;
        for (part, (what, size)) in parts.iter().enumerate() {
            let (left, right) = (x(from), x(from + size));
            let width = (right - left - 1.0).max(0.0);
            let what = escape(what);
            let _ = write!(
                out,
                "<rect class=\"bar part{part}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"18\" rx=\"2\"><title>{name}, {what}: {}</title></rect>",
                short(*size)
            );
            from += size;
        }
        let _ = write!(out, "</g><text class=\"value\" x=\"{:.1}\" y=\"{line:.1}\">{}</text>", x(from) + 5.0, short(from));
    }
    out.push_str("</svg>");
    out
}

/// What each colour is.
#[must_use]
pub fn legend<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let entries: String =
        entries.map(|(class, name)| format!("<span class=\"key {class}\"><i></i>{}</span>", escape(name))).collect();
    format!("<div class=\"legend\">{entries}</div>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_holds_every_point_and_its_names_are_text() {
        let series = Series {
            name: "a<b".to_owned(),
            class: "path-ztunnel".to_owned(),
            points: vec![[1.0, 10.0], [16.0, 90.0]],
            ranges: vec![[9.0, 11.0], [80.0, 95.0]],
        };
        let svg = lines(&Scale::logarithmic(1.0, 64.0), &Scale::linear(100.0), ["requests/s", "connections"], &[series]);
        assert_eq!((svg.matches("<circle").count(), svg.matches("class=\"range\"").count()), (2, 2));
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
    }

    #[test]
    fn the_parts_of_a_bar_lie_behind_one_another() {
        let bar = Bar {
            name: "near".to_owned(),
            class: "path-ztunnel".to_owned(),
            parts: vec![("user".to_owned(), 1.0), ("kernel".to_owned(), 3.0)],
        };
        let svg = bars(&[bar]);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("near, kernel: 3") && svg.contains(">4</text>"), "{svg}");
    }
}
