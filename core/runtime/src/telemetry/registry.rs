//! The numbers of the process, by labels and name. Unlike the exporters at hand it can let a set of labels go without touching the others.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit};

use super::metric;

/// Upper bounds of the duration buckets, milliseconds: those of Istio's standard metrics.
const DURATION_BUCKETS: [f64; 20] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0, 600000.0,
    1800000.0, 3600000.0, 7200000.0,
];
/// Upper bounds of the buckets of what takes seconds at most, seconds.
const SECONDS_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Upper bounds of the size buckets, bytes.
const SIZE_BUCKETS: [f64; 8] = [100.0, 1_000.0, 10_000.0, 100_000.0, 1e6, 1e7, 1e8, 1e9];

/// All numbers. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<RwLock<HashMap<Arc<[Label]>, Named>>>);

/// The numbers under one set of labels.
type Named = Vec<(KeyName, Number)>;
/// One of the numbers of one name.
type Labelled = (Arc<[Label]>, Number);

#[derive(Clone, Debug)]
enum Number {
    Counter(Arc<AtomicU64>),
    /// The bits of a `f64`.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Distribution>),
}

impl Registry {
    /// The number under this key, made by `make` if there is none.
    fn number(&self, key: &Key, make: fn(&str) -> Number) -> Number {
        let labels = key.labels().as_slice();
        let find = |named: &Named| named.iter().find(|(name, _)| name.as_str() == key.name()).map(|(_, number)| number.clone());
        if let Some(found) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(labels).and_then(find) {
            return found;
        }
        let mut sets = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Not by the entry, for which the labels would have to be copied.
        if !sets.contains_key(labels) {
            sets.insert(labels.into(), Named::new());
        }
        let made = || make(key.name());
        let Some(named) = sets.get_mut(labels) else { return made() };
        // Somebody else may have made it meanwhile.
        find(named).unwrap_or_else(|| {
            let made = made();
            named.push((key.name_shared(), made.clone()));
            made
        })
    }

    /// Lets everything under these labels go. Who still holds one of the numbers counts for nobody.
    pub(super) fn forget(&self, labels: &[Label]) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(labels);
    }

    /// All numbers in the Prometheus text format, version 0.0.4.
    pub(super) fn render(&self) -> String {
        // Written only when others may count again.
        let mut all: BTreeMap<String, Vec<Labelled>> = BTreeMap::new();
        for (labels, named) in &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            for (name, number) in named {
                all.entry(name.as_str().to_owned()).or_default().push((Arc::clone(labels), number.clone()));
            }
        }
        let mut text = String::new();
        for (name, numbers) in &all {
            // A string takes whatever is written.
            let _written = family(&mut text, name, numbers);
        }
        text
    }
}

fn family(text: &mut String, name: &str, numbers: &[Labelled]) -> fmt::Result {
    let kind = match numbers.first() {
        Some((_, Number::Counter(_))) => "counter",
        Some((_, Number::Gauge(_))) => "gauge",
        _ => "histogram",
    };
    writeln!(text, "# TYPE {name} {kind}")?;
    for (labels, number) in numbers {
        match number {
            Number::Counter(count) => line(text, name, labels, None, count.load(Ordering::Acquire))?,
            Number::Gauge(bits) => line(text, name, labels, None, f64::from_bits(bits.load(Ordering::Acquire)))?,
            Number::Histogram(distribution) => distribution.write(text, name, labels)?,
        }
    }
    text.push('\n');
    Ok(())
}

fn line(text: &mut String, name: &str, labels: &[Label], bound: Option<&dyn Display>, value: impl Display) -> fmt::Result {
    text.push_str(name);
    let mut before = '{';
    for label in labels {
        write!(text, "{before}{}=\"", label.key())?;
        for character in label.value().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                character => text.push(character),
            }
        }
        text.push('"');
        before = ',';
    }
    if let Some(bound) = bound {
        write!(text, "{before}le=\"{bound}\"")?;
        before = ',';
    }
    if before == ',' {
        text.push('}');
    }
    writeln!(text, " {value}")
}

/// How many of the numbers that were recorded are up to each bound.
#[derive(Debug)]
struct Distribution {
    bounds: &'static [f64],
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Distribution {
    fn of(name: &str) -> Self {
        let bounds: &[f64] = match name {
            metric::REQUEST_DURATION => &DURATION_BUCKETS,
            name if name.ends_with("_bytes") => &SIZE_BUCKETS,
            _ => &SECONDS_BUCKETS,
        };
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    fn write(&self, text: &mut String, name: &str, labels: &[Label]) -> fmt::Result {
        let bucket = format!("{name}_bucket");
        let mut count = 0;
        for (number, here) in self.counts.iter().enumerate() {
            count += here.load(Ordering::Acquire);
            let bound: &dyn Display = self.bounds.get(number).map_or(&"+Inf", |bound| bound);
            line(text, &bucket, labels, Some(bound), count)?;
        }
        line(text, &format!("{name}_sum"), labels, None, f64::from_bits(self.sum.load(Ordering::Acquire)))?;
        line(text, &format!("{name}_count"), labels, None, count)
    }
}

impl HistogramFn for Distribution {
    fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Release);
        }
        let _added =
            self.sum.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |sum| Some((f64::from_bits(sum) + value).to_bits()));
    }
}

/// A name that is used for two kinds of numbers keeps the first.
impl Recorder for Registry {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.number(key, |_| Number::Counter(Arc::default())) {
            Number::Counter(count) => count.into(),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.number(key, |_| Number::Gauge(Arc::default())) {
            Number::Gauge(bits) => bits.into(),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.number(key, |name| Number::Histogram(Arc::new(Distribution::of(name)))) {
            Number::Histogram(distribution) => distribution.into(),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ::metrics::{counter, gauge, histogram, with_local_recorder};

    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_reads_them() {
        let registry = Registry::default();
        with_local_recorder(&registry, || {
            counter!("a_total", "from" => "x\"\\\ny", "to" => "é").increment(3);
            counter!("a_total", "from" => "z", "to" => "z").increment(1);
            gauge!("b").set(-1.5);
            for value in [0.5, 99.0, 100.0, 5e9] {
                histogram!("c_bytes").record(value);
            }
        });
        let text = registry.render();
        for line in [
            "# TYPE a_total counter",
            r#"a_total{from="x\"\\\ny",to="é"} 3"#,
            r#"a_total{from="z",to="z"} 1"#,
            "# TYPE b gauge",
            "b -1.5",
            "# TYPE c_bytes histogram",
            r#"c_bytes_bucket{le="100"} 3"#,
            r#"c_bytes_bucket{le="1000000000"} 3"#,
            r#"c_bytes_bucket{le="+Inf"} 4"#,
            "c_bytes_sum 5000000199.5",
            "c_bytes_count 4",
        ] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line} in:\n{text}");
        }
        assert!(text.find("# TYPE a_total") < text.find("# TYPE b "), "{text}");
    }

    #[test]
    fn what_is_forgotten_begins_anew_and_everything_else_goes_on() {
        let registry = Registry::default();
        let labels = |value: &'static str| vec![Label::from_static_parts("of", value)];
        with_local_recorder(&registry, || {
            for of in ["a", "b"] {
                counter!("opened", labels(of)).increment(2);
                counter!("closed", labels(of)).increment(1);
            }
            registry.forget(&labels("a"));
            assert!(!registry.render().contains("of=\"a\""), "{}", registry.render());
            counter!("opened", labels("a")).increment(1);
            counter!("opened", labels("b")).increment(1);
        });
        let text = registry.render();
        assert!(text.contains("opened{of=\"a\"} 1\n") && text.contains("opened{of=\"b\"} 3\n"), "{text}");
        assert!(text.contains("closed{of=\"b\"} 1\n") && !text.contains("closed{of=\"a\"}"), "{text}");
    }
}
