//! From the path of a field to its line in a YAML document.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Parser};

/// Lines of the fields of one document, by their path (`spec.rules[0].name`).
#[derive(Debug, Clone, Default)]
pub(super) struct Lines {
    by_path: BTreeMap<String, usize>,
    first: usize,
}

/// A container that is being read.
enum Open {
    /// A mapping, and the key whose value comes next.
    Mapping { path: String, key: Option<String> },
    /// A sequence, and how many items it has so far.
    Sequence { path: String, items: usize },
}

impl Lines {
    /// Reads a document that starts after `offset` lines of its file. Stops quietly at a syntax error.
    pub(super) fn scan(text: &str, offset: usize) -> Self {
        let mut lines = Self { by_path: BTreeMap::new(), first: 0 };
        let mut open: Vec<Open> = Vec::new();
        for next in Parser::new_from_str(text) {
            let Ok((event, span)) = next else { break };
            let line = offset + span.start.line();
            match event {
                Event::MappingEnd | Event::SequenceEnd => {
                    open.pop();
                }
                Event::Scalar(text, ..) => lines.node(&mut open, line, Some(&text)).map_or((), drop),
                Event::Alias(_) => lines.node(&mut open, line, None).map_or((), drop),
                Event::MappingStart(..) => {
                    if let Some(path) = lines.node(&mut open, line, None) {
                        open.push(Open::Mapping { path, key: None });
                    }
                }
                Event::SequenceStart(..) => {
                    if let Some(path) = lines.node(&mut open, line, None) {
                        open.push(Open::Sequence { path, items: 0 });
                    }
                }
                _ => {}
            }
        }
        lines
    }

    /// Notes a node; its path, or `None` when it was the key of a mapping.
    fn node(&mut self, open: &mut [Open], line: usize, scalar: Option<&str>) -> Option<String> {
        if self.first == 0 {
            self.first = line;
        }
        let path = match open.last_mut() {
            None => String::new(),
            Some(Open::Mapping { path, key }) => match key.take() {
                None => {
                    let name = scalar.unwrap_or_default().to_owned();
                    self.by_path.insert(join(path, &name), line);
                    *key = Some(name);
                    return None;
                }
                // The key's line stands for the field.
                Some(name) => join(path, &name),
            },
            Some(Open::Sequence { path, items }) => {
                let path = format!("{path}[{items}]");
                *items += 1;
                path
            }
        };
        self.by_path.entry(path.clone()).or_insert(line);
        Some(path)
    }

    /// The line of a field; of the nearest enclosing one when the field itself is not written.
    pub(super) fn line_of(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if path.is_empty() {
                return self.first;
            }
            if let Some(line) = self.by_path.get(path) {
                return *line;
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
    }
}

/// Appends a key to a path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    const TEXT: &str =
        "kind: A\nspec:\n  rules:\n  - name: x\n    refs: [{weight: 1},\n      {weight: 2}]\n  # comment\n  last: |\n    text\n";

    #[test]
    fn every_field_has_the_line_of_its_key() {
        let lines = Lines::scan(TEXT, 10);
        for (path, line) in [
            ("", 11),
            ("kind", 11),
            ("spec", 12),
            ("spec.rules[0]", 14),
            ("spec.rules[0].name", 14),
            ("spec.rules[0].refs[0].weight", 15),
            ("spec.rules[0].refs[1].weight", 16),
            ("spec.last", 18),
        ] {
            assert_eq!(lines.line_of(path), line, "{path}");
        }
    }

    #[test]
    fn a_field_that_is_not_written_has_the_line_of_what_encloses_it() {
        let lines = Lines::scan(TEXT, 0);
        assert_eq!(lines.line_of("spec.rules[0].missing.deeper"), 4);
        assert_eq!(lines.line_of("metadata.name"), 1);
    }
}
