//! Edits of a well-formed input, as a person who attacks a parser would make them.

/// One edit. Places are taken modulo the input's length, so every edit fits every input.
#[derive(Debug, Clone)]
pub enum Edit {
    /// Replaces one byte.
    Byte(usize, u8),
    /// Replaces a little-endian word of 2, 4 or 8 bytes: lengths, counts and offsets are such words.
    Word(usize, u64, usize),
    /// Ends the input here.
    Cut(usize),
    /// Copies a stretch over another: tables that overlap or point to themselves.
    Copy(usize, usize, usize),
    /// Repeats a stretch in place: one event, section or field too many.
    Repeat(usize, usize),
}

/// Largest stretch that is copied or repeated.
const STRETCH: usize = 512;

/// Applies edits in turn.
pub fn edited(seed: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for edit in edits {
        if bytes.is_empty() {
            return bytes;
        }
        apply(&mut bytes, edit);
    }
    bytes
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let length = bytes.len();
    let stretch = |at: usize, len: usize| at % length..(at % length + len % STRETCH).min(length);
    match *edit {
        Edit::Byte(at, value) => bytes[at % length] = value,
        Edit::Word(at, value, width) => {
            let at = at % length;
            let end = (at + width.min(8)).min(length);
            bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        Edit::Cut(at) => bytes.truncate(at % length),
        Edit::Copy(from, to, len) => {
            let part = bytes[stretch(from, len)].to_vec();
            let to = to % length;
            let end = (to + part.len()).min(length);
            bytes[to..end].copy_from_slice(&part[..end - to]);
        }
        Edit::Repeat(at, len) => {
            let range = stretch(at, len);
            let part = bytes[range.clone()].to_vec();
            bytes.splice(range.end..range.end, part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_do_what_they_say() {
        let seed = b"0123456789";
        let one = |edit: Edit| String::from_utf8(edited(seed, &[edit])).unwrap();
        assert_eq!(one(Edit::Byte(11, b'x')), "0x23456789");
        assert_eq!(one(Edit::Word(8, u64::from_le_bytes(*b"abcdefgh"), 4)), "01234567ab");
        assert_eq!(one(Edit::Cut(3)), "012");
        assert_eq!(one(Edit::Copy(0, 8, 3)), "0123456701");
        assert_eq!(one(Edit::Repeat(2, 3)), "0123423456789");
    }

    #[test]
    fn nothing_is_left_to_edit_in_an_empty_input() {
        assert!(edited(b"", &[Edit::Byte(1, 1)]).is_empty());
    }
}
