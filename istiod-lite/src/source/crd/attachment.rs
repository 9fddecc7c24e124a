//! What a policy holds for, which policies of several kinds say alike.

use super::{PolicyTargetReference, WorkloadSelector};

/// The pods, or the resources, that a policy holds for.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// Its `selector`.
    pub selector: Option<&'a WorkloadSelector>,
    /// Its `targetRefs`.
    pub several: &'a [PolicyTargetReference],
    /// Its `targetRef`, the older form.
    pub one: Option<&'a PolicyTargetReference>,
}

impl<'a> Attachment<'a> {
    /// All target references, in either form.
    pub fn targets(self) -> impl Iterator<Item = &'a PolicyTargetReference> {
        self.several.iter().chain(self.one)
    }

    /// The same, each after its place in the object.
    pub fn placed_targets(self) -> impl Iterator<Item = (String, &'a PolicyTargetReference)> {
        let several = self.several.iter().enumerate().map(|(index, target)| (format!("spec.targetRefs[{index}]"), target));
        several.chain(self.one.map(|target| ("spec.targetRef".to_owned(), target)))
    }
}
