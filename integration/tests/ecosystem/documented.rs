//! The YAML of `docs/ecosystem.md`, which is what the tests apply.

use anyhow::{Context, ensure};

const PAGE: &str = include_str!("../../../docs/ecosystem.md");

/// The block whose first line names this file.
pub fn block(file: &str) -> anyhow::Result<&'static str> {
    let begin = format!("```yaml\n# {file}\n");
    let (_, rest) = PAGE.split_once(&begin).with_context(|| format!("docs/ecosystem.md has no block {file}"))?;
    Ok(rest.split_once("\n```").with_context(|| format!("the block {file} has no end"))?.0)
}

/// The same with words replaced, each of which is there.
pub fn changed(file: &str, words: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut text = block(file)?.to_owned();
    for (word, replacement) in words {
        ensure!(text.contains(word), "the block {file} of docs/ecosystem.md has no `{word}`");
        text = text.replace(word, replacement);
    }
    Ok(text)
}

/// The value of a key of a block whose values are folded lines, one key to a paragraph.
pub fn folded(file: &str, key: &str) -> anyhow::Result<String> {
    let missing = || format!("the block {file} of docs/ecosystem.md has no key {key}");
    let mut lines = block(file)?.lines().skip_while(|line| *line != format!("{key}: >-"));
    lines.next().with_context(missing)?;
    let value: Vec<_> = lines.take_while(|line| line.starts_with(' ')).map(str::trim).collect();
    ensure!(!value.is_empty(), missing());
    Ok(value.join(" "))
}
