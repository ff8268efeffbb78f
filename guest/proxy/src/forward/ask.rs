//! What a client asks for: the fields that routing and money need, and nothing else of the body.

use super::refusal::Refusal;
use crate::books::Reservation;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use payment::price::Price;
use payment::{Address, Signed, Voucher};
use protocol::market::{Account, Blob, DevicePin, Most, header, number};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::str::FromStr;

/// One request, read whole.
#[derive(Debug)]
pub struct Asked {
    /// Of the request, as it is for the worker.
    pub path: String,
    /// Unchanged.
    pub body: Bytes,
    /// Its SHA-256.
    pub hash: [u8; 32],
    /// Name without a root.
    pub model: String,
    /// Exactly these weights, where the name had a root.
    pub root: Option<[u8; 32]>,
    /// Most tokens; without payment nobody has to say them.
    pub most: Option<Most>,
    /// nanoTON for a million tokens.
    pub max_price: Option<u64>,
    /// Milliseconds.
    pub deadline_ms: Option<u64>,
    /// On what alone it may be computed.
    pub device: Option<DevicePin>,
    /// Who pays, where the client says it.
    pub payer: Option<Payer>,
}

/// Who pays, and that it is so.
#[derive(Debug, Clone)]
pub struct Payer {
    /// The vault.
    pub vault: Address,
    request: u64,
    cap: Option<Blob>,
    order: Blob,
}

/// The one field that routing needs of a body.
#[derive(Deserialize)]
struct Named {
    model: String,
}

impl Asked {
    /// Reads what came.
    pub fn read(path: String, headers: &HeaderMap, body: Bytes) -> Result<Self, Refusal> {
        let named: Named = serde_json::from_slice(&body).map_err(|_| {
            // The parser's words could quote the request, and nobody needs them to mend it.
            let message = "the body can't be read: expected a JSON object with the string `model`";
            Refusal::request(StatusCode::BAD_REQUEST, "invalid_json", message)
        })?;
        let (model, root) =
            named.model.split_once('@').map_or((named.model.as_str(), None), |(n, r)| (n, Some(r)));
        let root = root.map(|root| root.parse().map(|protocol::market::Hex32(root)| root)).transpose();
        let root = root.map_err(|_| {
            let message = "model: expected `name`, or `name@` and 64 lower-case hexadecimal digits";
            Refusal::request(StatusCode::BAD_REQUEST, "invalid_model", message)
        })?;
        let vault: Option<Account> = field(headers, header::VAULT)?;
        let payer = vault.map(|vault| Payer::read(vault, headers)).transpose()?;
        Ok(Self {
            model: model.to_owned(),
            root,
            most: field(headers, header::MOST)?,
            max_price: amount(headers, header::MAX_PRICE)?,
            deadline_ms: amount(headers, header::DEADLINE_MS)?,
            device: field(headers, header::DEVICE)?,
            payer,
            hash: Sha256::digest(&body).into(),
            path,
            body,
        })
    }

    /// What is to be held for it at a price.
    pub fn reservation(&self, price: Price) -> Result<Reservation, Refusal> {
        let missing =
            |name| Refusal::payment(format!("{name} is missing; this proxy serves for payment only"), None);
        let payer = self.payer.as_ref().ok_or_else(|| missing(header::VAULT))?;
        let most = self.most.ok_or_else(|| missing(header::MOST))?;
        Ok(Reservation {
            vault: payer.vault,
            request: payer.request,
            cap: payer.cap.as_ref().map(signed).transpose()?,
            order: signed(&payer.order)?,
            request_hash: self.hash,
            price,
            most,
        })
    }
}

impl Payer {
    /// The client's number of the request.
    pub fn request(&self) -> u64 {
        self.request
    }

    fn read(vault: Account, headers: &HeaderMap) -> Result<Self, Refusal> {
        let missing = |name| Refusal::payment(format!("{name} is missing beside {}", header::VAULT), None);
        Ok(Self {
            vault: Address { workchain: vault.workchain, hash: vault.hash },
            request: amount(headers, header::REQUEST)?.ok_or_else(|| missing(header::REQUEST))?,
            cap: field(headers, header::CAP)?,
            order: field(headers, header::ORDER)?.ok_or_else(|| missing(header::ORDER))?,
        })
    }
}

fn signed<V: Voucher>(blob: &Blob) -> Result<Signed<V>, Refusal> {
    Signed::from_bytes(blob.bytes())
        .map_err(|error| Refusal::request(StatusCode::BAD_REQUEST, "invalid_header", error.to_string()))
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| headers.get_all(name).iter().count() == 1);
    text.map(Some).ok_or_else(|| {
        let message = format!("{name}: expected once, in plain ASCII");
        Refusal::request(StatusCode::BAD_REQUEST, "invalid_header", message)
    })
}

fn field<T: FromStr<Err = protocol::market::MarketError>>(
    headers: &HeaderMap,
    name: &'static str,
) -> Result<Option<T>, Refusal> {
    text(headers, name)?.map(|text| text.parse().map_err(|error| Refusal::field(&error))).transpose()
}

fn amount(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>, Refusal> {
    text(headers, name)?.map(|text| number(name, text).map_err(|error| Refusal::field(&error))).transpose()
}
