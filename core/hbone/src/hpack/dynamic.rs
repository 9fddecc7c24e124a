//! The dynamic table (RFC 7541, sections 2.3.2 and 4): the newest field first, the oldest dropped when there is no room.

use std::collections::VecDeque;

use super::{Field, fixed};

#[derive(Debug)]
pub(super) struct Table {
    fields: VecDeque<Field>,
    size: usize,
    most: usize,
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Self { fields: VecDeque::new(), size: 0, most }
    }

    /// The field at an index of the whole address space, the static table's included (RFC 7541, section 2.3.3).
    pub(super) fn get(&self, index: usize) -> Option<Field> {
        match index.checked_sub(fixed::LEN + 1) {
            Some(nth) => self.fields.get(nth).cloned(),
            None => fixed::get(index),
        }
    }

    /// The index of the first field that `fits`.
    pub(super) fn find(&self, fits: impl FnMut(&Field) -> bool) -> Option<usize> {
        self.fields.iter().position(fits).map(|nth| nth + fixed::LEN + 1)
    }

    /// Puts `field` in front. One that is larger than the table only empties it (RFC 7541, section 4.4).
    pub(super) fn insert(&mut self, field: Field) {
        let size = field.size();
        self.shrink(self.most.saturating_sub(size));
        if size <= self.most {
            self.size += size;
            self.fields.push_front(field);
        }
    }

    /// Sets how large it may be.
    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
        self.shrink(most);
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most {
            match self.fields.pop_back() {
                Some(oldest) => self.size -= oldest.size(),
                None => self.size = 0,
            }
        }
    }
}
