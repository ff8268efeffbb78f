//! Ways to spoil a file of a model, for property tests.

use proptest::sample::Index;

/// Sets bytes of a file, then cuts it short.
pub fn spoil(file: &mut Vec<u8>, edits: &[(Index, u8)], cut: Option<Index>) {
    for (at, byte) in edits {
        let at = at.index(file.len());
        file[at] = *byte;
    }
    if let Some(cut) = cut {
        file.truncate(cut.index(file.len()));
    }
}

/// Puts `number` in the place of one of the numbers of a JSON file.
pub fn renumber(file: &mut Vec<u8>, which: Index, number: &str) {
    let text = String::from_utf8(file.clone()).unwrap();
    let starts: Vec<usize> = text
        .char_indices()
        .filter(|(i, c)| c.is_ascii_digit() && text[..*i].ends_with([':', ',', '[']))
        .map(|(i, _)| i)
        .collect();
    if !starts.is_empty() {
        let start = starts[which.index(starts.len())];
        let len = text[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        file.splice(start..start + len, number.bytes());
    }
}
