//! The part of Helm's template language that the chart is written in, so that the chart can be rendered without Helm.
//!
//! What it does not know it refuses, with file and line; that it renders what Helm renders is compared by a test (`integration/helm/`).
//! Semantics: package `text/template` of Go, functions of Sprig and Helm as far as `functions` has them.
//!
//! | module | purpose |
//! |---|---|
//! | `scan` | the text of a template, cut into text and actions |
//! | `lex` | the words of an action |
//! | `parse` | from these to a tree |
//! | `eval` | from the tree and values to text |
//! | `functions` | what can be called |
//! | `yaml` | values as YAML |

mod eval;
mod functions;
mod lex;
mod parse;
mod scan;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeMap;

use serde_json::Value;

pub use yaml::to_yaml;

/// Why a template cannot be read or rendered, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct TemplateError {
    /// The template.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// Templates that were read, with what they define for each other.
#[derive(Debug, Default)]
pub struct Templates {
    named: BTreeMap<String, Vec<parse::Node>>,
    files: BTreeMap<String, Vec<parse::Node>>,
}

impl Templates {
    /// Reads a file; what it defines can be included from all others.
    ///
    /// # Errors
    /// When it is not understood.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), TemplateError> {
        let (body, defined) = parse::parse(file, text)?;
        self.named.extend(defined);
        self.files.insert(file.to_owned(), body);
        Ok(())
    }

    /// Renders a file with `data` as the dot; `read` gives files of the chart that are no templates (`.Files.Get`).
    ///
    /// # Errors
    /// When there is no such file, or what it asks for cannot be done.
    pub fn render(&self, file: &str, data: &Value, read: &dyn Fn(&str) -> Option<String>) -> Result<String, TemplateError> {
        let missing = || TemplateError { file: file.to_owned(), line: 0, reason: "there is no such template".to_owned() };
        let body = self.files.get(file).ok_or_else(missing)?;
        eval::Evaluation { named: &self.named, read }.run(body, data)
    }
}
