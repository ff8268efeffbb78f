//! What must hold after every step, and when everybody leaves.

use crate::chain::{GRACE, Message, Transfer};
use crate::world::{ClientActor, DEPOSIT, Lie, OWNER, World, ensure};
use payment::proxy::Phase;

/// The invariants.
impl World {
    pub fn check(&self) -> Result<(), String> {
        let coins = self.chain.coins();
        ensure(coins == self.coins, || format!("I7: {coins} coins, {} at the start", self.coins))?;
        for actor in &self.clients {
            self.check_client(actor)?;
        }
        self.check_pots()?;
        if self.lie != Lie::StolenKey {
            self.check_backing()?;
        }
        self.check_reserve()
    }

    /// I1, and I5: claimed <= used <= min(cap, deposited), whatever the disk forgot. I2 for the vault, and I10.
    fn check_client(&self, actor: &ClientActor) -> Result<(), String> {
        let vault = &self.chain.vaults[&actor.vault];
        let (claimed, allowed) = (vault.claimed, actor.allowed);
        // What left the vault, by the coins themselves and not by the contract's own count.
        let back = self.chain.wallets.get(&actor.wallet).copied().unwrap_or(0);
        let bounced = self.chain.flying.iter().map(|t| match t {
            Transfer::Bounce { vault, amount } if *vault == actor.vault => *amount,
            _ => 0,
        });
        let lost = DEPOSIT - vault.balance - back - bounced.sum::<u64>();
        ensure(lost <= allowed, || format!("I1: the client lost {lost}, it allowed {allowed}"))?;
        let left = DEPOSIT - vault.balance;
        let had = &self.before.vaults[&actor.vault];
        ensure(vault.closed || !had.closed, || "I10: a closed vault is open".to_string())?;
        ensure(vault.closed || claimed == left, || format!("I2: {claimed} count as claimed, {left} left"))?;
        ensure(claimed <= DEPOSIT, || format!("I1: {claimed} claimed of {DEPOSIT} deposited"))?;
        if self.lie != Lie::StolenKey {
            ensure(lost <= actor.charged, || format!("I5: lost {lost}, charged {}", actor.charged))?;
        }
        let bounced = had.claimed - claimed.min(had.claimed);
        ensure(bounced == 0 || vault.balance >= had.balance + bounced, || "I2: claimed went down".to_string())
    }

    /// I2 for the pool: what was funded, spent and paid only grows while a pot is there.
    fn check_pots(&self) -> Result<(), String> {
        for (epoch, pot) in &self.chain.pool.pots {
            ensure(pot.spent <= pot.funded, || {
                format!("I4: pot {epoch} spent {} of {}", pot.spent, pot.funded)
            })?;
            let (paid, took) = (
                pot.paid.values().fold(0u64, |sum, paid| sum.saturating_add(*paid)),
                pot.spent.saturating_sub(pot.surplus),
            );
            ensure(paid == took, || format!("I2: {paid} count as paid from pot {epoch}, {took} were"))?;
            let Some(had) = self.before.pool.pots.get(epoch) else { continue };
            let grows = pot.funded >= had.funded && pot.spent >= had.spent && pot.surplus >= had.surplus;
            let paid = had.paid.iter().all(|(worker, paid)| pot.paid.get(worker).is_some_and(|p| p >= paid));
            ensure(grows && paid, || format!("I2: pot {epoch} went down"))?;
        }
        let epochs = (self.before.pool.epoch, self.chain.pool.epoch);
        ensure(epochs.0 <= epochs.1, || format!("I4: epoch {} after {}", epochs.1, epochs.0))
    }

    /// I3 and I4: each pot of an honest boot can pay all that the boot signed and holds, whoever registered since.
    fn check_backing(&self) -> Result<(), String> {
        for boot in &self.boots {
            let (Phase::Active { epoch } | Phase::Over { epoch }) = boot.proxy.phase() else { continue };
            let Some(pot) = self.chain.pool.pots.get(&epoch) else { continue };
            let promised = boot.proxy.liabilities();
            ensure(promised <= pot.funded, || {
                format!("I3: {promised} promised of {} in pot {epoch}", pot.funded)
            })?;
            let unpaid = boot.earned.iter().map(|(w, t)| t.saturating_sub(*pot.paid.get(w).unwrap_or(&0)));
            let (unpaid, left) = (unpaid.sum::<u64>(), pot.funded.saturating_sub(pot.spent));
            ensure(unpaid <= left, || format!("I3: {unpaid} unpaid, {left} left in pot {epoch}"))?;
        }
        Ok(())
    }

    /// I8: pots and reserve are there in coins, so no session's key reaches more than its pot.
    fn check_reserve(&self) -> Result<(), String> {
        let pool = &self.chain.pool;
        let pots: u64 = pool.pots.values().map(|p| p.funded.saturating_sub(p.spent)).sum();
        ensure(pots <= pool.balance, || format!("I8: pots hold {pots}, the pool {}", pool.balance))
    }

    /// I6: every proxy is gone for good; workers, clients and the owner get their own.
    pub fn leave(&mut self) -> Result<(), String> {
        self.boots.iter_mut().for_each(|b| b.alive = false);
        self.send(Some(Message::Retire { from: OWNER }));
        self.tick(GRACE);
        for n in 0..2 {
            let ClientActor { vault, wallet, .. } = self.clients[n];
            self.send(Some(Message::StartClose { vault, from: wallet }));
        }
        self.tick(86_400);
        for n in 0..2 {
            let ClientActor { vault, wallet, .. } = self.clients[n];
            self.send(Some(Message::FinishClose { vault, from: wallet }));
        }
        while !self.chain.flying.is_empty() {
            self.chain.arrive(0);
        }
        self.send(Some(Message::Close { from: OWNER }));
        let stuck = self.chain.coins() - self.chain.wallets.values().sum::<u64>();
        ensure(stuck == 0, || format!("I6: {stuck} coins are stuck"))?;
        ensure(self.chain.coins() == self.coins, || "I7: coins were lost on leaving".to_string())?;
        for actor in self.workers.iter().filter(|_| self.lie != Lie::StolenKey) {
            let due: u64 = actor.vouched.values().sum();
            let got = self.chain.wallets.get(&actor.me).copied().unwrap_or(0);
            ensure(got >= due, || format!("I6: a worker was vouched {due} and got {got}"))?;
        }
        Ok(())
    }
}
