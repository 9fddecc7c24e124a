//! From the pieces of a template to a tree.

use std::{collections::BTreeMap, vec::IntoIter};

use serde_json::Value;

use super::{
    TemplateError,
    lex::{Token, lex},
    scan::{Piece, scan},
};

/// A part of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Written as it is.
    Text(String),
    /// A value that is written.
    Print(Pipeline),
    /// `$name := value`, or `=` for one that there is.
    Set { name: String, declare: bool, value: Pipeline },
    /// `if` and `else if`, and what is written when none of them holds.
    If { arms: Vec<(Pipeline, Vec<Node>)>, otherwise: Vec<Node> },
    /// The body with the value as its dot, when it is not empty.
    With { value: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    /// The body for each item.
    Range { key: Option<String>, item: Option<String>, over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
}

/// Commands, each of which gets what came of the one before as its last argument.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) commands: Vec<Vec<Term>>,
    pub(super) file: String,
    pub(super) line: usize,
}

/// A word of a command.
#[derive(Debug, Clone)]
pub(super) enum Term {
    Fields(Vec<String>),
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    Nested(Pipeline, Vec<String>),
}

type Defined = BTreeMap<String, Vec<Node>>;

/// Reads a template: its body, and what it defines.
pub(super) fn parse(file: &str, text: &str) -> Result<(Vec<Node>, Defined), TemplateError> {
    let mut parser = Parser { file, pieces: scan(file, text)?.into_iter(), defined: Defined::new(), line: 1 };
    let (body, end) = parser.nodes()?;
    match end {
        End::Text => Ok((body, parser.defined)),
        End::Block | End::Else(_) => Err(parser.error("there is nothing to end here")),
    }
}

/// What ended a list of nodes.
enum End {
    Text,
    Block,
    /// With what follows `else`.
    Else(Vec<Token>),
}

struct Parser<'a> {
    file: &'a str,
    pieces: IntoIter<Piece<'a>>,
    defined: Defined,
    line: usize,
}

impl Parser<'_> {
    fn error(&self, reason: impl Into<String>) -> TemplateError {
        TemplateError { file: self.file.to_owned(), line: self.line, reason: reason.into() }
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (action, line) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action(action, line) => (action, line),
            };
            self.line = line;
            let mut tokens = lex(action).map_err(|reason| self.error(reason))?;
            let keyword = match tokens.first() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" => return Ok((nodes, End::Block)),
                "else" => return Ok((nodes, End::Else(tokens.split_off(1)))),
                "if" => nodes.push(self.conditions(tokens.split_off(1))?),
                "with" => {
                    let value = self.pipeline(tokens.split_off(1))?;
                    let (body, otherwise) = self.block()?;
                    nodes.push(Node::With { value, body, otherwise });
                }
                "range" => nodes.push(self.range(tokens.split_off(1))?),
                "define" => self.define(&tokens)?,
                "block" | "template" | "break" | "continue" => return Err(self.error(format!("{keyword} is not understood"))),
                _ => nodes.push(self.statement(tokens)?),
            }
        }
        Ok((nodes, End::Text))
    }

    /// The body of a block up to its `end`, and that behind `else`.
    fn block(&mut self) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        match self.nodes()? {
            (body, End::Block) => Ok((body, Vec::new())),
            (body, End::Else(rest)) if rest.is_empty() => match self.nodes()? {
                (otherwise, End::Block) => Ok((body, otherwise)),
                _ => Err(self.error("else is not followed by end")),
            },
            (_, End::Else(_)) => Err(self.error("this else takes no condition")),
            (_, End::Text) => Err(self.error("a block is not ended")),
        }
    }

    fn conditions(&mut self, condition: Vec<Token>) -> Result<Node, TemplateError> {
        let mut arms = Vec::new();
        let mut condition = self.pipeline(condition)?;
        loop {
            let (body, end) = self.nodes()?;
            arms.push((condition, body));
            match end {
                End::Block => return Ok(Node::If { arms, otherwise: Vec::new() }),
                End::Text => return Err(self.error("an if is not ended")),
                End::Else(rest) if rest.is_empty() => {
                    return match self.nodes()? {
                        (otherwise, End::Block) => Ok(Node::If { arms, otherwise }),
                        _ => Err(self.error("else is not followed by end")),
                    };
                }
                End::Else(mut rest) => {
                    if rest.first() != Some(&Token::Word("if".to_owned())) {
                        return Err(self.error("else is followed by neither if nor end"));
                    }
                    condition = self.pipeline(rest.split_off(1))?;
                }
            }
        }
    }

    fn range(&mut self, tokens: Vec<Token>) -> Result<Node, TemplateError> {
        let plain = |name: &String, fields: &Vec<String>| (fields.is_empty() && !name.is_empty()).then(|| name.clone());
        let (key, item, over) = match tokens.as_slice() {
            [Token::Variable(key, none), Token::Comma, Token::Variable(item, no), Token::Assign(true), over @ ..] => {
                (plain(key, none), plain(item, no), over.to_vec())
            }
            [Token::Variable(item, none), Token::Assign(true), over @ ..] => (None, plain(item, none), over.to_vec()),
            _ => (None, None, tokens),
        };
        let over = self.pipeline(over)?;
        let (body, otherwise) = self.block()?;
        Ok(Node::Range { key, item, over, body, otherwise })
    }

    fn define(&mut self, tokens: &[Token]) -> Result<(), TemplateError> {
        let [_, Token::Literal(Value::String(name))] = tokens else { return Err(self.error("define takes a name in quotes")) };
        let (body, End::Block) = self.nodes()? else { return Err(self.error(format!("{name} is not ended"))) };
        self.defined.insert(name.clone(), body);
        Ok(())
    }

    fn statement(&self, mut tokens: Vec<Token>) -> Result<Node, TemplateError> {
        if let [Token::Variable(name, fields), Token::Assign(declare), ..] = tokens.as_slice()
            && fields.is_empty()
        {
            let (name, declare) = (name.clone(), *declare);
            return Ok(Node::Set { name, declare, value: self.pipeline(tokens.split_off(2))? });
        }
        self.pipeline(tokens).map(Node::Print)
    }

    fn pipeline(&self, tokens: Vec<Token>) -> Result<Pipeline, TemplateError> {
        let mut tokens = tokens.into_iter();
        let (pipeline, closed) = self.commands(&mut tokens)?;
        if closed.is_some() { Err(self.error("there is nothing that ) closes")) } else { Ok(pipeline) }
    }

    /// Commands up to the end, or to what closes them, with the fields that are taken of them.
    fn commands(&self, tokens: &mut IntoIter<Token>) -> Result<(Pipeline, Option<Vec<String>>), TemplateError> {
        let mut commands = Vec::new();
        let mut command = Vec::new();
        let mut closed = None;
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(name) => command.push(Term::Function(name)),
                Token::Fields(fields) => command.push(Term::Fields(fields)),
                Token::Variable(name, fields) => command.push(Term::Variable(name, fields)),
                Token::Literal(value) => command.push(Term::Literal(value)),
                Token::Open => match self.commands(tokens)? {
                    (nested, Some(fields)) => command.push(Term::Nested(nested, fields)),
                    (_, None) => return Err(self.error("( is not closed")),
                },
                Token::Close(fields) => {
                    closed = Some(fields);
                    break;
                }
                Token::Pipe => commands.push(std::mem::take(&mut command)),
                Token::Comma | Token::Assign(_) => return Err(self.error("an assignment has no place here")),
            }
        }
        commands.push(command);
        if commands.iter().any(Vec::is_empty) {
            return Err(self.error("a command is missing"));
        }
        Ok((Pipeline { commands, file: self.file.to_owned(), line: self.line }, closed))
    }
}
