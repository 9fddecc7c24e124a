//! From the tree of a template and values to text.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    TemplateError, functions,
    parse::{Node, Pipeline, Term},
};

/// Templates may include each other so deep.
const DEPTH: usize = 32;

/// What a template can reach besides its data.
pub(super) struct Evaluation<'a> {
    pub(super) named: &'a BTreeMap<String, Vec<Node>>,
    pub(super) read: &'a dyn Fn(&str) -> Option<String>,
}

/// One template at work.
struct Frame<'a> {
    /// What `$` is.
    root: &'a Value,
    /// Variables, the innermost last.
    variables: Vec<(String, Value)>,
    written: String,
    depth: usize,
}

impl Evaluation<'_> {
    /// The text of a template.
    pub(super) fn run(&self, body: &[Node], data: &Value) -> Result<String, TemplateError> {
        self.within(body, data, 0)
    }

    fn within(&self, body: &[Node], data: &Value, depth: usize) -> Result<String, TemplateError> {
        let mut frame = Frame { root: data, variables: Vec::new(), written: String::new(), depth };
        self.nodes(body, data, &mut frame)?;
        Ok(frame.written)
    }

    fn nodes(&self, nodes: &[Node], dot: &Value, frame: &mut Frame<'_>) -> Result<(), TemplateError> {
        // What is declared in a block ends with it.
        let outside = frame.variables.len();
        for node in nodes {
            self.node(node, dot, frame)?;
        }
        frame.variables.truncate(outside);
        Ok(())
    }

    fn node(&self, node: &Node, dot: &Value, frame: &mut Frame<'_>) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => frame.written.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot, frame)?;
                let text = functions::text(&value).map_err(|reason| pipeline.error(reason))?;
                frame.written.push_str(&text);
            }
            Node::Set { name, declare, value } => {
                let made = self.pipeline(value, dot, frame)?;
                let known = frame.variables.iter_mut().rev().find(|(known, _)| known == name);
                match known {
                    Some((_, variable)) if !declare => *variable = made,
                    None if !declare => return Err(value.error(format!("${name} is not declared"))),
                    _ => frame.variables.push((name.clone(), made)),
                }
            }
            Node::If { arms, otherwise } => {
                for (condition, body) in arms {
                    if functions::truth(&self.pipeline(condition, dot, frame)?) {
                        return self.nodes(body, dot, frame);
                    }
                }
                self.nodes(otherwise, dot, frame)?;
            }
            Node::With { value, body, otherwise } => {
                let value = self.pipeline(value, dot, frame)?;
                if functions::truth(&value) {
                    self.nodes(body, &value, frame)?;
                } else {
                    self.nodes(otherwise, dot, frame)?;
                }
            }
            Node::Range { key, item, over, body, otherwise } => {
                let items = items(&self.pipeline(over, dot, frame)?).map_err(|reason| over.error(reason))?;
                if items.is_empty() {
                    return self.nodes(otherwise, dot, frame);
                }
                for (number, value) in items {
                    let outside = frame.variables.len();
                    frame.variables.extend(key.iter().map(|name| (name.clone(), number.clone())));
                    frame.variables.extend(item.iter().map(|name| (name.clone(), value.clone())));
                    self.nodes(body, &value, frame)?;
                    frame.variables.truncate(outside);
                }
            }
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value, frame: &mut Frame<'_>) -> Result<Value, TemplateError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(pipeline, command, value, dot, frame)?);
        }
        Ok(value.unwrap_or_default())
    }

    fn command(
        &self,
        at: &Pipeline,
        command: &[Term],
        piped: Option<Value>,
        dot: &Value,
        frame: &mut Frame<'_>,
    ) -> Result<Value, TemplateError> {
        let Some((first, rest)) = command.split_first() else { return Err(at.error("a command is missing")) };
        let function = match first {
            Term::Function(name) => name.as_str(),
            Term::Fields(fields) if fields.iter().eq(["Files", "Get"]) => "Files.Get",
            _ if rest.is_empty() && piped.is_none() => return self.term(at, first, dot, frame),
            _ => return Err(at.error("what is not a function takes no arguments")),
        };
        if matches!(function, "and" | "or") {
            // The rest is not looked at once it is decided.
            let mut value = Value::Null;
            for term in rest {
                value = self.term(at, term, dot, frame)?;
                if functions::truth(&value) == (function == "or") {
                    return Ok(value);
                }
            }
            return Ok(piped.unwrap_or(value));
        }
        let mut arguments = Vec::new();
        for term in rest {
            arguments.push(self.term(at, term, dot, frame)?);
        }
        arguments.extend(piped);
        match (function, arguments.as_slice()) {
            ("include", [Value::String(name), data]) => {
                let body = self.named.get(name).ok_or_else(|| at.error(format!("nothing is defined as {name:?}")))?;
                if frame.depth >= DEPTH {
                    return Err(at.error(format!("{name} is included within itself")));
                }
                self.within(body, data, frame.depth + 1).map(Value::from)
            }
            // As Helm does, a file that is not there is empty.
            ("Files.Get", [Value::String(path)]) => Ok(Value::from((self.read)(path).unwrap_or_default())),
            _ => functions::call(function, &arguments).map_err(|reason| at.error(format!("{function}: {reason}"))),
        }
    }

    fn term(&self, at: &Pipeline, term: &Term, dot: &Value, frame: &mut Frame<'_>) -> Result<Value, TemplateError> {
        let found = match term {
            Term::Literal(value) => return Ok(value.clone()),
            Term::Function(_) => return self.command(at, std::slice::from_ref(term), None, dot, frame),
            Term::Fields(fields) => field(dot, fields),
            Term::Variable(name, fields) if name.is_empty() => field(frame.root, fields),
            Term::Variable(name, fields) => {
                let variable = frame.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = variable.ok_or_else(|| at.error(format!("${name} is not declared")))?;
                field(value, fields)
            }
            Term::Nested(pipeline, fields) => field(&self.pipeline(pipeline, dot, frame)?, fields),
        };
        found.map_err(|reason| at.error(reason))
    }
}

impl Pipeline {
    fn error(&self, reason: impl Into<String>) -> TemplateError {
        TemplateError { file: self.file.clone(), line: self.line, reason: reason.into() }
    }
}

/// A field of a field; nothing for one that a mapping does not have.
fn field(value: &Value, fields: &[String]) -> Result<Value, String> {
    let mut value = value;
    for name in fields {
        value = match value {
            Value::Object(map) => map.get(name).unwrap_or(&Value::Null),
            Value::Null => return Err(format!("nothing has no field {name}")),
            _ => return Err(format!("what is no mapping has no field {name}")),
        };
    }
    Ok(value.clone())
}

/// What `range` goes over, with keys: mappings in the order of their keys.
fn items(value: &Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items.iter().enumerate().map(|(at, item)| (Value::from(at), item.clone())).collect()),
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            Ok(sorted.into_iter().map(|(key, item)| (Value::from(key.as_str()), item.clone())).collect())
        }
        _ => Err("it can only go over lists and mappings".to_owned()),
    }
}
