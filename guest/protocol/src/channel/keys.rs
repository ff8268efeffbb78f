//! Named application keys: what a peer wants believed to be its own beyond the channel, such as a proxy's session key.

use measure::codec::{CodecError, Reader, put};

/// Most keys that evidence names.
pub const MAX_KEYS: usize = 8;
/// Longest name, in bytes.
pub const MAX_KEY_NAME: usize = 32;
/// Longest key, in bytes; of a longer one, name its hash.
pub const MAX_KEY: usize = 256;

/// One key and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApplicationKey {
    /// 1 to 32 of `a` to `z`, `0` to `9` and `-`.
    pub name: String,
    /// 1 to 256 bytes; what they are is for the application to know.
    pub key: Vec<u8>,
}

/// Why keys can't be named in evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A name that is none.
    #[error(
        "application key: expected a name of 1 to {MAX_KEY_NAME} of a-z, 0-9 and `-`, found `{found}`; rename it"
    )]
    Name {
        /// The name, escaped.
        found: String,
    },
    /// A key of no or too many bytes.
    #[error(
        "application key `{name}`: expected 1 to {MAX_KEY} bytes, found {found}; name a hash of a longer key"
    )]
    Length {
        /// Which key.
        name: String,
        /// Its length.
        found: usize,
    },
    /// Two keys of one name.
    #[error("application key `{name}`: named twice; give each key a name of its own")]
    Twice {
        /// Which name.
        name: String,
    },
    /// Too many.
    #[error(
        "application keys: expected at most {MAX_KEYS}, found {found}; sign the others with one of these"
    )]
    Count {
        /// How many.
        found: usize,
    },
}

impl ApplicationKey {
    /// Checks name and length.
    pub fn check(&self) -> Result<(), KeysError> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.name.is_empty() || self.name.len() > MAX_KEY_NAME || !self.name.bytes().all(good) {
            return Err(KeysError::Name { found: self.name.escape_debug().take(2 * MAX_KEY_NAME).collect() });
        }
        if self.key.is_empty() || self.key.len() > MAX_KEY {
            return Err(KeysError::Length { name: self.name.clone(), found: self.key.len() });
        }
        Ok(())
    }

    /// Appends name and key, each a field.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put(out, self.name.as_bytes());
        put(out, &self.key);
    }

    /// Reads name and key; `None` where both are empty.
    pub(crate) fn read(
        r: &mut Reader<'_>,
        what: &'static str,
        offset: usize,
    ) -> Result<Option<Self>, CodecError> {
        let name = r.field(what, MAX_KEY_NAME)?;
        let key = r.field(what, MAX_KEY)?.to_vec();
        if name.is_empty() && key.is_empty() {
            return Ok(None);
        }
        let key = ApplicationKey { name: String::from_utf8_lossy(name).into(), key };
        match key.check() {
            Ok(()) => Ok(Some(key)),
            Err(error) => Err(wrong(what, offset, &error)),
        }
    }
}

fn wrong(what: &'static str, offset: usize, error: &KeysError) -> CodecError {
    let expected = "application keys of distinct names, in the order of their names".into();
    CodecError::Wrong { what, offset, expected, found: error.to_string() }
}

/// Keys in the order of their names, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplicationKeys(Vec<ApplicationKey>);

impl ApplicationKeys {
    /// Sorts and checks.
    pub fn new(mut keys: Vec<ApplicationKey>) -> Result<Self, KeysError> {
        if keys.len() > MAX_KEYS {
            return Err(KeysError::Count { found: keys.len() });
        }
        keys.iter().try_for_each(ApplicationKey::check)?;
        keys.sort();
        match keys.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(KeysError::Twice { name: pair[0].name.clone() }),
            None => Ok(ApplicationKeys(keys)),
        }
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &ApplicationKey> {
        self.0.iter()
    }

    /// The key of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|key| key.name == name).map(|key| key.key.as_slice())
    }

    /// Whether exactly this key stands here under its name.
    pub fn contains(&self, key: &ApplicationKey) -> bool {
        self.0.contains(key)
    }

    /// `u32` count, then name and key of each as fields.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = (self.0.len() as u32).to_be_bytes().to_vec();
        self.0.iter().for_each(|key| key.put(&mut out));
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; another order is refused.
    pub(crate) fn read(r: &mut Reader<'_>, offset: usize) -> Result<Self, CodecError> {
        const WHAT: &str = "application keys";
        let count = r.u32(WHAT)? as usize;
        if count > MAX_KEYS {
            return Err(CodecError::TooLong { what: WHAT, offset, len: count, max: MAX_KEYS });
        }
        let mut keys = Vec::new();
        for _ in 0..count {
            let key = ApplicationKey::read(r, WHAT, offset)?;
            keys.push(key.ok_or_else(|| wrong(WHAT, offset, &KeysError::Name { found: String::new() }))?);
        }
        let sent = keys.clone();
        let keys = ApplicationKeys::new(keys).map_err(|error| wrong(WHAT, offset, &error))?;
        match keys.0 == sent {
            true => Ok(keys),
            false => Err(CodecError::Wrong {
                what: WHAT,
                offset,
                expected: "the order of their names".into(),
                found: "another order".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, key: &[u8]) -> ApplicationKey {
        ApplicationKey { name: name.into(), key: key.to_vec() }
    }

    fn read(bytes: &[u8]) -> Result<ApplicationKeys, CodecError> {
        let mut r = Reader::new(bytes);
        let keys = ApplicationKeys::read(&mut r, 0)?;
        r.finish().map(|()| keys)
    }

    #[test]
    fn keys_survive_the_wire_in_the_order_of_their_names() {
        let keys = ApplicationKeys::new(vec![key("session", b"s"), key("billing", b"b")]).unwrap();
        assert_eq!(keys.iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["billing", "session"]);
        assert_eq!(read(&keys.to_bytes()).unwrap(), keys);
        assert_eq!(keys.get("session"), Some(&b"s"[..]));
        assert!(keys.contains(&key("billing", b"b")) && !keys.contains(&key("billing", b"s")));
    }

    #[test]
    fn keys_in_another_order_or_twice_are_refused() {
        let raw = |keys: &[ApplicationKey]| ApplicationKeys(keys.to_vec()).to_bytes();
        assert!(read(&raw(&[key("b", b"1"), key("a", b"2")])).is_err());
        assert!(read(&raw(&[key("a", b"1"), key("a", b"1")])).is_err());
        assert!(read(&raw(&[key("a", b"1"), key("a", b"2")])).is_err());
        let twice = ApplicationKeys::new(vec![key("a", b"1"), key("a", b"2")]);
        assert_eq!(twice, Err(KeysError::Twice { name: "a".into() }));
    }

    #[test]
    fn names_and_lengths_are_bounded() {
        for bad in [key("", b"1"), key("A", b"1"), key("a b", b"1"), key(&"a".repeat(33), b"1")] {
            assert!(matches!(bad.check(), Err(KeysError::Name { .. })), "{bad:?}");
        }
        for bad in [key("a", b""), key("a", &[0; MAX_KEY + 1])] {
            assert!(matches!(bad.check(), Err(KeysError::Length { .. })), "{bad:?}");
        }
        let many = (0..=MAX_KEYS).map(|n| key(&format!("k{n}"), b"1")).collect();
        assert_eq!(ApplicationKeys::new(many), Err(KeysError::Count { found: MAX_KEYS + 1 }));
    }
}
