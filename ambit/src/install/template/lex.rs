//! The words of an action.

use serde_json::Value;

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A function or a keyword.
    Word(String),
    /// `.`, or `.a.b`.
    Fields(Vec<String>),
    /// `$`, `$x`, or `$x.a.b`; the name without `$`.
    Variable(String, Vec<String>),
    /// Text, a number, `true`, `false`, `nil`.
    Literal(Value),
    /// `(`
    Open,
    /// `)`, and the fields that are taken of what it closes.
    Close(Vec<String>),
    /// `|`
    Pipe,
    /// `,`
    Comma,
    /// `:=` (true) or `=` (false).
    Assign(bool),
}

/// Cuts an action into words.
///
/// # Errors
/// At what is no word.
pub(super) fn lex(action: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = action;
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let (token, after) = match first {
            '(' => (Token::Open, &rest[1..]),
            ')' => {
                let (fields, after) = fields(&rest[1..]);
                (Token::Close(fields), after)
            }
            '|' => (Token::Pipe, &rest[1..]),
            ',' => (Token::Comma, &rest[1..]),
            '=' => (Token::Assign(false), &rest[1..]),
            ':' if rest.starts_with(":=") => (Token::Assign(true), &rest[2..]),
            '"' => string(rest)?,
            '`' => {
                let end = rest[1..].find('`').ok_or("a text is not closed with `")?;
                (Token::Literal(Value::from(&rest[1..=end])), &rest[end + 2..])
            }
            '.' => {
                let (fields, after) = fields(rest);
                if fields.is_empty() { (Token::Fields(fields), &rest[1..]) } else { (Token::Fields(fields), after) }
            }
            '$' => {
                let (name, after) = word(&rest[1..]);
                let (fields, after) = fields(after);
                (Token::Variable(name.to_owned(), fields), after)
            }
            _ if first.is_ascii_digit() || first == '-' => number(rest)?,
            _ if first.is_alphabetic() => {
                let (name, after) = word(rest);
                let token = match name {
                    "true" => Token::Literal(Value::Bool(true)),
                    "false" => Token::Literal(Value::Bool(false)),
                    "nil" => Token::Literal(Value::Null),
                    _ => Token::Word(name.to_owned()),
                };
                (token, after)
            }
            _ => return Err(format!("{first:?} is not understood")),
        };
        tokens.push(token);
        rest = after;
    }
}

fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(text.len()))
}

/// `.a.b`, as far as there are such.
fn fields(text: &str) -> (Vec<String>, &str) {
    let (mut fields, mut rest) = (Vec::new(), text);
    while let Some((name, after)) = rest.strip_prefix('.').map(word).filter(|(name, _)| !name.is_empty()) {
        fields.push(name.to_owned());
        rest = after;
    }
    (fields, rest)
}

/// A text in double quotes; its escapes are those of JSON, as far as the chart uses any.
fn string(text: &str) -> Result<(Token, &str), String> {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, character)| {
        let closes = *character == '"' && !escaped;
        escaped = *character == '\\' && !escaped;
        closes
    });
    let (end, _) = end.ok_or("a text is not closed with \"")?;
    let value = serde_json::from_str(&text[..=end]).map_err(|error| format!("{}: {error}", &text[..=end]))?;
    Ok((Token::Literal(value), &text[end + 1..]))
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let end =
        text.char_indices().skip(1).find(|(_, next)| !next.is_ascii_digit() && *next != '.').map_or(text.len(), |(at, _)| at);
    let value: Value = serde_json::from_str(&text[..end]).map_err(|_| format!("{} is no number", &text[..end]))?;
    Ok((Token::Literal(value), &text[end..]))
}
