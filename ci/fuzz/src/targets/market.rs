//! What clients, proxies and workers say to each other in header fields, trailers, streams and JSON bodies.

use crate::{MEMORY, Target};
use protocol::market::{
    Account, Blob, Body, ClaimEntry, Claims, Consent, CountReader, Device, DeviceKind, DevicePin, Earning,
    Earnings, Hex32, Load, ModelFacts, ModelKind, ModelTerms, Most, Needed, PaymentError, PayoutEntry,
    Payouts, Phase, Price, Quote, Read, ReceiptEntry, SelfTest, Terms, Usage, VaultTerms, WorkPrice,
    WorkerFacts, Written, number, read,
};
use serde::Serialize;
use std::fmt::{Debug, Display};
use std::str::FromStr;

/// Values of header fields and trailers.
pub const FIELD: Target = Target { name: "market_field", run: run_field, seeds: seeds_field, memory: MEMORY };
/// JSON bodies, those of all paths.
pub const BODY: Target = Target { name: "market_body", run: run_body, seeds: seeds_body, memory: MEMORY };
/// The counts in a stream of events.
pub const STREAM: Target =
    Target { name: "market_stream", run: run_stream, seeds: seeds_stream, memory: MEMORY };

const ACCOUNT: Account = Account { workchain: -1, hash: [0x5a; 32] };
const PRICE: Price =
    Price { base: 1_000_000, prompt: 10_000, cached: 0, completion: 40_000, reasoning: 40_000 };

fn run_field(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    one_text::<Account>(text)
        | one_text::<Hex32>(text)
        | one_text::<Blob>(text)
        | one_text::<Most>(text)
        | one_text::<WorkPrice>(text)
        | one_text::<Read>(text)
        | one_text::<Written>(text)
        | one_text::<Usage>(text)
        | one_text::<Load>(text)
        | one_text::<DeviceKind>(text)
        | one_text::<DevicePin>(text)
        | number::<u64>("number", text).inspect(|number| assert_eq!(number.to_string(), text)).is_ok()
}

/// What is read is written back as it came: nothing can be read in two ways.
fn one_text<T: FromStr + Display>(text: &str) -> bool {
    let value = text.parse::<T>();
    if let Ok(value) = &value {
        assert_eq!(value.to_string(), text, "a value has two texts");
    }
    value.is_ok()
}

fn seeds_field() -> Vec<Vec<u8>> {
    let texts = [
        ACCOUNT.to_string(),
        Hex32([0xab; 32]).to_string(),
        Blob::new((0..200).collect()).to_string(),
        Most { prompt: 100, completion: u32::MAX }.to_string(),
        WorkPrice { price: PRICE, commission: 500 }.to_string(),
        Read { prompt: 7, cached: 3 }.to_string(),
        Usage { prompt: 7, cached: 3, completion: 40, reasoning: 2 }.to_string(),
        DevicePin { kind: DeviceKind::Gpu, memory_bytes: 80_000_000_000 }.to_string(),
        u64::MAX.to_string(),
    ];
    texts.map(String::into_bytes).into()
}

fn run_body(bytes: &[u8]) -> bool {
    one_body::<Terms>(bytes)
        | one_body::<VaultTerms>(bytes)
        | one_body::<Quote>(bytes)
        | one_body::<Consent>(bytes)
        | one_body::<Claims>(bytes)
        | one_body::<Payouts>(bytes)
        | one_body::<ReceiptEntry>(bytes)
        | one_body::<PaymentError>(bytes)
        | one_body::<WorkerFacts>(bytes)
        | one_body::<Earnings>(bytes)
}

/// What is read can be written and read again, and is within its bounds.
fn one_body<T: Body + Serialize + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(body) = read::<T>(bytes) else { return false };
    assert!(body.check().is_ok(), "{}: beyond its bounds", T::WHAT);
    let again = serde_json::to_vec(&body).ok().map(|bytes| read::<T>(&bytes));
    // Written without the sender's spaces it may be longer only where escapes were spared.
    if let Some(Ok(again)) = again {
        assert_eq!(again, body, "{}: read differently the second time", T::WHAT);
    }
    true
}

fn seeds_body() -> Vec<Vec<u8>> {
    let blob = || Blob::new(vec![9; 150]);
    let model = ModelTerms {
        name: "m".into(),
        root: Hex32([2; 32]),
        price: Some(PRICE),
        kind: Some(ModelKind::Chat),
        context: 4096,
        max_completion: 512,
        workers: 3,
        free: 2,
        predicted_ms_per_token: Some(20),
        predicted_first_ms: Some(90),
    };
    let terms = Terms {
        global_id: -239,
        pool: ACCOUNT,
        root: ACCOUNT,
        session_key: Hex32([3; 32]),
        phase: Phase::Active,
        epoch: 4,
        commission: 500,
        models: vec![model],
    };
    let claim = ClaimEntry { vault: ACCOUNT, cap: blob(), used: blob(), due: 5, by: 6 };
    let earning = Earning { pool: ACCOUNT, epoch: 1, total: 2, due: 3, payout: blob() };
    let error = protocol::openai::ErrorObject {
        message: "m".into(),
        kind: "invalid_request_error".into(),
        param: None,
        code: Some("payment_required".into()),
    };
    let needed = Some(Needed { cap: Some(1), deposit: None, valid_until: Some(2) });
    vec![
        json(&terms),
        json(&VaultTerms { used: 1, lost: 2, held: 3, floor: 6, last_use: Some(blob()) }),
        json(&Quote {
            price: PRICE,
            charge_per_request: 1,
            total: 2,
            capacity_tokens_per_s: Some(3),
            predicted_ms: None,
        }),
        json(&Consent { phase: Phase::Waiting, epoch: 0, session: Some(blob()) }),
        json(&Claims { claims: vec![claim] }),
        json(&Payouts { payouts: vec![PayoutEntry { epoch: 1, total: 2, payout: blob() }] }),
        json(&ReceiptEntry { used: blob(), receipt: blob() }),
        json(&PaymentError { error, needed }),
        json(&facts()),
        json(&Earnings { wallet: Some(ACCOUNT), payouts: vec![earning] }),
    ]
}

fn facts() -> WorkerFacts {
    let model = ModelFacts {
        name: "m".into(),
        root: Hex32([2; 32]),
        kind: ModelKind::Embedding,
        context: 512,
        max_completion: 0,
        self_test: Some(SelfTest { digest: Hex32([3; 32]), passed: true }),
    };
    WorkerFacts {
        models: vec![model],
        device: Device { kind: "gpu".into(), name: "a device".into(), memory_bytes: 1 << 36 },
        hours: [22, 6],
        wallet: Some(ACCOUNT),
        credit: 1,
        running: 1,
        waiting: 0,
        slots: 2,
    }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

/// The first byte says where the rest is cut; however it is, the same is read.
fn run_stream(bytes: &[u8]) -> bool {
    let Some((cut, bytes)) = bytes.split_first() else { return false };
    let (head, tail) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let (mut whole, mut parts) = (CountReader::default(), CountReader::default());
    whole.pass(bytes);
    parts.pass(head);
    parts.pass(tail);
    assert_eq!(whole, parts, "a cut changes what is read");
    whole.last().is_some() && !whole.is_wrong()
}

fn seeds_stream() -> Vec<Vec<u8>> {
    let comment = |completion, reasoning| Written { completion, reasoning }.comment();
    let first = format!("data: {{\"a\":1}}\n\n{}data: x\r\n\r\n{}", comment(1, 0), comment(3, 2));
    let long = format!("data: {}\n\n{}", "y".repeat(300), comment(u32::MAX, u32::MAX));
    [first, long].map(|text| [&[40], text.as_bytes()].concat()).into()
}
