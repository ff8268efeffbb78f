//! Everybody at once: clients, workers, boots of a proxy, an owner who may cheat, a disk that forgets, and a chain.
//!
//! After every step the invariants of `docs/reference/payment.md` are held against what really happened.

use crate::chain::{Chain, Fault, GLOBAL_ID, GRACE, Message, Pool, Vault};
use payment::client::{Client, Ledger, Limits};
use payment::log::{LogWriter, Record, Recovered, read, recover};
use payment::price::{Commission, Price, Tokens};
use payment::proxy::{Facts, Proxy, Terms};
use payment::receipt::End;
use payment::view::{PoolView, VaultView};
use payment::worker::{Rules, Worker};
use payment::{Address, Cap, Payout, SecretKey, Session, Signed, Surplus, Use};
use std::collections::BTreeMap;

/// What a party does that the rules forbid; the invariants must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    None,
    /// The proxy is shown twice the money that its pot holds.
    InflatedPot,
    /// The proxy hands out vouchers and writes no log.
    NoLog,
    /// The owner's hands on the session's own key: what a broken TEE gives away.
    StolenKey,
}

/// One step; numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Tick {
        seconds: u32,
    },
    /// Anybody is shown the chain as it was some steps ago.
    Look {
        who: usize,
        back: usize,
    },
    Boot {
        cut: usize,
    },
    Crash {
        boot: usize,
    },
    Register {
        boot: usize,
        allot: u64,
    },
    Rogue {
        allot: u64,
    },
    Request {
        client: usize,
        boot: usize,
        tokens: u32,
    },
    Finish {
        open: usize,
        worker: usize,
        share: u8,
        cancelled: bool,
        arrives: u8,
    },
    Release {
        open: usize,
    },
    RestartClient {
        client: usize,
    },
    ClaimVault {
        cap: usize,
        used: usize,
    },
    ClaimPool {
        payout: usize,
    },
    GiveBack {
        boot: usize,
        amount: u64,
    },
    TakeSurplus {
        which: usize,
    },
    Owner {
        what: u8,
        amount: u64,
    },
    /// The owner leaves for good.
    Quit,
    StartClose {
        client: usize,
    },
    FinishClose {
        client: usize,
    },
    Redeploy {
        client: usize,
    },
    Arrive {
        which: usize,
    },
    /// One of the messages that were ever sent, again.
    Replay {
        which: usize,
    },
}

pub const POOL: Address = Address { workchain: 0, hash: [0xaa; 32] };
pub const OWNER: Address = Address { workchain: 0, hash: [0xbb; 32] };
const BOND: u64 = 6_000;
pub const DEPOSIT: u64 = 4_000;
/// One nanoTON a token.
const PRICE: Price = Price { base: 1_000_000, prompt: 10_000, cached: 0, completion: 10_000, reasoning: 0 };

pub struct ClientActor {
    pub client: Client,
    pub seed: [u8; 32],
    pub vault: Address,
    pub wallet: Address,
    pub session: Option<usize>,
    /// One more with each session that it begins: it knows nothing of requests before.
    pub life: u32,
    /// The highest cap that it ever signed.
    pub allowed: u64,
    /// What it really was charged for.
    pub charged: u64,
}

pub struct WorkerActor {
    pub worker: Worker,
    pub me: Address,
    /// The best voucher that reached it, by epoch.
    pub vouched: BTreeMap<u32, u64>,
}

pub struct Boot {
    pub proxy: Proxy,
    pub seed: [u8; 32],
    pub disk: Vec<u8>,
    pub writer: LogWriter,
    pub alive: bool,
    /// Totals that it signed: of clients, and of workers.
    pub used: BTreeMap<Address, u64>,
    pub earned: BTreeMap<Address, u64>,
}

pub struct OpenRequest {
    client: usize,
    boot: usize,
    id: u64,
    tokens: u32,
    life: u32,
}

/// The chain at some moment, as proofs would show it.
#[derive(Clone)]
pub struct Snapshot {
    pool: PoolView,
    vaults: BTreeMap<Address, VaultView>,
    paid: Vec<BTreeMap<u32, u64>>,
}

pub struct World {
    pub chain: Chain,
    pub lie: Lie,
    pub coins: u64,
    pub clients: Vec<ClientActor>,
    pub workers: Vec<WorkerActor>,
    pub boots: Vec<Boot>,
    pub open: Vec<OpenRequest>,
    pub history: Vec<Snapshot>,
    pub caps: Vec<Signed<Cap>>,
    pub uses: Vec<Signed<Use>>,
    pub payouts: Vec<Signed<Payout>>,
    pub surpluses: Vec<Signed<Surplus>>,
    pub sent: Vec<Message>,
    pub rogues: u8,
    pub next: u64,
    pub before: Chain,
    /// Requests that were settled, to know that a run did something.
    pub settled: usize,
}

fn address(kind: u8, n: usize) -> Address {
    Address { workchain: 0, hash: [kind.wrapping_add(n as u8); 32] }
}

impl World {
    pub fn new(fault: Fault, lie: Lie) -> Self {
        let clients: Vec<_> = (0..2).map(client).collect();
        let workers: Vec<_> = (0..2).map(worker).collect();
        let vault = |actor: &ClientActor| {
            let client_key = SecretKey::from_seed(&actor.seed).public();
            let open = Vault {
                client_key,
                owner: actor.wallet,
                claimed: 0,
                balance: DEPOSIT,
                closes_at: 0,
                closed: false,
            };
            (actor.vault, open)
        };
        let pool = Pool {
            address: POOL,
            owner: OWNER,
            balance: BOND,
            epoch: 0,
            closed: false,
            pots: BTreeMap::new(),
        };
        let vaults = clients.iter().map(vault).collect();
        let (wallets, flying) = (BTreeMap::new(), Vec::new());
        let chain = Chain {
            fault,
            global_id: GLOBAL_ID,
            now: 1_800_000_000,
            seqno: 1,
            pool,
            vaults,
            wallets,
            flying,
        };
        let coins = chain.coins();
        let mut world = Self {
            before: chain.clone(),
            chain,
            lie,
            coins,
            clients,
            workers,
            boots: Vec::new(),
            open: Vec::new(),
            history: Vec::new(),
            caps: Vec::new(),
            uses: Vec::new(),
            payouts: Vec::new(),
            surpluses: Vec::new(),
            sent: Vec::new(),
            rogues: 0,
            next: 0,
            settled: 0,
        };
        world.snapshot();
        world
    }

    /// Runs the steps, then lets everybody leave; the first invariant that broke.
    pub fn run(&mut self, ops: &[Op]) -> Result<(), String> {
        for op in ops {
            self.step(*op).map_err(|e| format!("{op:?}: {e}"))?;
            self.snapshot();
            self.check().map_err(|e| format!("after {op:?}: {e}"))?;
            self.before = self.chain.clone();
        }
        self.leave()
    }

    fn step(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Tick { seconds } => self.tick(seconds),
            Op::Look { who, back } => self.look(who, back),
            Op::Boot { cut } => return self.boot(cut),
            Op::Crash { boot } => self.crash(boot),
            Op::Register { boot, allot } => self.register(boot, allot),
            Op::Rogue { allot } => self.rogue(allot),
            Op::Request { client, boot, tokens } => self.request(client, boot, tokens),
            Op::Finish { open, worker, share, cancelled, arrives } => {
                return self.finish(open, worker, share, cancelled, arrives);
            }
            Op::Release { open } => self.release(open),
            Op::RestartClient { client } => self.restart_client(client),
            Op::ClaimVault { cap, used } => self.claim_vault(cap, used),
            Op::ClaimPool { payout } => {
                let known = pick(&self.payouts, payout).copied();
                self.send(known.map(|payout| Message::PoolClaim { payout }));
            }
            Op::GiveBack { boot, amount } => {
                let now = u64::from(self.chain.now);
                let alive = index(self.boots.len(), boot).map(|b| &mut self.boots[b]).filter(|b| b.alive);
                self.surpluses.extend(alive.and_then(|b| b.proxy.surplus(amount, now).ok()));
            }
            Op::TakeSurplus { which } => {
                let known = pick(&self.surpluses, which).copied();
                self.send(known.map(|surplus| Message::TakeSurplus { surplus }));
            }
            Op::Owner { what, amount } => self.owner(what, amount),
            Op::Quit => {
                self.owner(1, 0);
                self.tick(GRACE);
                self.owner(4, 0);
            }
            Op::StartClose { client } => {
                let ClientActor { vault, wallet, .. } = self.clients[client % 2];
                self.send(Some(Message::StartClose { vault, from: wallet }));
            }
            Op::FinishClose { client } => {
                let ClientActor { vault, wallet, .. } = self.clients[client % 2];
                let closes_at = self.chain.vaults[&vault].closes_at;
                self.tick(closes_at.saturating_sub(self.chain.now));
                self.send(Some(Message::FinishClose { vault, from: wallet }));
            }
            Op::Redeploy { client } => {
                self.send(Some(Message::Deploy { vault: self.clients[client % 2].vault }))
            }
            Op::Arrive { which } => self.chain.arrive(which),
            Op::Replay { which } => {
                if let Some(message) = pick(&self.sent, which).copied() {
                    self.chain.send(&message);
                }
            }
        }
        Ok(())
    }

    pub fn send(&mut self, message: Option<Message>) {
        if let Some(message) = message {
            self.chain.send(&message);
            self.sent.push(message);
        }
    }

    /// Time passes. Workers get one claim to the chain before a pot closes: what the design asks of them.
    pub fn tick(&mut self, seconds: u32) {
        let until = self.chain.now + seconds;
        let closing = self.chain.pool.pots.values().any(|p| p.closes_at != 0 && p.closes_at <= until);
        if closing {
            self.cash();
        }
        self.chain.now = until;
        self.chain.seqno += 1;
    }

    /// Every worker sees the newest block and sends what its books tell it to.
    fn cash(&mut self) {
        self.snapshot();
        let now = u64::from(self.chain.now);
        for n in 0..self.workers.len() {
            self.show_worker(n, 0);
            for out in self.workers[n].worker.cash_outs(now) {
                self.send(Some(Message::PoolClaim { payout: out.payout }));
            }
        }
    }

    fn snapshot(&mut self) {
        let vaults = self.chain.vaults.keys().map(|v| (*v, self.chain.vault_view(v))).collect();
        let paid = self.workers.iter().map(|w| self.chain.paid(&w.me)).collect();
        self.history.push(Snapshot { pool: self.chain.pool_view(), vaults, paid });
    }

    fn seen(&self, back: usize) -> Snapshot {
        let newest = self.history.len() - 1;
        self.history[newest - back.min(newest)].clone()
    }

    fn look(&mut self, who: usize, back: usize) {
        let snapshot = self.seen(back);
        match who % 6 {
            0 | 1 => self.clients[who % 2].client.on_vault(snapshot.vaults[&address(0x10, who % 2)]),
            2 | 3 => self.show_worker(who % 2, back),
            _ => {
                for n in 0..self.boots.len() {
                    self.show_boot(n, back);
                }
            }
        }
    }

    fn show_worker(&mut self, n: usize, back: usize) {
        let snapshot = self.seen(back);
        self.workers[n].worker.on_pool(POOL, snapshot.pool, &snapshot.paid[n]);
    }

    fn show_boot(&mut self, n: usize, back: usize) {
        let mut snapshot = self.seen(back);
        if self.lie == Lie::InflatedPot {
            snapshot.pool.pots.values_mut().for_each(|pot| pot.funded *= 2);
        }
        if !self.boots[n].alive {
            return;
        }
        self.boots[n].proxy.on_pool(snapshot.pool);
        for (vault, view) in snapshot.vaults {
            let written = self.boots[n].proxy.on_vault(vault, view).expect("vaults of this pool");
            self.write(n, &written.records);
        }
    }

    fn write(&mut self, boot: usize, records: &[Record]) {
        if self.lie != Lie::NoLog {
            let boot = &mut self.boots[boot];
            for record in records {
                let bytes = boot.writer.append(record);
                boot.disk.extend(bytes);
            }
        }
    }

    /// A new boot reads all the logs; the owner may have cut the newest.
    fn boot(&mut self, cut: usize) -> Result<(), String> {
        if self.boots.len() >= 6 {
            return Ok(());
        }
        if let Some(last) = self.boots.last_mut() {
            last.disk.truncate(last.disk.len().saturating_sub(cut));
        }
        let logs = self.boots.iter().map(|b| read(&b.disk, &POOL));
        let before = logs.fold(Recovered::default(), |known, log| recover(known, &log));
        let n = self.boots.len();
        let seed = [0x40 + n as u8; 32];
        let key = SecretKey::from_seed(&seed);
        let (disk, writer) = LogWriter::begin(&POOL, &key.public().to_bytes());
        let proxy = Proxy::new(terms(), key, before);
        let (used, earned) = (BTreeMap::new(), BTreeMap::new());
        self.boots.push(Boot { proxy, seed, disk, writer, alive: true, used, earned });
        self.show_boot(n, 0);
        let forked = self.boots[..n].iter().any(|b| b.alive);
        if cut == 0 && !forked && n > 0 {
            self.nothing_forgotten(n)?;
        }
        Ok(())
    }

    /// I9: what the boot before had used or reserved is used or reserved for this one.
    fn nothing_forgotten(&self, n: usize) -> Result<(), String> {
        for actor in &self.clients {
            let floor = |boot: usize| self.boots[boot].proxy.floor(&actor.vault);
            if let (Some(before), Some(now)) = (floor(n - 1), floor(n)) {
                ensure(now >= before, || format!("I9: {before} were spoken for, {now} are after the crash"))?;
            }
        }
        Ok(())
    }

    fn crash(&mut self, boot: usize) {
        if let Some(n) = index(self.boots.len(), boot) {
            self.boots[n].alive = false;
            self.open.retain(|open| open.boot != n);
        }
    }

    fn register(&mut self, boot: usize, allot: u64) {
        let now = u64::from(self.chain.now);
        let Some(n) = index(self.boots.len(), boot).filter(|n| self.boots[*n].alive) else { return };
        self.show_boot(n, 0);
        let session = self.boots[n].proxy.session(now);
        self.send(session.map(|session| Message::Register { session, allot, from: OWNER }));
    }

    /// The owner registers a key of its own, and signs itself a fortune.
    fn rogue(&mut self, allot: u64) {
        self.rogues = self.rogues.wrapping_add(1);
        let mut seed = [0x80; 32];
        seed[1] = self.rogues;
        let epoch = self.chain.pool.epoch + 1;
        let key = SecretKey::from_seed(&seed);
        let session = Session {
            global_id: GLOBAL_ID,
            pool: POOL,
            epoch,
            key: key.public().to_bytes(),
            valid_until: u32::MAX,
        };
        self.send(Some(Message::Register { session: key.sign(session), allot, from: OWNER }));
        let everything = |epoch| key.sign(payout(epoch, OWNER, u64::MAX / 2));
        self.payouts.extend([everything(epoch), everything(epoch - 1)]);
        let ClientActor { vault, allowed, .. } = self.clients[self.rogues as usize % 2];
        let used = |total| key.sign(Use { global_id: GLOBAL_ID, vault, total });
        self.uses.extend([used(DEPOSIT), used(allowed)]);
        let session_key = key.public().to_bytes();
        let forged = Cap { global_id: GLOBAL_ID, vault, valid_until: u32::MAX, session_key, cap: DEPOSIT };
        self.caps.push(key.sign(forged));
    }

    fn request(&mut self, client: usize, boot: usize, tokens: u32) {
        let client = client % 2;
        let Some(boot) = index(self.boots.len(), boot).filter(|b| self.boots[*b].alive) else { return };
        let now = u64::from(self.chain.now);
        let actor = &mut self.clients[client];
        let proxy = &self.boots[boot].proxy;
        if actor.session != Some(boot) {
            let Some(floor) = proxy.floor(&actor.vault) else { return };
            // After a rollback, or of a fork, a floor may be one that the client rightly refuses.
            if actor.client.attested(proxy.key(), floor).is_err() {
                return;
            }
            actor.session = Some(boot);
            actor.life += 1;
        }
        self.next += 1;
        let (id, most) = (self.next, Tokens { prompt: tokens, ..Tokens::default() });
        let Ok(cap) = actor.client.request(id, [7; 32], PRICE, &most, now) else { return };
        actor.allowed = actor.allowed.max(cap.voucher.cap);
        self.caps.push(cap);
        self.reserve(client, boot, id, cap, &most);
    }

    fn reserve(&mut self, client: usize, boot: usize, id: u64, cap: Signed<Cap>, most: &Tokens) {
        let now = u64::from(self.chain.now);
        let ClientActor { vault, seed, life, .. } = self.clients[client];
        let verified = cap.verify(&SecretKey::from_seed(&seed).public()).expect("an honest client's cap");
        let proxy = &mut self.boots[boot].proxy;
        let taken = proxy.on_cap(verified, now).map(|written| written.records);
        let reserved = proxy.reserve(id, vault, PRICE, most, now).map(|written| written.records);
        self.write(boot, &taken.unwrap_or_default());
        match reserved {
            Ok(records) => {
                self.write(boot, &records);
                self.open.push(OpenRequest { client, boot, id, tokens: most.prompt, life });
            }
            Err(_) => self.clients[client].client.refused(id),
        }
    }

    fn finish(
        &mut self,
        open: usize,
        worker: usize,
        share: u8,
        cancelled: bool,
        arrives: u8,
    ) -> Result<(), String> {
        let now = u64::from(self.chain.now);
        let Some(at) = index(self.open.len(), open) else { return Ok(()) };
        let OpenRequest { client, boot, id, tokens, life } = self.open[at];
        let worker = &mut self.workers[worker % 2];
        worker.worker.attested(POOL, self.boots[boot].proxy.key());
        let Ok(epoch) = worker.worker.offer(POOL, terms().commission.fee(u64::from(tokens)), now) else {
            return Ok(());
        };
        let delivered = (u64::from(tokens) * u64::from(share) / 255) as u32;
        let tokens = Tokens { prompt: delivered, ..Tokens::default() };
        let end = if cancelled { End::Cancelled } else { End::Complete };
        let proxy = &mut self.boots[boot].proxy;
        let Ok(written) = proxy.finish(id, worker.me, &tokens, end, &facts(id), now) else { return Ok(()) };
        let records = written.records.clone();
        let settled = written.once_written();
        self.open.swap_remove(at);
        self.settled += 1;
        worker.worker.delivered(POOL, epoch, settled.fee, now);
        if arrives & 1 == 1 {
            worker
                .worker
                .on_payout(settled.payout)
                .map_err(|e| format!("an honest payout was refused: {e}"))?;
            worker.vouched.insert(settled.payout.voucher.epoch, settled.payout.voucher.total);
        }
        self.clients[client].charged += settled.charged;
        self.write(boot, &records);
        self.uses.push(settled.used);
        self.payouts.push(settled.payout);
        self.totals_grow(boot, &settled.used.voucher, &settled.payout.voucher)?;
        let listens = self.clients[client].life == life && self.clients[client].session == Some(boot);
        if listens { self.told(client, id, &settled, arrives & 2 == 2) } else { Ok(()) }
    }

    /// The client gets use and receipt, or its connection broke.
    fn told(
        &mut self,
        client: usize,
        id: u64,
        settled: &payment::proxy::Settled,
        arrives: bool,
    ) -> Result<(), String> {
        let actor = &mut self.clients[client];
        if !arrives {
            actor.client.abandon(id);
            return Ok(());
        }
        let settled = actor.client.settle(id, &settled.used, &settled.receipt);
        if self.lie == Lie::StolenKey {
            return Ok(()); // somebody else charges with the same key, and the client may rightly leave
        }
        settled.map(|_| ()).map_err(|e| format!("an honest receipt was refused: {e}"))
    }

    /// I2 for what a boot signs.
    fn totals_grow(&mut self, boot: usize, used: &Use, payout: &Payout) -> Result<(), String> {
        let boot = &mut self.boots[boot];
        let had = boot.used.insert(used.vault, used.total).unwrap_or(0);
        ensure(used.total >= had, || format!("I2: a use of {} after one of {had}", used.total))?;
        let had = boot.earned.insert(payout.worker, payout.total).unwrap_or(0);
        ensure(payout.total >= had, || format!("I2: a payout of {} after one of {had}", payout.total))
    }

    fn release(&mut self, open: usize) {
        if let Some(at) = index(self.open.len(), open) {
            let OpenRequest { client, boot, id, .. } = self.open.swap_remove(at);
            let written = self.boots[boot].proxy.release(id).expect("it is open");
            self.write(boot, &written.records);
            self.clients[client].client.refused(id);
        }
    }

    fn restart_client(&mut self, client: usize) {
        let actor = &mut self.clients[client % 2];
        let ledger = actor.client.ledger();
        let key = SecretKey::from_seed(&actor.seed);
        actor.client = Client::new(GLOBAL_ID, actor.vault, key, limits(), ledger);
        actor.session = None;
        let view = self.chain.vault_view(&self.clients[client % 2].vault);
        self.clients[client % 2].client.on_vault(view);
    }

    fn claim_vault(&mut self, cap: usize, used: usize) {
        let pair = pick(&self.caps, cap).copied().zip(pick(&self.uses, used).copied());
        let mine = self.lie == Lie::StolenKey;
        self.send(pair.map(|(cap, used)| {
            let vault = cap.voucher.vault;
            Message::VaultClaim { vault, cap, used: if mine { self.stolen_use(vault, &cap) } else { used } }
        }));
    }

    /// I8: whoever has the session's key signs as much as the cap allows, and more.
    fn stolen_use(&self, vault: Address, cap: &Signed<Cap>) -> Signed<Use> {
        let boots = self.boots.iter().map(|b| SecretKey::from_seed(&b.seed));
        let key = boots.into_iter().find(|k| k.public().to_bytes() == cap.voucher.session_key);
        let total = if self.next % 2 == 0 { cap.voucher.cap } else { DEPOSIT };
        key.unwrap_or(SecretKey::from_seed(&[1; 32])).sign(Use { global_id: GLOBAL_ID, vault, total })
    }

    fn owner(&mut self, what: u8, amount: u64) {
        let from = OWNER;
        self.send(Some(match what % 5 {
            0 => Message::Allot { amount, from },
            1 => Message::Retire { from },
            2 => Message::Withdraw { amount, from },
            3 => Message::Withdraw { amount: self.chain.reserve() + amount, from },
            _ => Message::Close { from },
        }));
    }
}

pub fn ensure(holds: bool, what: impl Fn() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn index(length: usize, at: usize) -> Option<usize> {
    (length > 0).then(|| at % length)
}

fn pick<T>(all: &[T], at: usize) -> Option<&T> {
    all.get(index(all.len(), at)?)
}

fn payout(epoch: u32, worker: Address, total: u64) -> Payout {
    Payout { global_id: GLOBAL_ID, pool: POOL, epoch, worker, total }
}

fn terms() -> Terms {
    Terms {
        global_id: GLOBAL_ID,
        pool: POOL,
        commission: Commission::new(700),
        max_view_age: 3_600,
        claim_margin: 900,
        registration_window: 600,
        max_workers: 1_024,
    }
}

fn limits() -> Limits {
    Limits { per_request: 500, per_day: 3_000, cap_lifetime: 3 * 86_400 }
}

fn client(n: usize) -> ClientActor {
    let (seed, vault, wallet) = ([0x20 + n as u8; 32], address(0x10, n), address(0x30, n));
    let client = Client::new(GLOBAL_ID, vault, SecretKey::from_seed(&seed), limits(), Ledger::default());
    ClientActor { client, seed, vault, wallet, session: None, life: 0, allowed: 0, charged: 0 }
}

fn worker(n: usize) -> WorkerActor {
    let me = address(0x70, n);
    let rules = Rules {
        global_id: GLOBAL_ID,
        me,
        credit: 400,
        float: 1_500,
        cash_after: 20_000,
        max_view_age: 3_600,
        least_grace: GRACE,
    };
    WorkerActor { worker: Worker::new(rules), me, vouched: BTreeMap::new() }
}

fn facts(request: u64) -> Facts {
    let hash = [7; 32];
    Facts {
        request,
        time: 0,
        request_hash: hash,
        response_hash: hash,
        model_root: hash,
        release: hash,
        evidence: hash,
    }
}
