//! Bytes in text: hex or base64, whichever a writer of evidence chose.
//!
//! Base64 (RFC 4648, both alphabets, padded or not) is decoded here and not by a crate, because the guest's first service
//! links this crate and would get that crate with it.

/// Decodes hex (with or without `0x`) or base64; line breaks and spaces are passed over. `None` if it is neither.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let compact: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let digits = compact.strip_prefix(b"0x").unwrap_or(&compact);
    hex::decode(digits).ok().or_else(|| base64(&compact))
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().position(|b| *b == b'=').unwrap_or(text.len());
    let (body, padding) = text.split_at(end);
    let padded = !padding.is_empty();
    let wrong_padding =
        padding.iter().any(|b| *b != b'=') || !text.len().is_multiple_of(4) || padding.len() > 2;
    if body.len() % 4 == 1 || (padded && wrong_padding) {
        return None;
    }
    let mut out = Vec::with_capacity(body.len() / 4 * 3 + 2);
    for group in body.chunks(4) {
        let mut word = 0u32;
        for symbol in group {
            word = word << 6 | u32::from(value(*symbol)?);
        }
        word <<= 6 * (4 - group.len());
        out.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Some(out)
}

fn value(symbol: u8) -> Option<u8> {
    Some(match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_test_vectors_of_rfc_4648_come_out() {
        for (text, bytes) in
            [("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg", "foob"), ("Zm9vYmE=", "fooba")]
        {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
    }

    #[test]
    fn hex_wins_over_base64_and_neither_is_refused() {
        assert_eq!(decode("0xdeadbeef"), Some(vec![0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(decode("dead\nbeef"), Some(vec![0xde, 0xad, 0xbe, 0xef]));
        for bad in ["Zg=", "Zg==Zg==", "Z", "Zg=a", "{}", "Zm9v=="] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,80}") {
            let _ = decode(&text);
        }

        #[test]
        fn hex_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(&hex::encode(&bytes)), Some(bytes));
        }
    }
}
