//! What is known of a server's processes from one round to the next, and which of them a round reads:
//! there may be more than it has time for, and who starts processes must not choose which.

use std::collections::BTreeMap;

use super::schema::Process;

/// A process: its number, and when it started.
pub(super) type Key = (u32, u64);

/// Those that live, as they were when they were read last.
#[derive(Debug, Default)]
pub(super) struct Known {
    all: BTreeMap<Key, (Process, u64)>,
    round: u64,
}

impl Known {
    /// Begins a round, in which these live. Returns whether others are gone.
    pub(super) fn begin(&mut self, living: &[Key]) -> bool {
        let before = self.all.len();
        self.round += 1;
        let living: std::collections::BTreeSet<&Key> = living.iter().collect();
        self.all.retain(|key, _| living.contains(key));
        self.all.len() != before
    }

    /// In which order processes are to be read, as places in `living`. By turns: the one that started
    /// last, the one that started first, both of those that were never read, and the one whose
    /// reading is longest ago.
    pub(super) fn order(&self, living: &[Key]) -> Vec<usize> {
        let mut unread: Vec<usize> = Vec::new();
        let mut read: Vec<usize> = Vec::new();
        for (place, key) in living.iter().enumerate() {
            if self.all.contains_key(key) { read.push(place) } else { unread.push(place) }
        }
        unread.sort_by_key(|place| (living[*place].1, living[*place].0));
        read.sort_by_key(|place| self.all.get(&living[*place]).map(|(_, round)| *round));
        let mut unread = std::collections::VecDeque::from(unread);
        let mut read = read.into_iter();
        let mut order = Vec::with_capacity(living.len());
        while order.len() < living.len() {
            order.extend(unread.pop_back());
            order.extend(unread.pop_front());
            order.extend(read.next());
        }
        order
    }

    /// Notes how a process is. Returns whether it was another way before.
    pub(super) fn note(&mut self, mut process: Process) -> bool {
        let key = (process.pid.host, process.started_ticks);
        let before = self.all.get(&key).map(|(process, _)| process);
        // Named later, with those of all.
        process.parent.server = before.and_then(|before| before.parent.server);
        let is_new = before != Some(&process);
        self.all.insert(key, (process, self.round));
        is_new
    }

    /// Adds the numbers that parents have in the server. Returns whether any is another one now.
    pub(super) fn name_parents(&mut self) -> bool {
        let inside: BTreeMap<u32, Option<u32>> =
            self.all.values().map(|(one, _)| (one.pid.host, one.pid.server)).collect();
        let mut is_new = false;
        for (process, _) in self.all.values_mut() {
            let number = inside.get(&process.parent.host).copied().flatten();
            is_new |= process.parent.server != number;
            process.parent.server = number;
        }
        is_new
    }

    /// How many are as they were in an earlier round.
    pub(super) fn old(&self) -> usize {
        self.all.values().filter(|(_, round)| *round < self.round).count()
    }

    /// All of them, by number.
    pub(super) fn processes(&self) -> impl ExactSizeIterator<Item = &Process> {
        self.all.values().map(|(process, _)| process)
    }
}

/// Keeps `most` of those that start at these times: the first half and the last. Returns their places.
pub(super) fn ends(starts: &[Key], most: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..starts.len()).collect();
    if places.len() > most {
        places.sort_by_key(|place| (starts[*place].1, starts[*place].0));
        let late = places.len() - most / 2;
        places.drain(most - most / 2..late);
        places.sort_unstable();
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::facts::schema::Pid;

    fn process(host: u32, started_ticks: u64) -> Process {
        Process { pid: Pid { host, server: None }, started_ticks, ..Process::default() }
    }

    #[test]
    fn a_flood_of_new_ones_keeps_nobody_from_being_read() {
        let mut known = Known::default();
        let old: Vec<Key> = (1..=4).map(|pid| (pid, 1)).collect();
        known.begin(&old);
        for (pid, start) in &old {
            assert!(known.note(process(*pid, *start)));
        }
        // Each round has time for six, and a hundred more come before each.
        let mut living = old.clone();
        let mut read = BTreeMap::new();
        for round in 0..4 {
            living.extend((0..100).map(|n| (1000 + round * 100 + n, 2 + u64::from(round))));
            assert!(!known.begin(&living));
            for place in known.order(&living).into_iter().take(6) {
                let (pid, start) = living[place];
                *read.entry(pid).or_insert(0) += 1;
                known.note(process(pid, start));
            }
            assert!(read.contains_key(&(1099 + round * 100)), "the newest of round {round}");
        }
        assert!(old.iter().all(|(pid, _)| read.contains_key(pid)), "{read:?}");
        assert!(read.contains_key(&1000), "the oldest that was not read");
        assert!(known.old() > 0);
    }

    #[test]
    fn what_is_gone_goes_and_a_number_that_comes_again_is_another_one() {
        let mut known = Known::default();
        known.begin(&[(7, 1)]);
        assert!(known.note(process(7, 1)) && !known.note(process(7, 1)));
        assert!(known.begin(&[(7, 2)]));
        assert_eq!((known.processes().len(), known.order(&[(7, 2)])), (0, vec![0]));
    }

    #[test]
    fn of_too_many_the_first_and_the_last_stay() {
        let starts: Vec<Key> = [(1, 50), (2, 10), (3, 40), (4, 20), (5, 30)].to_vec();
        assert_eq!(ends(&starts, 5), [0, 1, 2, 3, 4]);
        assert_eq!(ends(&starts, 3), [0, 1, 3]);
        assert_eq!(ends(&starts, 0), [0; 0]);
    }

    #[test]
    fn parents_have_their_inner_number() {
        let process = |host, server, parent| Process {
            pid: Pid { host, server: Some(server) },
            parent: Pid { host: parent, server: None },
            ..Process::default()
        };
        let mut known = Known::default();
        known.begin(&[(100, 0), (101, 0)]);
        known.note(process(100, 1, 7));
        known.note(process(101, 2, 100));
        assert!(known.name_parents() && !known.name_parents());
        let parents: Vec<Option<u32>> = known.processes().map(|one| one.parent.server).collect();
        assert_eq!(parents, [None, Some(1)]);
        assert!(!known.note(process(101, 2, 100)), "a parent's number is no news");
    }
}
