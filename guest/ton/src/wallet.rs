//! Wallet v5 (revision 1): an account that does what the holder of one Ed25519 key signs.
//!
//! `res/wallet_v5r1.boc` is the code as deployed on main net (ton-blockchain/wallet-contract-v5, hash 20834b7b..b72f); forms
//! follow that repository's types.tlb. The wallet's number binds a signature to the network: `global_id XOR 0x8000_0000` for
//! wallet 0 in workchain 0, which is 0x7fffff11 on main net. Built on the cells that are here anyway; see the decision on the
//! ledger trait about tonlib-core.

use crate::message::{self, external};
use crate::{Address, Cell, GetError, ProvenAccount};
use ed25519_dalek::{Signer as _, SigningKey};
use tycho_types::boc::Boc;
use tycho_types::cell::CellBuilder;
use tycho_types::error::Error;
use tycho_types::models::{OutAction, StateInit};

/// Opcode of a signed request from outside.
const SIGNED_EXTERNAL: u32 = 0x7369_676e;
/// How many messages one signature can send.
pub const MESSAGES_LIMIT: usize = 255;

/// A wallet's key and where it lives. Has no `Debug`: it holds a key.
pub struct Wallet {
    key: SigningKey,
    number: i32,
    init: StateInit,
    address: Address,
}

/// A wallet's message could not be built.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// Too many messages, or none.
    #[error("{0} messages in one transfer; expected 1 to {MESSAGES_LIMIT}: split the transfer")]
    Messages(usize),
    /// The cells can't be built.
    #[error("the transfer does not fit into cells: {0}")]
    Cells(#[from] Error),
    /// The committed code is no bag of cells.
    #[error("the wallet's code: {0}; expected the committed bag of cells")]
    Code(#[from] tycho_types::boc::de::Error),
}

impl Wallet {
    /// The wallet of an Ed25519 seed on the network with this `global_id` (configuration parameter 19).
    ///
    /// # Errors
    /// If its cells can't be built, which no seed is known to cause.
    pub fn from_seed(seed: &[u8; 32], global_id: i32) -> Result<Self, WalletError> {
        let key = SigningKey::from_bytes(seed);
        let number = global_id ^ i32::MIN;
        let init = initial(&key.verifying_key().to_bytes(), number)?;
        let address = message::address_of(&init)?;
        Ok(Wallet { key, number, init, address })
    }

    /// Where the wallet lives, in workchain 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The key that its code knows.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Code and data of a wallet that has not sent anything yet.
    pub fn state_init(&self) -> &StateInit {
        &self.init
    }

    /// The signed external message that makes the wallet send `messages` (each with its send mode; 3 is usual).
    ///
    /// `seqno` is the wallet's own, see [`sequence`]; the message is void after `valid_until` (seconds since 1970). A wallet
    /// that was never used (`seqno` 0) is deployed by the same message.
    ///
    /// # Errors
    /// See [`WalletError`].
    pub fn transfer(
        &self,
        seqno: u32,
        valid_until: u32,
        messages: &[(Cell, u8)],
    ) -> Result<Cell, WalletError> {
        if messages.is_empty() || messages.len() > MESSAGES_LIMIT {
            return Err(WalletError::Messages(messages.len()));
        }
        let mut body = CellBuilder::new();
        body.store_u32(SIGNED_EXTERNAL)?;
        body.store_u32(self.number.cast_unsigned())?;
        body.store_u32(valid_until)?;
        body.store_u32(seqno)?;
        body.store_bit(true)?;
        body.store_reference(actions(messages)?)?;
        // No extended actions.
        body.store_bit(false)?;
        let signature = self.key.sign(body.clone().build()?.repr_hash().as_slice());
        body.store_raw(&signature.to_bytes(), 512)?;
        let init = (seqno == 0).then(|| self.init.clone());
        Ok(external(&self.address, init, body.build()?)?)
    }
}

/// The wallet's sequence number in a proven state; 0 where it is not deployed yet.
///
/// # Errors
/// If the account runs something else than a wallet.
pub fn sequence(account: &ProvenAccount) -> Result<u32, GetError> {
    if account.code().is_none() {
        return Ok(0);
    }
    let mut values = account.get("seqno", &[])?;
    let seqno = values.next_u64()?;
    values.end()?;
    u32::try_from(seqno).map_err(|_| GetError::Range { what: "seqno", found: seqno.to_string() })
}

/// Code and data of a wallet that has not sent anything yet.
fn initial(public_key: &[u8; 32], number: i32) -> Result<StateInit, WalletError> {
    let mut data = CellBuilder::new();
    // Signatures are allowed.
    data.store_bit(true)?;
    data.store_u32(0)?;
    data.store_u32(number.cast_unsigned())?;
    data.store_raw(public_key, 256)?;
    // No extensions.
    data.store_bit(false)?;
    Ok(message::state_init(Boc::decode(include_bytes!("../res/wallet_v5r1.boc"))?, data.build()?))
}

/// The list of actions in TVM's own form (`out_list`, block.tlb): the last one is its root.
fn actions(messages: &[(Cell, u8)]) -> Result<Cell, Error> {
    messages.iter().try_fold(Cell::default(), |before, (message, mode)| {
        let mut action = CellBuilder::new();
        action.store_reference(before)?;
        action.store_u32(OutAction::TAG_SEND_MSG)?;
        action.store_u8(*mode)?;
        action.store_reference(message.clone())?;
        action.build()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of a wallet on main net and where it lives, and a transfer of another; both from TON's public explorer by way
    /// of tonlib-core's tests (0.26.11, wallet/versioned/v5.rs, MIT).
    const KEY: &str = "cbf377c9b73604c70bf73488ddceba14f763baef2ac70f68d1d6032a120149f4";
    const MAIN_NET: i32 = -239;

    #[test]
    fn a_wallet_of_main_net_has_its_address() {
        let mut key = [0; 32];
        for (place, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&KEY[place * 2..place * 2 + 2], 16).unwrap();
        }
        let init = initial(&key, MAIN_NET ^ i32::MIN).unwrap();
        let expected = crate::parse_address("UQDwj2jGHWEbPpDf0I2qktDwqtv6tBCfBVNH9gJEnM-QmHDa").unwrap();
        assert_eq!(message::address_of(&init).unwrap(), expected);
    }

    #[test]
    fn the_code_is_that_of_main_net() {
        let init = initial(&[0; 32], 0).unwrap();
        let hash = "20834b7b72b112147e1b2fb457b84e74d1a30f04f737d4f62a668e9552d2b72f";
        assert_eq!(init.code.unwrap().repr_hash().to_string(), hash);
    }

    #[test]
    fn a_transfer_has_the_form_that_main_net_took() {
        let wallet = Wallet::from_seed(&[7; 32], MAIN_NET).unwrap();
        let taken = Boc::decode_hex(concat!(
            "b5ee9c720101040100940001a17369676e7fffff11ffffffff00000000bc04889cb28b36a3a00810e363a413763ec34860bf0fce552c",
            "5d36e37289fafd442f1983d740f92378919d969dd530aec92d258a0779fb371d4659f10ca1b3826001020a0ec3c86d03030200664200",
            "7847b4630eb08d9f486fe846d5496878556dfd5a084f82a9a3fb01224e67c84c187a1200000000000000000000000000000000"
        ))
        .unwrap();
        // Its only message: the first action's second reference.
        let sent = taken.reference(0).unwrap().reference_cloned(1).unwrap();
        let ours = wallet.transfer(0, u32::MAX, &[(sent, 3)]).unwrap();
        let message = ours.parse::<tycho_types::models::OwnedMessage>().unwrap();
        let ours =
            CellBuilder::build_from(tycho_types::cell::CellSlice::apply(&message.body).unwrap()).unwrap();
        // All but the signature is the same: 130 bits of request and the actions.
        let request = |cell: &Cell| cell.data()[..17].to_vec();
        assert_eq!(
            (request(&ours)[..16].to_vec(), request(&ours)[16] >> 6),
            (request(&taken)[..16].to_vec(), request(&taken)[16] >> 6)
        );
        assert_eq!(ours.reference(0).unwrap().repr_hash(), taken.reference(0).unwrap().repr_hash());
    }

    #[test]
    fn a_transfer_of_nothing_or_of_too_much_is_refused() {
        let wallet = Wallet::from_seed(&[7; 32], MAIN_NET).unwrap();
        let one = (Cell::default(), 3);
        assert!(matches!(wallet.transfer(0, 0, &[]), Err(WalletError::Messages(0))));
        assert!(matches!(wallet.transfer(0, 0, &vec![one.clone(); 256]), Err(WalletError::Messages(256))));
        assert!(wallet.transfer(0, 0, &vec![one; 255]).is_ok());
    }
}
