//! What a pool's owner does for its proxy: registers its session, submits claims, keeps the pot filled.
//!
//! The wallet's key stays here, on a machine of the owner's; the proxy only hands out what it signed. What is registered is
//! checked: the consent must be by the key that this attested channel binds, for this pool and its next epoch.

use super::amount;
use super::chain::{GAS, Purse, progress};
use super::peer::Peer;
use anyhow::{Context, Result, ensure};
use payment::{Cap, PublicKey, Session, Signed, Use};
use protocol::market::{Claims, Consent, Phase, Terms, path};
use ton::contract::{account_of, address_of, pool, vault};
use ton::{Address, ProvenAccount};

/// A claim is sent whatever it is worth when its cap ends within this many seconds.
const HURRY: u64 = 6 * 3600;

/// When to act.
pub struct Tending {
    /// nanoTON that the pot is kept at.
    pub keep: u64,
    /// nanoTON above which a claim is worth sending.
    pub collect_above: u64,
}

/// One look: everything that is due now.
pub async fn look(purse: &Purse, pool: &Address, peer: &mut Peer, rules: &Tending) -> Result<()> {
    register(purse, pool, peer, rules.keep).await?;
    collect(purse, pool, peer, rules.collect_above).await?;
    fill(purse, pool, rules.keep).await
}

/// Registers the proxy's session if it waits for it.
pub async fn register(
    purse: &Purse,
    pool: &Address,
    peer: &mut Peer,
    allot: u64,
) -> Result<Option<ProvenAccount>> {
    let consent: Consent = peer.get(path::SESSION).await?;
    match consent.phase {
        Phase::Active => return Ok(None),
        Phase::Over => {
            progress(&format!("session {} is over: the proxy has to start again", consent.epoch));
            return Ok(None);
        }
        Phase::Waiting => {}
    }
    let Some(blob) = consent.session else {
        progress("the proxy has not seen its pool on the chain yet");
        return Ok(None);
    };
    let terms: Terms = peer.get(path::TERMS).await?;
    let session = Signed::<Session>::from_bytes(blob.bytes()).context("the proxy's consent")?;
    let (key, epoch) = (session.voucher.key, session.voucher.epoch);
    ensure!(
        key == terms.session_key.0,
        "the consent names another key than the proxy's terms: don't register it"
    );
    session.verify(&PublicKey::from_bytes(&key)?).context("the proxy's consent")?;
    ensure!(
        session.voucher.pool == account_of(pool),
        "the proxy serves pool {}, not {pool}",
        session.voucher.pool
    );
    let state = pool::read(&purse.chain.account(pool).await?)?;
    ensure!(
        epoch == state.epoch + 1,
        "the proxy consents to epoch {epoch}, the pool's next is {}",
        state.epoch + 1
    );
    let reserve = u64::try_from(state.reserve.max(0)).unwrap_or(u64::MAX);
    let allot = allot.min(reserve);
    progress(&format!("registering session {epoch} with {} in its pot ...", amount::show(allot.into())));
    let registered = move |account: &ProvenAccount| {
        pool::read(account).is_ok_and(|state| state.epoch >= epoch).then(|| account.clone())
    };
    purse.effect(pool, GAS, None, pool::register(&session, allot)?, registered).await.map(Some)
}

/// Submits what vaults owe more than `above`, or owe for a cap that ends soon.
pub async fn collect(purse: &Purse, pool: &Address, peer: &mut Peer, above: u64) -> Result<()> {
    let claims: Claims = peer.get(path::CLAIMS).await?;
    let now = u64::from(purse.chain.now().await?);
    for claim in claims.claims {
        let soon = u64::from(claim.by) < now + HURRY;
        if claim.due == 0 || (claim.due < above && !soon) {
            continue;
        }
        let cap = Signed::<Cap>::from_bytes(claim.cap.bytes()).context("a claim's cap")?;
        let used = Signed::<Use>::from_bytes(claim.used.bytes()).context("a claim's use")?;
        let vault = address_of(&used.voucher.vault);
        let had = vault::read(&purse.chain.account(&vault).await?)?;
        ensure!(had.terms.pool == *pool, "vault {vault} pays another pool; it is not claimed from");
        if had.claimed >= used.voucher.total || had.free == 0 {
            continue;
        }
        progress(&format!("claiming {} from vault {vault} ...", amount::show(claim.due.into())));
        let claimed = move |account: &ProvenAccount| {
            vault::read(account).is_ok_and(|state| state.claimed > had.claimed).then_some(())
        };
        purse.effect(&vault, GAS, None, vault::claim(&cap, &used)?, claimed).await?;
    }
    Ok(())
}

/// Puts coins of the reserve into the current pot when less than half of `keep` is left.
async fn fill(purse: &Purse, pool: &Address, keep: u64) -> Result<()> {
    let state = pool::read(&purse.chain.account(pool).await?)?;
    let Some(pot) = state.pots.get(&state.epoch).filter(|pot| pot.closes_at == 0) else { return Ok(()) };
    let left = pot.funded.saturating_sub(pot.spent);
    let reserve = u64::try_from(state.reserve.max(0)).unwrap_or(u64::MAX);
    let more = keep.saturating_sub(left).min(reserve);
    if left >= keep / 2 || more == 0 {
        return Ok(());
    }
    progress(&format!("putting {} more into the pot ...", amount::show(more.into())));
    let (epoch, funded) = (state.epoch, pot.funded);
    let filled = move |account: &ProvenAccount| {
        let state = pool::read(account).ok()?;
        (state.epoch > epoch || state.pots.get(&epoch)?.funded > funded).then_some(())
    };
    purse.effect(pool, GAS, None, pool::allot(more)?, filled).await
}
