//! Header values: each type reads exactly what it writes.

use super::error::MarketError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A decimal number without sign, space or leading zero.
///
/// # Errors
/// [`MarketError::Value`] naming `what`.
pub fn number<N: FromStr>(what: &'static str, text: &str) -> Result<N, MarketError> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = if plain && text.len() <= 20 { text.parse().ok() } else { None };
    number.ok_or_else(|| MarketError::value(what, "a decimal number that fits", text))
}

/// Exactly `N` numbers with commas between them.
fn numbers<const N: usize>(
    what: &'static str,
    expected: &'static str,
    text: &str,
) -> Result<[u64; N], MarketError> {
    let wrong = || MarketError::value(what, expected, text);
    let mut out = [0; N];
    let mut parts = text.split(',');
    for place in &mut out {
        *place = number(what, parts.next().ok_or_else(wrong)?).map_err(|_| wrong())?;
    }
    if parts.next().is_some() { Err(wrong()) } else { Ok(out) }
}

/// Exactly `N` numbers of 32 bits.
fn counts<const N: usize>(
    what: &'static str,
    expected: &'static str,
    text: &str,
) -> Result<[u32; N], MarketError> {
    let wide = numbers::<N>(what, expected, text)?;
    let mut out = [0; N];
    for (place, value) in out.iter_mut().zip(wide) {
        *place = u32::try_from(value).map_err(|_| MarketError::value(what, expected, text))?;
    }
    Ok(out)
}

/// 32 bytes of lower-case hexadecimal.
fn hash(text: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let bytes: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut out = [0; 32];
    for (place, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *place = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

fn write_hash(f: &mut fmt::Formatter<'_>, hash: &[u8; 32]) -> fmt::Result {
    hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Writes and reads a value in JSON as the string that it is in a header.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Account, Blob, Hex32);

/// An account of the chain: workchain and hash, `0:` and 64 digits (the raw form of TON).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// 0 for the base chain.
    pub workchain: i8,
    /// Hash of the contract's first code and data.
    pub hash: [u8; 32],
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.workchain)?;
        write_hash(f, &self.hash)
    }
}

impl FromStr for Account {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let wrong =
            || MarketError::value("account", "workchain, colon and 64 lower-case hexadecimal digits", text);
        let (workchain, digits) = text.split_once(':').ok_or_else(wrong)?;
        let parsed: i8 = workchain.parse().map_err(|_| wrong())?;
        if parsed.to_string() != workchain {
            return Err(wrong());
        }
        Ok(Self { workchain: parsed, hash: hash(digits).ok_or_else(wrong)? })
    }
}

/// 32 bytes: a model's root, a public key, a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex32(pub [u8; 32]);

impl fmt::Display for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hash(f, &self.0)
    }
}

impl FromStr for Hex32 {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let wrong = || MarketError::value("hash", "64 lower-case hexadecimal digits", text);
        hash(text).map(Self).ok_or_else(wrong)
    }
}

/// Signed bytes in standard base64 with padding; at most [`Blob::LIMIT`] of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(Vec<u8>);

impl Blob {
    /// More than the longest signed voucher or receipt takes.
    pub const LIMIT: usize = 512;

    /// Of a signed voucher's bytes; what is longer than any of them is cut, and no voucher any more.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.truncate(Self::LIMIT);
        Self(bytes)
    }

    /// Voucher, then signature.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.0))
    }
}

impl FromStr for Blob {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let wrong = || MarketError::value("signed voucher", "base64 of at most 512 bytes", text);
        if text.len() > Self::LIMIT.div_ceil(3) * 4 {
            return Err(wrong());
        }
        let bytes = STANDARD.decode(text).map_err(|_| wrong())?;
        if bytes.len() > Self::LIMIT { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

/// The most tokens of a request: `PROMPT,COMPLETION`. Cached tokens count to the first, reasoning to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Most {
    /// Read, cached or not.
    pub prompt: u32,
    /// Written, for the client or for the model itself.
    pub completion: u32,
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.prompt, self.completion)
    }
}

impl FromStr for Most {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let [prompt, completion] = counts("most", "PROMPT,COMPLETION below 2^32", text)?;
        Ok(Self { prompt, completion })
    }
}

/// A model's price as the root contract states it; the fields are those of `payment::price::Price`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// nanoTON for a million tokens of multiplier 1.
    pub base: u64,
    /// Multiplier of prompt tokens, in parts of 10,000.
    pub prompt: u32,
    /// Of cached tokens.
    pub cached: u32,
    /// Of completion tokens.
    pub completion: u32,
    /// Of reasoning tokens.
    pub reasoning: u32,
}

/// What a job's tokens cost and what the proxy keeps: `BASE,PROMPT,CACHED,COMPLETION,REASONING,COMMISSION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkPrice {
    /// Of the root's book.
    pub price: Price,
    /// Parts of 10,000 of the charge.
    pub commission: u16,
}

impl fmt::Display for WorkPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Price { base, prompt, cached, completion, reasoning } = self.price;
        write!(f, "{base},{prompt},{cached},{completion},{reasoning},{}", self.commission)
    }
}

impl FromStr for WorkPrice {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        const EXPECTED: &str = "BASE,PROMPT,CACHED,COMPLETION,REASONING,COMMISSION";
        let [base, parts @ ..] = numbers::<6>("price", EXPECTED, text)?;
        let wrong = |_| MarketError::value("price", EXPECTED, text);
        let part = |i: usize| u32::try_from(parts[i]).map_err(wrong);
        let price =
            Price { base, prompt: part(0)?, cached: part(1)?, completion: part(2)?, reasoning: part(3)? };
        Ok(Self { price, commission: u16::try_from(parts[4]).map_err(wrong)? })
    }
}

/// What a worker read: `PROMPT,CACHED`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Not found in a cache.
    pub prompt: u32,
    /// Found in one.
    pub cached: u32,
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.prompt, self.cached)
    }
}

impl FromStr for Read {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let [prompt, cached] = counts("tokens", "PROMPT,CACHED below 2^32", text)?;
        Ok(Self { prompt, cached })
    }
}

/// What a worker wrote up to a place in a stream: `COMPLETION,REASONING`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// For the client.
    pub completion: u32,
    /// For the model itself.
    pub reasoning: u32,
}

impl Written {
    /// The SSE comment that says it, a line of its own: to follow the events that it counts.
    pub fn comment(&self) -> String {
        format!(":c {self}\n")
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.completion, self.reasoning)
    }
}

impl FromStr for Written {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let [completion, reasoning] = counts("written", "COMPLETION,REASONING below 2^32", text)?;
        Ok(Self { completion, reasoning })
    }
}

/// What a request took: `PROMPT,CACHED,COMPLETION,REASONING`, disjoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Read, not found in a cache.
    pub prompt: u32,
    /// Read out of a cache.
    pub cached: u32,
    /// Written for the client.
    pub completion: u32,
    /// Written for the model itself.
    pub reasoning: u32,
}

impl Usage {
    /// Of what was read, and written so far.
    pub fn of(read: Read, written: Written) -> Self {
        let (Read { prompt, cached }, Written { completion, reasoning }) = (read, written);
        Self { prompt, cached, completion, reasoning }
    }

    /// Whether it keeps within what was allowed.
    pub fn is_within(&self, most: &Most) -> bool {
        let sum = |a: u32, b: u32| u64::from(a) + u64::from(b);
        sum(self.prompt, self.cached) <= u64::from(most.prompt)
            && sum(self.completion, self.reasoning) <= u64::from(most.completion)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.prompt, self.cached, self.completion, self.reasoning)
    }
}

impl FromStr for Usage {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let [prompt, cached, completion, reasoning] =
            counts("usage", "PROMPT,CACHED,COMPLETION,REASONING below 2^32", text)?;
        Ok(Self { prompt, cached, completion, reasoning })
    }
}

/// How busy a worker is: `RUNNING,WAITING` requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Computed at the moment.
    pub running: u32,
    /// Not begun.
    pub waiting: u32,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.running, self.waiting)
    }
}

impl FromStr for Load {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let [running, waiting] = counts("load", "RUNNING,WAITING below 2^32", text)?;
        Ok(Self { running, waiting })
    }
}

/// What a worker computes on, as far as requests can be sent by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// The processor itself.
    Cpu,
    /// A graphics processor.
    Gpu,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        })
    }
}

impl FromStr for DeviceKind {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu),
            _ => Err(MarketError::value("device", "`cpu` or `gpu`", text)),
        }
    }
}

/// On what alone a request may be computed: `KIND`, or `KIND,BYTES` where the device must have so much memory for models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePin {
    /// Of this kind.
    pub kind: DeviceKind,
    /// With at least so many bytes; 0 for any.
    pub memory_bytes: u64,
}

impl fmt::Display for DevicePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.memory_bytes {
            0 => write!(f, "{}", self.kind),
            bytes => write!(f, "{},{bytes}", self.kind),
        }
    }
}

impl FromStr for DevicePin {
    type Err = MarketError;
    fn from_str(text: &str) -> Result<Self, MarketError> {
        let wrong = || MarketError::value("device", "`cpu` or `gpu`, and after a comma bytes above 0", text);
        let (kind, bytes) = text.split_once(',').map_or((text, None), |(kind, bytes)| (kind, Some(bytes)));
        let kind = kind.parse().map_err(|_| wrong())?;
        let bytes = bytes.map(|bytes| number("device", bytes)).transpose().map_err(|_| wrong())?;
        if bytes == Some(0) { Err(wrong()) } else { Ok(Self { kind, memory_bytes: bytes.unwrap_or(0) }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip<T: FromStr + fmt::Display + PartialEq + fmt::Debug>(value: T)
    where
        T::Err: fmt::Debug + PartialEq,
    {
        assert_eq!(value.to_string().parse(), Ok(value));
    }

    #[test]
    fn every_value_reads_what_it_writes() {
        let price = Price { base: u64::MAX, prompt: 1, cached: 2, completion: 3, reasoning: u32::MAX };
        round_trip(Account { workchain: -1, hash: [0xa5; 32] });
        round_trip(Hex32([0x0f; 32]));
        round_trip(Blob::new(vec![7; 300]));
        round_trip(Most { prompt: 0, completion: u32::MAX });
        round_trip(WorkPrice { price, commission: 500 });
        round_trip(Read { prompt: 3, cached: 4 });
        round_trip(Written { completion: 3, reasoning: 4 });
        round_trip(Usage { prompt: 1, cached: 2, completion: 3, reasoning: 4 });
        round_trip(Load { running: 1, waiting: 0 });
        round_trip(DevicePin { kind: DeviceKind::Cpu, memory_bytes: 0 });
        round_trip(DevicePin { kind: DeviceKind::Gpu, memory_bytes: u64::MAX });
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in ["+1,2", "01,2", "1, 2", "1,2,", ",1,2", "1", "1,2,3", "4294967296,0", "", "1,-2", "１,2"]
        {
            assert!(text.parse::<Most>().is_err(), "{text}");
        }
        let upper = format!("0:{}", "AB".repeat(32));
        for text in [upper.as_str(), "0:ab", "", ":", "128:", "+0:"] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
        let digits = "ab".repeat(32);
        for text in [format!("00:{digits}"), format!("+0:{digits}"), format!("-0:{digits}")] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
        for text in
            ["", "tpu", "GPU", "gpu,", "gpu,0", "gpu,01", "gpu,1,1", " gpu", "gpu,18446744073709551616"]
        {
            assert!(text.parse::<DevicePin>().is_err(), "{text}");
        }
        assert!("AA=".parse::<Blob>().is_err());
        assert!("A".repeat(1024).parse::<Blob>().is_err());
    }

    #[test]
    fn an_error_repeats_at_most_64_characters_and_no_control_ones() {
        let text = "\u{1b}[31m".to_string() + &"x".repeat(500);
        let MarketError::Value { found, .. } = text.parse::<Most>().unwrap_err() else { panic!("a value") };
        assert_eq!(found.chars().count(), 64);
        assert!(found.starts_with('?'));
    }

    #[test]
    fn usage_beyond_what_was_allowed_is_seen_even_where_the_sum_overflows() {
        let most = Most { prompt: 10, completion: 5 };
        assert!(Usage { prompt: 4, cached: 6, completion: 2, reasoning: 3 }.is_within(&most));
        assert!(!Usage { prompt: 5, cached: 6, ..Usage::default() }.is_within(&most));
        assert!(!Usage { completion: u32::MAX, reasoning: u32::MAX, ..Usage::default() }.is_within(&most));
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics_and_what_is_read_is_written_the_same(text in "[0-9,:a-fA=+/-]{0,90}|[cg]pu(,[0-9]{0,21})?|.{0,40}") {
            fn same<T: FromStr + fmt::Display>(text: &str) -> Result<(), TestCaseError> {
                if let Ok(value) = text.parse::<T>() {
                    prop_assert_eq!(value.to_string(), text);
                }
                Ok(())
            }
            same::<Account>(&text)?;
            same::<Hex32>(&text)?;
            same::<Blob>(&text)?;
            same::<Most>(&text)?;
            same::<WorkPrice>(&text)?;
            same::<Usage>(&text)?;
            same::<Load>(&text)?;
            same::<DevicePin>(&text)?;
        }

        #[test]
        fn any_counts_round_trip(a in any::<u32>(), b in any::<u32>(), c in any::<u32>(), d in any::<u32>()) {
            round_trip(Usage { prompt: a, cached: b, completion: c, reasoning: d });
        }
    }
}
