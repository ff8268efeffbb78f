//! Strict JSON and its canonical form (OLPC Canonical JSON, which TUF signs).
//!
//! ```text
//! bytes --parse--> Value (no duplicate key, no fraction, printable ASCII only) --canonical--> bytes --read--> a type
//! ```
//! Where text is printable ASCII, the canonical form is itself JSON and has one spelling in every implementation: escapes
//! and Unicode normalisation, about which they differ, can't occur. So types are read from the canonical bytes, and what is
//! acted on is what was signed.

use crate::error::ReleaseError;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Any JSON that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number that is not negative.
    Number(u64),
    /// Printable ASCII.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// An object, its keys in order.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// Reads at most `max` bytes. Depth is bounded by the parser (128).
    pub fn parse(what: &str, bytes: &[u8], max: usize) -> Result<Self, ReleaseError> {
        if bytes.len() > max {
            return Err(ReleaseError::TooLong { what: what.into(), max, found: bytes.len() });
        }
        serde_json::from_slice(bytes).map_err(|e| syntax(what, &e))
    }

    /// Reads bytes that must be their own canonical form, but for one final newline.
    pub fn parse_canonical(what: &str, bytes: &[u8], max: usize) -> Result<Self, ReleaseError> {
        let value = Value::parse(what, bytes, max)?;
        if value.canonical() != bytes.strip_suffix(b"\n").unwrap_or(bytes) {
            return Err(ReleaseError::NotCanonical { what: what.into() });
        }
        Ok(value)
    }

    /// Reads a type from bytes that must be the only ones that say the same: canonical, and what the type itself would
    /// write. Canonical JSON alone leaves a value its own spellings, such as the case of hexadecimal digits.
    pub fn read_canonical<T: DeserializeOwned + Serialize>(
        what: &str,
        bytes: &[u8],
        max: usize,
    ) -> Result<T, ReleaseError> {
        let value = Value::parse_canonical(what, bytes, max)?;
        let read: T = value.read(what)?;
        if Value::of(what, &read)? != value {
            return Err(ReleaseError::NotCanonical { what: what.into() });
        }
        Ok(read)
    }

    /// The value of anything that serializes; the way in for what we write ourselves.
    pub fn of(what: &str, written: &impl Serialize) -> Result<Self, ReleaseError> {
        let bytes = serde_json::to_vec(written).map_err(|e| syntax(what, &e))?;
        Value::parse(what, &bytes, usize::MAX)
    }

    /// The canonical bytes.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Reads a type; what it refuses is named.
    pub fn read<T: DeserializeOwned>(&self, what: &str) -> Result<T, ReleaseError> {
        serde_json::from_slice(&self.canonical()).map_err(|e| syntax(what, &e))
    }

    /// A field of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Map(map) => map.get(key),
            _ => None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.extend(b"null"),
            Value::Bool(true) => out.extend(b"true"),
            Value::Bool(false) => out.extend(b"false"),
            Value::Number(number) => out.extend(number.to_string().bytes()),
            Value::Text(text) => write_text(text, out),
            Value::List(list) => {
                out.push(b'[');
                for (index, value) in list.iter().enumerate() {
                    out.extend((index > 0).then_some(b','));
                    value.write(out);
                }
                out.push(b']');
            }
            Value::Map(map) => {
                out.push(b'{');
                for (index, (key, value)) in map.iter().enumerate() {
                    out.extend((index > 0).then_some(b','));
                    write_text(key, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        out.extend(matches!(byte, b'"' | b'\\').then_some(b'\\'));
        out.push(byte);
    }
    out.push(b'"');
}

fn syntax(what: &str, error: &serde_json::Error) -> ReleaseError {
    ReleaseError::Syntax { what: what.into(), why: error.to_string() }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Strict)
    }
}

struct Strict;

fn printable<E: Error>(text: &str) -> Result<String, E> {
    match text.chars().find(|c| !(' '..='~').contains(c)) {
        None => Ok(text.to_owned()),
        Some(c) => Err(E::custom(format!("text holds U+{:04X}, expected printable ASCII only", c as u32))),
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, list, text, truth value, null, or whole number that is not negative")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        printable(v).map(Value::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            let key = printable(&key)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("key `{key}` stands there twice")));
            }
            let value = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Value, ReleaseError> {
        Value::parse("test.json", text.as_bytes(), 1000)
    }

    #[test]
    fn keys_are_sorted_and_only_quote_and_backslash_are_escaped() {
        let value = parse(r#" {"b": [1, true, null], "a": "\u0041\"\\/"} "#).unwrap();
        assert_eq!(value.canonical(), br#"{"a":"A\"\\/","b":[1,true,null]}"#);
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for (text, why) in [
            (r#"{"a":1,"a":2}"#, "`a` stands there twice"),
            (r#"{"a":{"b":1,"\u0062":2}}"#, "`b` stands there twice"),
            ("1.5", "floating point"),
            ("-1", "integer `-1`"),
            ("1e3", "floating point"),
            (r#""\u0000""#, "U+0000"),
            ("\"\u{e9}\"", "U+00E9"),
            ("{\"\u{202e}\":1}", "U+202E"),
            ("{} {}", "trailing"),
            ("", "EOF"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let long = format!("\"{}\"", "a".repeat(1000));
        assert!(matches!(parse(&long), Err(ReleaseError::TooLong { found: 1002, .. })));
        let deep = Value::parse("deep", "[".repeat(100_000).as_bytes(), 200_000);
        assert!(deep.unwrap_err().to_string().contains("recursion"));
    }

    #[test]
    fn another_spelling_is_not_canonical() {
        assert!(Value::parse_canonical("t", b"{\"a\":1}\n", 100).is_ok());
        for text in ["{\"a\": 1}", "{\"a\":1}\n\n", "{\"b\":1,\"a\":1}", "{\"a\":\"\\u0041\"}"] {
            let refused = Value::parse_canonical("t", text.as_bytes(), 100);
            assert!(matches!(refused, Err(ReleaseError::NotCanonical { .. })), "{text}");
        }
    }

    #[test]
    fn a_value_that_its_type_would_write_otherwise_is_not_canonical() {
        let read = |text: &str| Value::read_canonical::<measure::Digest256>("t", text.as_bytes(), 100);
        let lower = format!("\"{}\"", "ab".repeat(32));
        assert!(read(&lower).is_ok());
        assert!(matches!(read(&lower.to_uppercase()), Err(ReleaseError::NotCanonical { .. })));
    }

    proptest! {
        #[test]
        fn canonical_bytes_are_a_fixed_point(text in r#"[ -~]{0,40}"#, number: u64) {
            let value = Value::List(vec![Value::Text(text.clone()), Value::Map([(text, Value::Number(number))].into())]);
            let bytes = value.canonical();
            prop_assert_eq!(Value::parse_canonical("t", &bytes, usize::MAX).unwrap(), value);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Value::parse("t", &bytes, 300);
        }
    }
}
