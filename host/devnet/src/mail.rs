//! Messages between blocks: what waits, and what a bad network does to it.
//!
//! TON delivers an internal message exactly once, and messages between the same two accounts in order; no fault breaks that.
//! An external message may come twice, late, in any order, or never: all of it can be asked for with [`Faults`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use ton::Address;
use ton::forms::{Bag, Faults};

/// In how many blocks an external message is tried before it is dropped: it may be waiting for another one.
const TRIES: u32 = 3;

/// A message on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub message: Bag,
    pub to: Address,
    /// Sender and logical time of an internal message; absent for an external one.
    pub from: Option<(Address, u64)>,
    /// Number of the first block that may deliver it.
    pub due: u32,
    /// How often it was tried and nobody accepted it.
    pub tried: u32,
}

/// All messages on their way. Its order is that of arrival.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Mail {
    pub letters: Vec<Letter>,
    pub faults: Faults,
    /// Draws so far.
    drawn: u64,
    /// External messages that were taken so far.
    taken: u64,
}

impl Mail {
    /// Takes an external message for the block after `seqno`.
    pub fn broadcast(&mut self, message: Bag, to: Address, seqno: u32) {
        self.taken += 1;
        if self.faults.lose_one_in > 0 && self.draw(u64::from(self.faults.lose_one_in)) == 0 {
            return;
        }
        let due = seqno + 1 + self.faults.delay_blocks;
        let letter = Letter { message, to, from: None, due, tried: 0 };
        for _ in 0..=self.faults.duplicate_externals.min(16) {
            self.letters.push(letter.clone());
        }
    }

    /// Takes an internal message that block `seqno` made. Without faults the same block may deliver it.
    pub fn post(&mut self, message: Bag, from: (Address, u64), to: Address, seqno: u32) {
        let held = self.faults.delay_blocks + u32::from(self.faults.reorder);
        self.letters.push(Letter { message, to, from: Some(from), due: seqno + held, tried: 0 });
    }

    /// Keeps an external message that nobody accepted for another try.
    pub fn retry(&mut self, mut letter: Letter, seqno: u32) {
        letter.tried += 1;
        letter.due = seqno + 1;
        if letter.tried < TRIES {
            self.letters.push(letter);
        }
    }

    /// Takes out what block `seqno` may deliver, in the order in which it does.
    pub fn due(&mut self, seqno: u32) -> Vec<Letter> {
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.letters).into_iter().partition(|letter| letter.due <= seqno);
        self.letters = later;
        if self.faults.reorder {
            self.shuffle(&mut due);
        }
        due
    }

    /// Shuffles, but leaves messages between the same two accounts in their order.
    fn shuffle(&mut self, letters: &mut [Letter]) {
        for last in (1..letters.len()).rev() {
            let other = usize::try_from(self.draw(last as u64 + 1)).unwrap_or(0);
            letters.swap(last, other);
        }
        let mut places: BTreeMap<(Address, Address), Vec<usize>> = BTreeMap::new();
        for (place, letter) in letters.iter().enumerate() {
            if let Some((from, _)) = &letter.from {
                places.entry((from.clone(), letter.to.clone())).or_default().push(place);
            }
        }
        for places in places.values() {
            let mut ordered: Vec<_> = places.iter().map(|place| letters[*place].clone()).collect();
            ordered.sort_by_key(|letter| letter.from.as_ref().map(|(_, lt)| *lt));
            for (place, letter) in places.iter().zip(ordered) {
                letters[*place] = letter;
            }
        }
    }

    /// A number below `bound`; SplitMix64 over the seed, so that a run can be repeated.
    fn draw(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        let mut z = self.faults.seed.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ton::{Cell, HashBytes};

    fn address(number: u8) -> Address {
        Address::new(0, HashBytes([number; 32]))
    }

    fn mail(faults: Faults) -> Mail {
        Mail { faults, ..Mail::default() }
    }

    /// Sender, receiver and time of every letter that block `seqno` delivers.
    fn delivered(mail: &mut Mail, seqno: u32) -> Vec<(u8, u8, u64)> {
        let letters = mail.due(seqno);
        let named = letters.into_iter().filter_map(|letter| {
            let (from, lt) = letter.from?;
            Some((from.address.0[0], letter.to.address.0[0], lt))
        });
        named.collect()
    }

    proptest! {
        #[test]
        fn no_fault_loses_doubles_or_reorders_what_ton_promises(
            pairs in prop::collection::vec((0u8..3, 0u8..3), 1..60),
            seed: u64,
            delay_blocks in 0u32..4,
            reorder: bool,
        ) {
            let faults = Faults { duplicate_externals: 5, delay_blocks, reorder, lose_one_in: 1, seed };
            let mut mail = mail(faults);
            for (lt, (from, to)) in (1..).zip(&pairs) {
                mail.post(Bag(Cell::default()), (address(*from), lt), address(*to), 10);
            }
            let mut all = Vec::new();
            for seqno in 10..20 {
                all.extend(delivered(&mut mail, seqno));
            }
            prop_assert_eq!(all.len(), pairs.len());
            for (from, to) in &pairs {
                let times: Vec<_> = all.iter().filter(|l| (l.0, l.1) == (*from, *to)).map(|l| l.2).collect();
                prop_assert!(times.is_sorted(), "{from} to {to}: {times:?}");
            }
        }

        #[test]
        fn the_same_seed_makes_the_same_faults(seed: u64) {
            let run = || {
                let mut mail = mail(Faults { reorder: true, lose_one_in: 3, seed, ..Faults::default() });
                for number in 0..20 {
                    mail.broadcast(Bag(Cell::default()), address(number), 1);
                }
                mail.due(2).into_iter().map(|letter| letter.to.address.0[0]).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }
    }

    #[test]
    fn a_broadcast_that_nobody_accepts_is_tried_three_times() {
        let mut mail = mail(Faults::default());
        mail.broadcast(Bag(Cell::default()), address(1), 1);
        let mut tries = 0;
        for seqno in 2..20 {
            for letter in mail.due(seqno) {
                tries += 1;
                mail.retry(letter, seqno);
            }
        }
        assert_eq!(tries, TRIES);
    }
}
