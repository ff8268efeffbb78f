//! The thread that has the books.
//!
//! ```text
//! recv -> what waits, at most BATCH -> check signatures -> apply -> write + sync -> answers
//!                                                                     \-- failed -> reservations taken back,
//!                                                                                   vouchers kept until it works
//! ```

use super::desk::Desk;
use super::disk::Disk;
use super::journal::Journal;
use super::{Delivery, Hold, NotBooked, Reservation, Standing};
use payment::Address;
use payment::log::Record;
use payment::proxy::{Phase, Settled};
use payment::view::{PoolView, VaultView};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// Commands that share a sync.
const BATCH: usize = 512;
/// How long between tries to write to a disk that was full.
const AGAIN: Duration = Duration::from_millis(500);

type Reply<T> = oneshot::Sender<Result<T, NotBooked>>;

/// What the clerk is asked.
pub enum Command {
    Reserve { what: Box<Reservation>, back: Sender<Command>, reply: Reply<Hold> },
    Finish { id: u64, delivery: Box<Delivery>, paid: Arc<Notify>, reply: Reply<Settled> },
    Release(u64),
    Pool(PoolView),
    Vault { vault: Address, view: Box<VaultView>, reply: Reply<()> },
    Look(Box<dyn FnOnce(&mut Desk, u64) + Send>),
}

/// An answer that waits for its records.
pub(super) enum Done {
    Reserved { id: u64, hold: Hold, reply: Reply<Hold> },
    Settled { id: u64, settled: Box<Settled>, paid: Arc<Notify>, reply: Reply<Settled> },
}

impl Done {
    /// Tells whoever asked. Who went away meanwhile gives a hold back by dropping it.
    fn tell(self) {
        match self {
            Self::Reserved { hold, reply, .. } => {
                let _ = reply.send(Ok(hold));
            }
            Self::Settled { settled, reply, .. } => {
                let _ = reply.send(Ok(*settled));
            }
        }
    }
}

pub(super) struct Clerk<D, N> {
    pub desk: Desk,
    pub journal: Journal<D>,
    pub now: N,
    pub tell: watch::Sender<Standing>,
    /// What was finished and is not on disk yet.
    pub late: Vec<Done>,
}

impl<D: Disk, N: Fn() -> u64> Clerk<D, N> {
    /// Works until nobody can ask any more.
    pub fn work(mut self, from: &Receiver<Command>) {
        loop {
            let first = if self.journal.is_written() {
                from.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                from.recv_timeout(AGAIN)
            };
            let batch = match first {
                Ok(first) => std::iter::once(first).chain(from.try_iter().take(BATCH - 1)).collect(),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.take(batch);
        }
    }

    /// One batch, from commands to answers.
    fn take(&mut self, batch: Vec<Command>) {
        // A disk that was full is asked first: what it can't take now shall not be promised.
        let full = !self.journal.is_written() && self.journal.write().is_err();
        if !full {
            self.catch_up();
        }
        let (looks, batch): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|command| matches!(command, Command::Look(_)));
        let done = self.apply(batch, full);
        match self.journal.write() {
            Ok(()) => {
                self.catch_up();
                for done in done {
                    self.desk.done(&done);
                    done.tell();
                }
            }
            Err(_) => self.put_off(done),
        }
        // Whoever looks sees what is on disk, of this batch too.
        let now = (self.now)();
        for look in looks {
            if let Command::Look(ask) = look {
                ask(&mut self.desk, now);
            }
        }
        self.shorten(now);
        self.journal.prepare();
        let standing = Standing { phase: self.desk.phase(), writes: self.journal.is_written() };
        self.tell.send_if_modified(|had| std::mem::replace(had, standing) != standing);
    }

    /// A log that has grown long is begun anew; where that fails it goes on as it is.
    fn shorten(&mut self, now: u64) {
        let Self { desk, journal, .. } = self;
        if let Err(error) = journal.compact(now, |epoch| desk.pays(epoch)) {
            eprintln!(
                "chrysalis-proxy: the log is long and can't be begun anew, it goes on as it is: {error}"
            );
        }
    }

    /// What was late is on disk now.
    fn catch_up(&mut self) {
        for done in std::mem::take(&mut self.late) {
            self.desk.done(&done);
            done.tell();
        }
    }

    /// Nothing of this batch is on disk: reservations never were, and vouchers wait.
    fn put_off(&mut self, done: Vec<Done>) {
        let mut records = Vec::new();
        for done in done {
            match done {
                Done::Reserved { id, mut hold, reply } => {
                    hold.disarm();
                    records.extend(self.desk.unreserve(id));
                    let _ = reply.send(Err(NotBooked::NoLogSpace));
                }
                // Whoever waits for the vouchers waits on: any other word would say that nothing is charged.
                done @ Done::Settled { .. } => self.late.push(done),
            }
        }
        self.journal.add(&records);
    }

    /// Applies commands in their order; what is to be answered once their records are written.
    fn apply(&mut self, batch: Vec<Command>, full: bool) -> Vec<Done> {
        let now = (self.now)();
        let wanted: Vec<&Reservation> = batch
            .iter()
            .filter_map(|command| match command {
                Command::Reserve { what, .. } if !full => Some(&**what),
                _ => None,
            })
            .collect();
        let mut checked = self.desk.check(&wanted).into_iter();
        let mut done = Vec::with_capacity(batch.len());
        for command in batch {
            let records = match command {
                Command::Reserve { reply, .. } if full => {
                    let _ = reply.send(Err(NotBooked::NoLogSpace));
                    Vec::new()
                }
                Command::Reserve { what, back, reply } => {
                    // A vault that was opened earlier in this batch is asked for again.
                    let checked = checked.next().unwrap_or(Err(NotBooked::Closed));
                    self.reserve(&what, checked, back, reply, now, &mut done)
                }
                Command::Finish { id, delivery, paid, reply } => {
                    let (records, finished) = self.desk.finish(id, &delivery, now);
                    match finished {
                        Ok(settled) => {
                            let settled = Box::new(settled);
                            done.push(Done::Settled { id, settled, paid, reply });
                        }
                        Err(refused) => drop(reply.send(Err(refused))),
                    }
                    records
                }
                Command::Release(id) => self.desk.release(id),
                Command::Pool(view) => self.pool(view),
                Command::Vault { vault, view, reply } => {
                    let taken = self.desk.on_vault(vault, *view);
                    let (records, answer) = taken.map_or_else(|e| (Vec::new(), Err(e)), |r| (r, Ok(())));
                    let _ = reply.send(answer);
                    records
                }
                // Later, in `take`.
                Command::Look(_) => Vec::new(),
            };
            self.journal.add(&records);
        }
        done
    }

    fn pool(&mut self, view: PoolView) -> Vec<Record> {
        let had = self.desk.phase();
        let phase = self.desk.on_pool(view);
        if phase != had {
            eprintln!("chrysalis-proxy: {}", told(phase));
        }
        Vec::new()
    }

    fn reserve(
        &mut self,
        what: &Reservation,
        checked: Result<super::desk::Checked, NotBooked>,
        back: Sender<Command>,
        reply: Reply<Hold>,
        now: u64,
        done: &mut Vec<Done>,
    ) -> Vec<Record> {
        let (records, reserved) = match checked {
            Ok(checked) => self.desk.reserve(what, checked, now),
            Err(refused) => (Vec::new(), Err(refused)),
        };
        match reserved {
            Ok((id, amount)) => {
                done.push(Done::Reserved { id, hold: Hold { to: Some(back), id, amount }, reply });
            }
            Err(refused) => drop(reply.send(Err(refused))),
        }
        records
    }
}

impl Hold {
    /// The clerk itself took it back.
    fn disarm(&mut self) {
        self.to = None;
    }
}

/// For the host's log: epochs are public.
fn told(phase: Phase) -> String {
    match phase {
        Phase::Waiting => "the pool does not name this boot's key yet".into(),
        Phase::Active { epoch } => {
            format!("session {epoch} of the pool is this boot's; requests are charged")
        }
        Phase::Over { epoch } => {
            format!("session {epoch} is over; nothing more is reserved. Restart to begin another")
        }
    }
}
