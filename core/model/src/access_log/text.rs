//! A text with operators in it.

use std::borrow::Cow;
use std::io::Write as _;

use super::{Facts, Operator, Value};

/// A text with operators. Without any it is the same for every request.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    pieces: Vec<Piece>,
    /// What is missing leaves nothing, instead of `-`.
    omit_empty: bool,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Literal(String),
    Value {
        operator: Operator,
        /// Longer values are cut, in bytes.
        longest: Option<usize>,
    },
}

impl Text {
    /// Reads a format; what is missing of a request leaves nothing if `omit_empty`, and `-` otherwise.
    ///
    /// # Errors
    /// The operator that is not understood, by name.
    pub fn parse(format: &str, omit_empty: bool) -> Result<Self, String> {
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), format);
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let (piece, after) = operator(after)?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { pieces, omit_empty })
    }

    /// Writes it for a request.
    pub fn write(&self, facts: &impl Facts, line: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => line.extend_from_slice(text.as_bytes()),
                Piece::Value { operator, longest } => match facts.value(operator) {
                    Value::Missing if self.omit_empty => {}
                    Value::Missing => line.push(b'-'),
                    // A vector takes whatever is written.
                    Value::Number(number) => _ = write!(line, "{number}"),
                    Value::Text(text) => line.extend_from_slice(shown(cut(&text, *longest)).as_bytes()),
                },
            }
        }
    }

    /// Its value in JSON: that of its only operator, or a text.
    pub(super) fn value<'f>(&self, facts: &'f impl Facts) -> Value<'f> {
        match self.pieces.as_slice() {
            [Piece::Value { operator, longest }] => match facts.value(operator) {
                Value::Text(text) => Value::Text(cut(&text, *longest).to_owned().into()),
                value => value,
            },
            _ => Value::Text(self.text(facts).into()),
        }
    }

    /// It as a text of its own.
    #[must_use]
    pub fn text(&self, facts: &impl Facts) -> String {
        let mut line = Vec::new();
        self.write(facts, &mut line);
        String::from_utf8(line).unwrap_or_default()
    }

    /// Shows each operator of it.
    pub fn operators<'a>(&'a self, see: &mut dyn FnMut(&'a Operator)) {
        for piece in &self.pieces {
            if let Piece::Value { operator, .. } = piece {
                see(operator);
            }
        }
    }
}

/// Reads an operator, of which the percent sign that it begins with is read, and says what comes after it.
fn operator(text: &str) -> Result<(Piece, &str), String> {
    let of_name = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    let end = text.find(|letter: char| !of_name(letter)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let broken = || format!("%{name} does not go on like %NAME(ARGUMENT):LENGTH%; a percent sign by itself is written %%");
    let (argument, rest) = match rest.strip_prefix('(') {
        Some(inside) => {
            let (argument, rest) = inside.split_once(')').ok_or_else(broken)?;
            (Some(argument), rest)
        }
        None => (None, rest),
    };
    let (longest, rest) = match rest.strip_prefix(':') {
        Some(length) => {
            let (length, rest) = length.split_once('%').ok_or_else(broken)?;
            (Some(length.parse::<usize>().map_err(|_| broken())?), rest)
        }
        None => (None, rest.strip_prefix('%').ok_or_else(broken)?),
    };
    if name.is_empty() {
        return Err(broken());
    }
    let operator = Operator::parse(name, argument)?;
    if longest.is_some() && !operator.may_be_cut() {
        return Err(format!("%{name}% has no length"));
    }
    Ok((Piece::Value { operator, longest }, rest))
}

/// With escapes in place of what begins another line or has a terminal do things, so that nobody writes lines that are not theirs.
fn shown(text: &str) -> Cow<'_, str> {
    let is_harmful = |letter: char| letter.is_control() && letter != '\t';
    if !text.contains(is_harmful) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match is_harmful(letter) {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    shown.into()
}

/// The beginning of a text of so many bytes, or fewer where a letter would be cut.
fn cut(text: &str, longest: Option<usize>) -> &str {
    let Some(longest) = longest.filter(|longest| *longest < text.len()) else { return text };
    let end = (0..=longest).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}
