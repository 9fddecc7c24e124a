//! From values to places on a plot.

/// Where values lie along one side of a plot.
#[derive(Debug, Clone)]
pub struct Scale {
    logarithmic: bool,
    from: f64,
    to: f64,
    /// Values with a line and what is written at it.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// From zero to at least `most`, with a handful of round ticks.
    #[must_use]
    pub fn linear(most: f64) -> Self {
        let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        let step = round_step(most / 4.0);
        let count = (most / step).ceil();
        let ticks = (0..=count as usize).map(|at| at as f64 * step).map(|value| (value, short(value))).collect();
        Self { logarithmic: false, from: 0.0, to: step * count, ticks }
    }

    /// Each doubling, or each of 1, 2, 5 times a power of ten, takes the same room; from at most `least` to at least `most`.
    #[must_use]
    pub fn logarithmic(least: f64, most: f64) -> Self {
        let least = if least.is_finite() && least > 0.0 { least } else { 0.1 };
        let most = if most.is_finite() && most > least { most } else { least * 10.0 };
        let steps: Vec<f64> = (-9..=9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power))).collect();
        let from = steps.iter().rev().copied().find(|step| *step <= least * 1.000_001).unwrap_or(least);
        let to = steps.iter().copied().find(|step| *step >= most * 0.999_999).unwrap_or(most);
        let ticks = steps.into_iter().filter(|step| (from..=to).contains(step)).map(|value| (value, short(value))).collect();
        Self { logarithmic: true, from, to, ticks }
    }

    /// Shares of all requests from 0 to 0.9999, where each further nine takes the same room.
    #[must_use]
    pub fn shares() -> Self {
        let ticks = [(0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")];
        let ticks = ticks.map(|(share, text)| (nines(share), format!("{text} %"))).to_vec();
        Self { logarithmic: true, from: nines(0.0), to: nines(0.9999), ticks }
    }

    /// With these ticks in place of its own.
    #[must_use]
    pub fn with_ticks(mut self, ticks: &[f64]) -> Self {
        self.ticks = ticks.iter().map(|value| (*value, short(*value))).collect();
        self
    }

    /// Where a value lies between 0 and 1; outside of the plot it is at its edge.
    #[must_use]
    pub fn place(&self, value: f64) -> f64 {
        let place = if self.logarithmic {
            (value.max(f64::MIN_POSITIVE) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// One in how many requests is beyond a share of them.
#[must_use]
pub fn nines(share: f64) -> f64 {
    1.0 / (1.0 - share).max(1e-6)
}

fn round_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    let digit = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|digit| digit * power >= rough * 0.999_999).unwrap_or(10.0);
    digit * power
}

/// A value in a few characters: `250`, `2.5k`, `0.05`.
#[must_use]
pub fn short(value: f64) -> String {
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match value.abs() {
        size if size >= 1e6 => format!("{}M", trimmed(format!("{:.1}", value / 1e6))),
        size if size >= 1e3 => format!("{}k", trimmed(format!("{:.1}", value / 1e3))),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => trimmed(format!("{value:.1}")),
        _ => trimmed(format!("{value:.3}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_all_values() {
        for (most, ticks) in [(117_000.0, 4), (0.37, 5), (3.0, 4), (f64::NAN, 5)] {
            let scale = Scale::linear(most);
            assert_eq!(scale.ticks.len(), ticks, "{most}: {:?}", scale.ticks);
            assert!(scale.ticks.last().unwrap().0 >= most || most.is_nan());
        }
        let scale = Scale::logarithmic(0.3, 4.1);
        let ticks: Vec<&str> = scale.ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(ticks, ["0.2", "0.5", "1", "2", "5"]);
        assert_eq!((scale.place(0.2), scale.place(5.0), scale.place(0.0)), (0.0, 1.0, 0.0));
    }

    #[test]
    fn each_nine_takes_the_same_room() {
        let scale = Scale::shares();
        let place = |share| scale.place(nines(share));
        assert!((place(0.99) - place(0.9) - (place(0.999) - place(0.99))).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.05, 1.0, 2.5, 250.0, 29_500.0, 2e6].map(short);
        assert_eq!(texts, ["0", "0.05", "1", "2.5", "250", "29.5k", "2M"]);
    }
}
