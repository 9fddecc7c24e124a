//! Not yet.
use crate::document::Document;
/// x
pub fn render(_d: &Document) -> anyhow::Result<String> { Ok(String::new()) }
