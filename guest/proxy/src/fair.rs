//! Fair shares of what can be under way: who pays, or who is connected, counts as one.
//!
//! While less than half of the places are taken anybody may take one. Above that, each of those who are here gets the same
//! share, and whoever has it already waits for one of its own to end. Pure.

use std::collections::BTreeMap;

/// Places, and who has them.
#[derive(Debug)]
pub struct Shares<K> {
    places: usize,
    taken: usize,
    by: BTreeMap<K, usize>,
}

/// Why no place was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    Full,
    /// This one has its share.
    Share {
        /// How many that is at the moment.
        share: usize,
    },
}

impl<K: Ord + Clone> Shares<K> {
    /// So many places.
    pub fn new(places: usize) -> Self {
        Self { places, taken: 0, by: BTreeMap::new() }
    }

    /// Takes a place for `who`.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn take(&mut self, who: &K) -> Result<(), NoPlace> {
        if self.taken >= self.places {
            return Err(NoPlace::Full);
        }
        let mine = self.by.get(who).copied().unwrap_or(0);
        if self.taken >= self.places / 2 {
            let others = self.by.len() + usize::from(mine == 0);
            let share = (self.places / others).max(1);
            if mine >= share {
                return Err(NoPlace::Share { share });
            }
        }
        self.taken += 1;
        *self.by.entry(who.clone()).or_default() += 1;
        Ok(())
    }

    /// Gives a place back.
    pub fn give(&mut self, who: &K) {
        let Some(mine) = self.by.get_mut(who) else { return };
        *mine -= 1;
        self.taken -= 1;
        if *mine == 0 {
            self.by.remove(who);
        }
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_alone_may_take_all_and_two_get_half_each() {
        let mut shares = Shares::new(8);
        while shares.take(&1).is_ok() {}
        assert_eq!(shares.taken(), 8);
        assert_eq!(shares.take(&2), Err(NoPlace::Full));
        for _ in 0..4 {
            shares.give(&1);
            shares.take(&2).unwrap();
            assert!(shares.take(&1).is_err(), "what one gives back is the other's");
        }
        assert_eq!(shares.by, [(1, 4), (2, 4)].into());
    }

    #[test]
    fn a_newcomer_gets_a_place_while_others_are_at_their_share() {
        let mut shares = Shares::new(8);
        for who in [1, 1, 1, 1, 2, 2] {
            shares.take(&who).unwrap();
        }
        assert_eq!(shares.take(&1), Err(NoPlace::Share { share: 4 }));
        assert_eq!(shares.take(&3), Ok(()));
    }

    proptest! {
        #[test]
        fn places_are_counted_right_and_never_more_than_there_are(events in prop::collection::vec((any::<bool>(), 0u8..5), 0..300)) {
            let mut shares = Shares::new(10);
            let mut open: Vec<u8> = Vec::new();
            for (take, who) in events {
                if take {
                    if shares.take(&who).is_ok() { open.push(who) }
                } else if let Some(at) = open.iter().position(|other| *other == who) {
                    open.swap_remove(at);
                    shares.give(&who);
                }
                prop_assert_eq!(shares.taken(), open.len());
                prop_assert!(open.len() <= 10);
                prop_assert_eq!(shares.by.values().sum::<usize>(), open.len());
            }
        }
    }
}
