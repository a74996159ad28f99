//! What is remembered, in bounded memory.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// Hashes single numbers, at a tenth of what the standard way takes. It begins at random, so that
/// whoever chooses numbers does not know which fall together.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(u64);

impl Default for Numbers {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Numbers {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

/// What [`Numbers`] hashes with.
pub(crate) struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// A map that forgets what has not been asked for in a long time, once it weighs too much.
///
/// It has two halves: what is new or asked for is in the younger one; when that weighs half of what is
/// allowed, it becomes the older one, and what was there is forgotten.
#[derive(Debug)]
pub(crate) struct Remembered<K, V> {
    young: HashMap<K, (V, usize), Numbers>,
    old: HashMap<K, (V, usize), Numbers>,
    weight: usize,
    most: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Remembered<K, V> {
    /// Remembers at most `most`, in whatever unit `insert` gets.
    pub(crate) fn new(most: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), weight: 0, most }
    }

    pub(crate) fn insert(&mut self, key: K, value: V, weight: usize) {
        if let Some((_, before)) = self.young.insert(key, (value, weight)) {
            self.weight -= before;
        }
        self.weight += weight;
        if self.weight > self.most / 2 {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.touch(key).then(|| self.peek(key).cloned()).flatten()
    }

    /// Asks for it without taking it: whether it is remembered.
    pub(crate) fn touch<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        if self.young.contains_key(key) {
            return true;
        }
        let Some((key, (value, weight))) = self.old.remove_entry(key) else { return false };
        self.insert(key, value, weight);
        true
    }

    /// What is remembered of it; that it was asked for does not count.
    pub(crate) fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key)).map(|(value, _)| value)
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let old = self.old.remove(key).map(|(value, _)| value);
        let Some((value, weight)) = self.young.remove(key) else { return old };
        self.weight -= weight;
        Some(value)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let mut map = Remembered::new(100);
        for key in 0..10_000_u32 {
            map.insert(key, key, 1);
            assert_eq!(map.get(&0), Some(0));
            assert!(map.len() <= 101);
        }
        assert_eq!(map.get(&9_999), Some(9_999));
        assert_eq!(map.get(&5), None);
        assert_eq!(map.remove(&0), Some(0));
        assert_eq!(map.get(&0), None);
    }
}
