//! What a log comes to: the fold that a next boot reads it with, and the short log that says the same.
//!
//! ```text
//! records --apply--> Fold --finish--> Recovered     what is open counts as lost
//!                     |---snapshot--> records       a log that begins with them says what all before it said
//!                     \---forget                    what no contract would pay for any more
//! ```
//! Whoever writes a log folds it as it grows, so a snapshot is what a reader would know at that very record.

use super::{Log, Record};
use crate::sign::Signed;
use crate::voucher::{Address, Cap, Payout, Use};
use std::collections::BTreeMap;

/// What a boot learns from the logs of the boots before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// By vault.
    pub vaults: BTreeMap<Address, RecoveredVault>,
    /// The best voucher of each worker and epoch, for whoever would submit them.
    pub payouts: BTreeMap<(u32, Address), Signed<Payout>>,
}

/// One vault in [`Recovered`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredVault {
    /// The client's total as it was signed last.
    pub used: u64,
    /// Holds that were open when the log ended. They count as spent.
    pub lost: u64,
    /// The best use, to be claimed with a cap for the very key that signed it: a vault takes no other.
    pub owed: Option<(Signed<Cap>, Signed<Use>)>,
}

impl RecoveredVault {
    fn owe(&mut self, cap: Signed<Cap>, used: Signed<Use>) {
        if self.owed.is_none_or(|(_, old)| old.voucher.total <= used.voucher.total) {
            self.owed = Some((cap, used));
        }
        self.used = self.used.max(used.voucher.total);
    }
}

/// Folds a log into what earlier logs gave. Signatures are not checked here: what the disk says can at worst make the
/// proxy ask too little of a client or count too much as spent, and a contract checks what is submitted.
pub fn recover(known: Recovered, log: &Log) -> Recovered {
    let mut fold = Fold::after(known, log.key);
    log.records.iter().for_each(|record| fold.apply(record));
    fold.finish()
}

/// A log so far, on top of the logs before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    known: Recovered,
    /// Of the session whose log it is.
    key: [u8; 32],
    /// Reserved and neither charged nor released: vault and hold, by the proxy's number.
    open: BTreeMap<u64, (Address, u64)>,
    /// The cap that each vault's client signed last for this session.
    caps: BTreeMap<Address, Signed<Cap>>,
}

impl Fold {
    /// A log that has no record yet, of the session of `key`, after logs that gave `known`.
    pub fn after(known: Recovered, key: [u8; 32]) -> Self {
        Self { known, key, open: BTreeMap::new(), caps: BTreeMap::new() }
    }

    /// One more record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Cap(cap) => self.cap(cap),
            Record::Opened { vault, used, lost } => {
                let vault = self.vault(vault);
                (vault.used, vault.lost) = (vault.used.max(*used), *lost);
            }
            Record::Reserved { id, vault, hold } => {
                // With a row, so that a snapshot says that what was lost before is not what is open now.
                self.vault(vault);
                self.open.insert(*id, (*vault, *hold));
            }
            Record::Charged { id, used, payout } => {
                self.open.remove(id);
                self.charge(used);
                payout.iter().for_each(|payout| self.earn(payout));
            }
            Record::Released { id } => drop(self.open.remove(id)),
            Record::Owed { cap, used } => self.vault(&used.voucher.vault).owe(*cap, *used),
            Record::Earned(payout) => self.earn(payout),
        }
    }

    fn vault(&mut self, vault: &Address) -> &mut RecoveredVault {
        self.known.vaults.entry(*vault).or_default()
    }

    /// Caps come as they were taken: a later one holds, also for what was used before it.
    fn cap(&mut self, cap: &Signed<Cap>) {
        if cap.voucher.session_key != self.key {
            return;
        }
        self.caps.insert(cap.voucher.vault, *cap);
        if let Some((old, _)) = &mut self.vault(&cap.voucher.vault).owed
            && old.voucher.session_key == cap.voucher.session_key
        {
            *old = *cap;
        }
    }

    fn charge(&mut self, used: &Signed<Use>) {
        let cap = self.caps.get(&used.voucher.vault).copied();
        let vault = self.vault(&used.voucher.vault);
        match cap {
            Some(cap) => vault.owe(cap, *used),
            // No proxy charges without a cap; what somebody else wrote counts, and can't be claimed.
            None => vault.used = vault.used.max(used.voucher.total),
        }
    }

    fn earn(&mut self, payout: &Signed<Payout>) {
        let Payout { epoch, worker, total, .. } = payout.voucher;
        let best = self.known.payouts.entry((epoch, worker)).or_insert(*payout);
        if best.voucher.total < total {
            *best = *payout;
        }
    }

    /// What a next boot knows: what is open counts as lost.
    pub fn finish(mut self) -> Recovered {
        for (vault, hold) in std::mem::take(&mut self.open).into_values() {
            let vault = self.vault(&vault);
            vault.lost = vault.lost.saturating_add(hold);
        }
        self.known
    }

    /// Records that come to the same: at most three for a vault, one for a worker and session, one for each open request.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (vault, RecoveredVault { used, lost, owed }) in &self.known.vaults {
            records.push(Record::Opened { vault: *vault, used: *used, lost: *lost });
            records.extend(owed.map(|(cap, used)| Record::Owed { cap, used }));
        }
        records.extend(self.caps.values().map(|cap| Record::Cap(*cap)));
        records.extend(self.known.payouts.values().map(|payout| Record::Earned(*payout)));
        let open = self.open.iter();
        records.extend(open.map(|(id, (vault, hold))| Record::Reserved {
            id: *id,
            vault: *vault,
            hold: *hold,
        }));
        records
    }

    /// Leaves out what brings nobody anything any more at `now` (Unix seconds): vaults whose caps have all run out, or
    /// that owe and lost nothing, as far as nothing is open there, and vouchers of sessions whose pot is gone. `pays` says which epochs' pots are there.
    ///
    /// What is forgotten of a vault is in its client's favour: what was used and never claimed, and what was lost.
    pub fn forget(&mut self, now: u64, pays: impl Fn(u32) -> bool) {
        let ran_out = |cap: &Signed<Cap>| u64::from(cap.voucher.valid_until) < now;
        self.caps.retain(|_, cap| !ran_out(cap));
        let Self { known, open, caps, .. } = self;
        let busy = |vault: &Address| caps.contains_key(vault) || open.values().any(|(of, _)| of == vault);
        // Without any voucher there is nothing that ends: what was lost counts until somebody asks for the vault.
        let over = |row: &RecoveredVault| row.owed.map_or(row.lost == 0, |(cap, _)| ran_out(&cap));
        known.vaults.retain(|vault, row| !over(row) || busy(vault));
        known.payouts.retain(|(epoch, _), _| pays(*epoch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{LogWriter, read};
    use crate::sign::SecretKey;
    use crate::voucher::Voucher;
    use proptest::prelude::*;

    const POOL: Address = Address { workchain: 0, hash: [8; 32] };
    const NET: i32 = -239;

    fn vault(n: u8) -> Address {
        Address { workchain: 0, hash: [n; 32] }
    }

    /// What happens in a proxy, of three vaults and two workers.
    #[derive(Clone, Debug)]
    enum Op {
        Cap { vault: u8, cap: u64, valid_until: u32 },
        Reserve { vault: u8, hold: u64 },
        Charge { which: usize, part: u64, worker: u8 },
        Release { which: usize },
        Compact,
        Boot,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            2 => (0u8..3, 1u64..1000, 1u32..100).prop_map(|(vault, cap, valid_until)| Op::Cap { vault, cap, valid_until }),
            4 => (0u8..3, 1u64..100).prop_map(|(vault, hold)| Op::Reserve { vault, hold }),
            3 => (any::<usize>(), 0u64..100, 0u8..2).prop_map(|(which, part, worker)| Op::Charge { which, part, worker }),
            1 => any::<usize>().prop_map(|which| Op::Release { which }),
            1 => Just(Op::Compact),
            1 => Just(Op::Boot),
        ]
    }

    /// The signature is not looked at here; a real one takes most of a test's time.
    fn signed<V: Voucher>(voucher: V) -> Signed<V> {
        Signed { voucher, signature: [7; 64] }
    }

    /// A proxy that keeps every record of all boots, and one that writes short logs: `whole` is a log for each boot.
    struct Both {
        whole: Vec<(Vec<u8>, LogWriter)>,
        short: (Vec<u8>, LogWriter),
        fold: Fold,
        boot: u8,
        next: u64,
        open: Vec<(u64, u8, u64)>,
        used: [u64; 3],
        earned: [u64; 2],
    }

    impl Both {
        fn new() -> Self {
            let fold = Fold::after(Recovered::default(), [0; 32]);
            let begin = || LogWriter::begin(&POOL, &[0; 32]);
            let (whole, short) = (vec![begin()], begin());
            let (open, used, earned) = (Vec::new(), [0; 3], [0; 2]);
            Both { whole, short, fold, boot: 0, next: 0, open, used, earned }
        }

        fn write(&mut self, record: &Record) {
            for (bytes, writer) in self.whole.last_mut().into_iter().chain([&mut self.short]) {
                let more = writer.append(record);
                bytes.extend(more);
            }
            self.fold.apply(record);
        }

        fn shorten(&mut self) {
            let (mut bytes, mut writer) = LogWriter::begin(&POOL, &[self.boot; 32]);
            self.fold.snapshot().iter().for_each(|record| bytes.extend(writer.append(record)));
            self.short = (bytes, writer);
        }

        fn take(&mut self, op: &Op) {
            match *op {
                Op::Cap { vault: n, cap, valid_until } => {
                    let (vault, session_key) = (vault(n), [self.boot; 32]);
                    let cap = Cap { global_id: NET, vault, valid_until, session_key, cap };
                    self.write(&Record::Cap(signed(cap)));
                }
                Op::Reserve { vault: n, hold } => {
                    self.next += 1;
                    self.open.push((self.next, n, hold));
                    self.write(&Record::Reserved { id: self.next, vault: vault(n), hold });
                }
                Op::Charge { which, part, worker } if !self.open.is_empty() => {
                    let (id, n, hold) = self.open.swap_remove(which % self.open.len());
                    self.used[usize::from(n)] += part.min(hold);
                    self.earned[usize::from(worker)] += part.min(hold);
                    let total = self.used[usize::from(n)];
                    let used = signed(Use { global_id: NET, vault: vault(n), total });
                    let (epoch, total) = (u32::from(self.boot), self.earned[usize::from(worker)]);
                    let payout = signed(Payout {
                        global_id: NET,
                        pool: POOL,
                        epoch,
                        worker: vault(90 + worker),
                        total,
                    });
                    self.write(&Record::Charged { id, used, payout: Some(payout) });
                }
                Op::Release { which } if !self.open.is_empty() => {
                    let (id, ..) = self.open.swap_remove(which % self.open.len());
                    self.write(&Record::Released { id });
                }
                Op::Charge { .. } | Op::Release { .. } => {}
                Op::Compact => self.shorten(),
                Op::Boot => {
                    self.boot += 1;
                    self.open.clear();
                    self.whole.push(LogWriter::begin(&POOL, &[self.boot; 32]));
                    self.fold = Fold::after(self.fold.clone().finish(), [self.boot; 32]);
                    self.shorten();
                }
            }
        }

        /// What a boot learns of all the logs, the last one cut so many bytes before its end.
        fn from_whole(&self, less: usize) -> Recovered {
            let last = self.whole.len() - 1;
            let logs = self.whole.iter().enumerate();
            logs.fold(Recovered::default(), |known, (n, (bytes, _))| {
                let end = if n == last { bytes.len() - less } else { bytes.len() };
                recover(known, &read(&bytes[..end], &POOL))
            })
        }
    }

    proptest! {
        // Each case reads its logs again and again.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_short_log_says_what_all_the_logs_say(ops in prop::collection::vec(op(), 0..60)) {
            let mut both = Both::new();
            for op in &ops {
                both.take(op);
                let short = recover(Recovered::default(), &read(&both.short.0, &POOL));
                prop_assert_eq!(&short, &both.from_whole(0), "after {:?}", op);
            }
        }

        #[test]
        fn a_short_log_that_is_cut_anywhere_behind_its_snapshot_says_what_all_the_logs_say_that_are_cut_there(
            before in prop::collection::vec(op(), 0..24),
            after in prop::collection::vec(op().prop_filter("the same log", |op| !matches!(op, Op::Compact | Op::Boot)), 1..6),
        ) {
            let mut both = Both::new();
            before.iter().for_each(|op| both.take(op));
            both.shorten();
            let snapshot = both.short.0.len();
            after.iter().for_each(|op| both.take(op));
            for cut in snapshot..=both.short.0.len() {
                let short = recover(Recovered::default(), &read(&both.short.0[..cut], &POOL));
                prop_assert_eq!(&short, &both.from_whole(both.short.0.len() - cut), "cut at {}", cut);
            }
        }

        /// A crash between the new log's first byte and the removal of the old ones leaves both to be read.
        #[test]
        fn old_logs_before_their_own_snapshot_change_nothing(ops in prop::collection::vec(op(), 0..40)) {
            let mut both = Both::new();
            ops.iter().for_each(|op| both.take(op));
            both.shorten();
            let twice = recover(both.from_whole(0), &read(&both.short.0, &POOL));
            prop_assert_eq!(twice, both.from_whole(0));
        }

        #[test]
        fn what_is_forgotten_could_bring_nothing(ops in prop::collection::vec(op(), 0..60), now in 0u64..120) {
            let mut both = Both::new();
            ops.iter().for_each(|op| both.take(op));
            let newest = u32::from(both.boot);
            let (whole, mut fold) = (both.fold.clone().finish(), both.fold.clone());
            fold.forget(now, |epoch| epoch == newest);
            let left = fold.finish();
            for (vault, row) in &whole.vaults {
                let owed = row.owed.filter(|(cap, _)| u64::from(cap.voucher.valid_until) >= now);
                if owed.is_some() {
                    prop_assert_eq!(left.vaults.get(vault), Some(row));
                }
                let open = both.open.iter().any(|(_, n, _)| super::tests::vault(*n) == *vault);
                prop_assert!(!open || left.vaults.get(vault) == Some(row));
            }
            for (of, payout) in &whole.payouts {
                prop_assert_eq!(left.payouts.get(of), (of.0 == newest).then_some(payout));
            }
        }
    }

    #[test]
    fn what_a_session_before_charged_is_claimed_with_its_own_cap() {
        let key = SecretKey::from_seed(&[1; 32]);
        let cap = |session: u8, cap| {
            let session_key = [session; 32];
            key.sign(Cap { global_id: NET, vault: vault(1), valid_until: 9, session_key, cap })
        };
        let used = key.sign(Use { global_id: NET, vault: vault(1), total: 25 });
        let mut first = Fold::after(Recovered::default(), [1; 32]);
        first.apply(&Record::Cap(cap(1, 30)));
        first.apply(&Record::Charged { id: 1, used, payout: None });
        first.apply(&Record::Cap(cap(1, 40)));
        // The next session takes a higher cap and ends before it charged anything.
        let mut second = Fold::after(first.finish(), [2; 32]);
        second.apply(&Record::Cap(cap(2, 100)));
        assert_eq!(second.finish().vaults[&vault(1)].owed, Some((cap(1, 40), used)));
    }
}
