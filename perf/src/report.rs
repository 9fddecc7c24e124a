//! A saved run told again: as the table, as a page, as Markdown.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::{document::Document, html, markdown, table};

/// A run, and what to make of it.
#[derive(Debug, Clone, Args)]
pub struct Report {
    /// The run, as `--json` wrote it.
    #[arg(value_name = "RUN.json")]
    pub run: PathBuf,
    /// Writes a page with plots here.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Writes the tables as Markdown here.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Prints the table and writes the files that are asked for.
///
/// # Errors
/// When the run cannot be read or a file cannot be written.
pub fn run(report: &Report) -> anyhow::Result<()> {
    let document = Document::load(&report.run)?;
    println!("{}", table::render(&document));
    write(&document, report.html.as_deref(), report.markdown.as_deref())
}

/// Writes the page and the Markdown.
///
/// # Errors
/// When a file cannot be written.
pub fn write(document: &Document, html: Option<&Path>, markdown: Option<&Path>) -> anyhow::Result<()> {
    let files = [html.map(|file| (file, html::render(document))), markdown.map(|file| (file, markdown::render(document)))];
    for (file, text) in files.into_iter().flatten() {
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
