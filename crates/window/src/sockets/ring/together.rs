//! Numbers in memory that outlives its writer, several of which change at once.

use std::sync::atomic::Ordering::Acquire;

use crate::sockets::memory::Memory;

/// Words that change together: whoever is killed leaves either all the old ones or all the new ones.
/// There are two copies of them, and a word that says which one counts.
pub(super) struct Together<const N: usize> {
    pub(super) which: usize,
    pub(super) copies: [usize; 2],
}

impl<const N: usize> Together<N> {
    pub(super) fn at(&self, which: u64) -> usize {
        self.copies[usize::from(which & 1 == 1)]
    }

    pub(super) fn get(&self, memory: &Memory) -> [u64; N] {
        let at = self.at(memory.word(self.which).load(Acquire));
        std::array::from_fn(|index| memory.word(at + index).load(Acquire))
    }
}
