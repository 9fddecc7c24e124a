//! An object in JSON with operators in its values. Values of a single operator keep their type; what has more in it is a text. The order of fields
//! is that of their names (so in Envoy).

use serde_json::Value as Constant;

use super::{Facts, Operator, Text, Value};

/// An object whose values are written anew for each line.
#[derive(Debug, Clone, PartialEq)]
pub struct Json {
    fields: Vec<(String, Node)>,
    /// What is missing is left out, instead of being `null`.
    omit_empty: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Constant(Constant),
    Text(Text),
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
}

impl Json {
    /// Reads an object; what is missing of a request is left out if `omit_empty`, and `null` otherwise.
    ///
    /// # Errors
    /// The field, and the operator in it that is not understood.
    pub fn parse(object: &serde_json::Map<String, Constant>, omit_empty: bool) -> Result<Self, String> {
        Ok(Self { fields: fields(object, omit_empty)?, omit_empty })
    }

    /// Writes the line.
    pub fn write(&self, facts: &impl Facts, line: &mut Vec<u8>) {
        if !self.map(&self.fields, facts, line) {
            line.extend_from_slice(b"{}");
        }
        line.push(b'\n');
    }

    /// Writes an object; none, where all that is in it is left out.
    fn map(&self, fields: &[(String, Node)], facts: &impl Facts, line: &mut Vec<u8>) -> bool {
        let begin = line.len();
        line.push(b'{');
        let mut first = true;
        for (name, node) in fields {
            let before = line.len();
            if !first {
                line.push(b',');
            }
            quoted(name, line);
            line.push(b':');
            match self.node(node, facts, line) {
                true => first = false,
                false => line.truncate(before),
            }
        }
        if first && self.omit_empty {
            line.truncate(begin);
            return false;
        }
        line.push(b'}');
        true
    }

    /// Whether anything was written.
    fn node(&self, node: &Node, facts: &impl Facts, line: &mut Vec<u8>) -> bool {
        match node {
            Node::Constant(Constant::Null) if self.omit_empty => return false,
            // A vector takes whatever is written.
            Node::Constant(constant) => drop(serde_json::to_writer(line, constant)),
            Node::Text(text) => match text.value(facts) {
                Value::Missing if self.omit_empty => return false,
                Value::Missing => line.extend_from_slice(b"null"),
                Value::Number(number) => line.extend_from_slice(number.to_string().as_bytes()),
                Value::Text(text) => quoted(&text, line),
            },
            Node::Map(fields) => return self.map(fields, facts, line),
            Node::List(nodes) => {
                line.push(b'[');
                let mut first = true;
                for node in nodes {
                    let before = line.len();
                    if !first {
                        line.push(b',');
                    }
                    match self.node(node, facts, line) {
                        true => first = false,
                        false => line.truncate(before),
                    }
                }
                line.push(b']');
            }
        }
        true
    }

    /// Shows each operator of it.
    pub fn operators<'a>(&'a self, see: &mut dyn FnMut(&'a Operator)) {
        self.fields.iter().for_each(|(_, node)| node.operators(see));
    }
}

impl Node {
    fn parse(value: &Constant, omit_empty: bool) -> Result<Self, String> {
        Ok(match value {
            Constant::String(text) if text.contains('%') => Self::Text(Text::parse(text, omit_empty)?),
            Constant::Object(object) => Self::Map(fields(object, omit_empty)?),
            Constant::Array(values) => {
                Self::List(values.iter().map(|value| Self::parse(value, omit_empty)).collect::<Result<_, _>>()?)
            }
            constant => Self::Constant(constant.clone()),
        })
    }

    fn operators<'a>(&'a self, see: &mut dyn FnMut(&'a Operator)) {
        match self {
            Self::Constant(_) => {}
            Self::Text(text) => text.operators(see),
            Self::Map(fields) => fields.iter().for_each(|(_, node)| node.operators(see)),
            Self::List(nodes) => nodes.iter().for_each(|node| node.operators(see)),
        }
    }
}

fn fields(object: &serde_json::Map<String, Constant>, omit_empty: bool) -> Result<Vec<(String, Node)>, String> {
    let mut fields = Vec::with_capacity(object.len());
    for (name, value) in object {
        let node = Node::parse(value, omit_empty).map_err(|why| format!("{name}: {why}"))?;
        fields.push((name.clone(), node));
    }
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(fields)
}

fn quoted(text: &str, line: &mut Vec<u8>) {
    // A vector takes whatever is written.
    drop(serde_json::to_writer(line, text));
}
