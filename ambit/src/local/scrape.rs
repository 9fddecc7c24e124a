//! Reading metrics as Prometheus would (text exposition format): connections are counted there as soon as they are open, while the
//! access log tells of them only when they end.

use std::collections::BTreeMap;

/// One sample: name, labels, value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name of the metric.
    pub name: String,
    labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label; nothing if it is absent, empty or `unknown`.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str).filter(|value| !value.is_empty() && *value != "unknown")
    }

    /// The series it belongs to, as a key.
    pub fn series(&self) -> String {
        format!("{}{:?}", self.name, self.labels)
    }

    fn parse(line: &str) -> Option<Self> {
        let (head, value) = line.trim_end().rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let Some((name, rest)) = head.split_once('{') else {
            return Some(Self { name: head.to_owned(), labels: BTreeMap::new(), value });
        };
        let mut labels = BTreeMap::new();
        let mut rest = rest.strip_suffix('}')?;
        while let Some((label, quoted)) = rest.split_once("=\"") {
            let (text, left) = unquote(quoted)?;
            labels.insert(label.trim_start_matches(',').to_owned(), text);
            rest = left;
        }
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                letter => value.push(letter),
            },
            letter => value.push(letter),
        }
    }
    None
}

/// The samples of one metric in a text.
pub fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = Sample> + 'a {
    let lines = text.lines().filter(move |line| line.starts_with(name));
    lines.filter_map(Sample::parse).filter(move |sample| sample.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"say \\\"no\\\", }\",z=\"unknown\"} 3\nab{x=\"2\"} 4\na 5\n";
        let found: Vec<Sample> = samples(text, "a").collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].label("x"), found[0].label("y"), found[0].value), (Some("1"), Some("say \"no\", }"), 3.0));
        assert_eq!((found[0].label("z"), found[1].value), (None, 5.0));
    }
}
