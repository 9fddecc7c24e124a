//! The text of a template, cut into text and actions.

use super::TemplateError;

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// To be written as it is.
    Text(&'a str),
    /// What stands between the braces, and its line.
    Action(&'a str, usize),
}

/// Cuts a template. `{{-` takes the white space before it away, `-}}` that behind it; comments are left out.
pub(super) fn scan<'a>(file: &str, text: &'a str) -> Result<Vec<Piece<'a>>, TemplateError> {
    let mut pieces = Vec::new();
    let (mut rest, mut line) = (text, 1);
    let mut trim = false;
    while let Some(start) = rest.find("{{") {
        let (before, action) = (&rest[..start], &rest[start + 2..]);
        line += before.matches('\n').count();
        let left = action.strip_prefix('-').filter(|after| after.starts_with(char::is_whitespace));
        let mut shown = if trim { before.trim_start() } else { before };
        if left.is_some() {
            shown = shown.trim_end();
        }
        if !shown.is_empty() {
            pieces.push(Piece::Text(shown));
        }
        let action = left.unwrap_or(action);
        let error = || TemplateError { file: file.to_owned(), line, reason: "an action is not closed with }}".to_owned() };
        let end = end(action).ok_or_else(error)?;
        let inside = &action[..end];
        let right = inside.strip_suffix('-').filter(|before| before.ends_with(char::is_whitespace));
        trim = right.is_some();
        let inside = right.unwrap_or(inside).trim();
        if !inside.starts_with("/*") {
            pieces.push(Piece::Action(inside, line));
        }
        line += action[..end].matches('\n').count();
        rest = &action[end + 2..];
    }
    let shown = if trim { rest.trim_start() } else { rest };
    if !shown.is_empty() {
        pieces.push(Piece::Text(shown));
    }
    Ok(pieces)
}

/// Where an action ends: at the first `}}` outside of comments and quotes.
fn end(action: &str) -> Option<usize> {
    if action.trim_start().starts_with("/*") {
        let comment = action.find("*/")? + 2;
        return Some(comment + action[comment..].find("}}")?);
    }
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, character) in action.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '"' || character == '`' => quote = Some(character),
            None if action[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}
