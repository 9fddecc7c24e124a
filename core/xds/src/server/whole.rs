//! All resources of a view as they are sent: tens of megabytes, which after a restart every node proxy asks for at once.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::encoded::EncodedResource;

/// Kept as long as somebody is being sent them.
#[derive(Debug, Default)]
pub(super) struct Whole(Mutex<(u64, Weak<Vec<u8>>)>);

impl Whole {
    /// Those of this generation, which `resources` lists.
    pub(super) fn at<'a, I: Iterator<Item = &'a EncodedResource>>(
        &self,
        generation: u64,
        resources: impl Fn() -> I,
    ) -> Arc<Vec<u8>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = kept.1.upgrade().filter(|_| kept.0 == generation) {
            return bytes;
        }
        let mut bytes = Vec::with_capacity(resources().map(EncodedResource::field_len).sum());
        resources().for_each(|resource| resource.put_field(&mut bytes));
        let bytes = Arc::new(bytes);
        *kept = (generation, Arc::downgrade(&bytes));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Any;

    #[test]
    fn the_same_bytes_are_for_all_who_are_sent_them_together_and_nobody_keeps_them() {
        let resource = |text: &str| {
            EncodedResource::new("a", "1", &[], &Any { type_url: "type/any".to_owned(), value: text.as_bytes().to_vec() })
        };
        let (old, new) = (resource("old"), resource("new"));
        let whole = Whole::default();
        let first = whole.at(1, || std::iter::once(&old));
        assert!(Arc::ptr_eq(&first, &whole.at(1, || std::iter::once(&old))));
        let changed = whole.at(2, || std::iter::once(&new));
        assert_ne!(first, changed);
        drop((first, changed));
        assert_eq!(whole.0.lock().unwrap().1.strong_count(), 0);
    }
}
