//! The broken examples of docs/conformance/conditions.md: each is told what the document says that it is told.

use super::mesh;
use crate::status::{Condition, conditions};

const DOCUMENTED: &str = include_str!("../../../../docs/conformance/conditions.md");

/// The blocks of the document that are marked so, in their order.
fn blocks(mark: &str) -> Vec<&'static str> {
    let begins = DOCUMENTED.split(mark).skip(1);
    begins.map(|rest| rest.split_once("```").expect("a block has an end").0).collect()
}

/// A line for each condition of all objects.
fn told(text: &str) -> Vec<String> {
    let line = |who: &str, condition: &Condition| {
        let Condition { r#type, status, reason, message, .. } = condition;
        format!("{who}: {}={status} {reason}: {message}", r#type)
    };
    let mut lines = Vec::new();
    for status in conditions(&mesh(text)) {
        let who = status.object.to_string();
        lines.extend(status.conditions.iter().map(|condition| line(&who, condition)));
        for listener in &status.listeners {
            let who = format!("{who} listener {}", listener.name);
            lines.extend(listener.conditions.iter().map(|condition| line(&who, condition)));
        }
    }
    lines
}

#[test]
fn broken_examples_say_of_themselves_what_to_mend() {
    let (examples, expected) = (blocks("```yaml\n"), blocks("```text\n"));
    let (first, examples) = examples.split_first().expect("the mesh of the examples");
    assert_eq!(examples.len(), expected.len());
    let whole = told(first);
    assert!(whole.iter().all(|line| !line.contains("Accepted=False")), "the mesh is whole: {whole:#?}");
    for (example, expected) in examples.iter().zip(expected) {
        let told = told(&format!("{first}---\n{example}"));
        for line in expected.lines() {
            assert!(told.iter().any(|said| said == line), "{line}\nis not among\n{told:#?}");
        }
    }
}
