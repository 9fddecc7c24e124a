//! Objects from YAML, for tests.

use std::path::PathBuf;

use super::layer::Layers;
use super::{Event, Object};

/// The objects of a text, which must be without errors; warnings may be what is looked at.
pub(crate) fn objects(text: &str) -> Vec<Object> {
    let mut layers = Layers::default();
    let events = layers.update(vec![((0, PathBuf::from("text.yaml")), Some(text.to_owned()))]);
    let errors: Vec<_> = layers.problems().into_iter().filter(|problem| problem.is_error()).collect();
    assert_eq!(errors, [], "in\n{text}");
    let objects = events.into_iter().map(|event| match event {
        Event::Upsert(object) => object,
        Event::Delete(key) => panic!("nothing was there to delete, yet {key}"),
    });
    objects.collect()
}
