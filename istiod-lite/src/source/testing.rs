//! Objects from YAML, for tests.

use std::path::PathBuf;

use super::layer::Layers;
use super::{Event, Object};

/// The objects of a text, which must be without errors.
pub(crate) fn objects(text: &str) -> Vec<Object> {
    let mut layers = Layers::default();
    let events = layers.update(vec![((0, PathBuf::from("text.yaml")), Some(text.to_owned()))]);
    assert_eq!(layers.problems(), [], "in\n{text}");
    let objects = events.into_iter().map(|event| match event {
        Event::Upsert(object) => object,
        Event::Delete(key) => panic!("nothing was there to delete, yet {key}"),
    });
    objects.collect()
}
