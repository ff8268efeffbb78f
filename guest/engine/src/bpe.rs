//! Byte pair encoding: tokens, what they are of, and merging them.
//!
//! ```text
//! vocabulary: text -> id      a token's text is spelled in 256 letters, one a byte (GPT-2)
//! merges: (id, id) -> rank, id      the pair of the lowest rank is merged first, the leftmost of several
//! ```
//! Both are read in one go from the file's bytes into tables that are small and made quickly: the bytes of all tokens end to end,
//! and places of a table without texts of its own. A vocabulary of 150,000 tokens is read whenever a worker starts.
//!
//! Tables are keyed at random, so that no file can be made to fill one place of them.
//!
//! Source: GPT-2's `encoder.py`; Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units".

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// Longest token in bytes; real vocabularies have some of 128 and more (white space).
pub(crate) const MAX_TOKEN_BYTES: usize = 1024;
/// Most tokens.
const MAX_TOKENS: usize = 1 << 22;
/// Places of the first table: room for the vocabularies of small models.
const FIRST_TABLE: usize = 1 << 16;
/// No token, no symbol.
const NONE: u32 = u32::MAX;

/// Bytes that GPT-2's letters stand for; the others are letters that stand for none.
const fn bytes_of_letters() -> [Option<u8>; LETTERS] {
    let mut bytes = [None; LETTERS];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        match byte as u8 {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => bytes[byte] = Some(byte as u8),
            _ => {
                bytes[next] = Some(byte as u8);
                next += 1;
            }
        }
        byte += 1;
    }
    bytes
}

/// One more than the last letter: 68 bytes are not printable.
const LETTERS: usize = 0x100 + 68;
const BYTES: [Option<u8>; LETTERS] = bytes_of_letters();

/// Writes the bytes that a text spells; false where one of its letters stands for none, and the text for itself.
fn unspell(text: &str, out: &mut Vec<u8>) -> bool {
    out.clear();
    for letter in text.chars() {
        match BYTES.get(letter as usize).copied().flatten() {
            Some(byte) => out.push(byte),
            None => {
                out.clear();
                out.extend_from_slice(text.as_bytes());
                return false;
            }
        }
    }
    true
}

/// Where a token's bytes lie.
#[derive(Clone, Copy, Default)]
struct Place {
    start: u32,
    /// 0 where there is no such token.
    len: u16,
    /// Whether it is spelled in letters of bytes.
    spelled: bool,
    /// Whether it never shows in a text.
    special: bool,
}

/// A place of the table: a part of the hash, and an id or [`NONE`].
#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    id: u32,
}

const FREE: Slot = Slot { hash: 0, id: NONE };

/// All tokens by id, and those of the vocabulary by what they are of.
pub(crate) struct Tokens {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Tokens of the vocabulary by hash, at most half of it taken.
    table: Vec<Slot>,
    /// How many of them.
    count: usize,
    keys: RandomState,
}

impl Tokens {
    fn new() -> Tokens {
        Tokens {
            bytes: vec![],
            places: vec![],
            table: vec![FREE; FIRST_TABLE],
            count: 0,
            keys: RandomState::new(),
        }
    }

    /// Bytes of a token; none for an id that is no token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let place = self.places.get(id as usize).copied().unwrap_or_default();
        &self.bytes[place.start as usize..][..usize::from(place.len)]
    }

    /// Whether a token is one that never shows in a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.places.get(id as usize).is_some_and(|place| place.special)
    }

    /// One more than the largest id.
    pub fn size(&self) -> usize {
        self.places.len()
    }

    /// The token of the vocabulary that is of exactly these bytes, spelled in letters.
    pub fn id(&self, bytes: &[u8]) -> Option<u32> {
        self.known(bytes, true)
    }

    fn known(&self, bytes: &[u8], spelled: bool) -> Option<u32> {
        self.find(self.hash(bytes, spelled), bytes, spelled).ok()
    }

    fn hash(&self, bytes: &[u8], spelled: bool) -> u32 {
        // Which bits change with it does not matter: it only keeps apart two texts of the same bytes.
        self.keys.hash_one(bytes) as u32 ^ u32::from(spelled)
    }

    /// Its id, or the place in the table where it would be.
    fn find(&self, hash: u32, bytes: &[u8], spelled: bool) -> Result<u32, usize> {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.table[at];
            if slot.id == NONE {
                return Err(at);
            }
            let same = |place: Place| place.spelled == spelled && self.bytes(slot.id) == bytes;
            if slot.hash == hash && same(self.places[slot.id as usize]) {
                return Ok(slot.id);
            }
            at = (at + 1) & mask;
        }
    }

    /// Enters a token of the vocabulary.
    fn enter(&mut self, id: u32, bytes: &[u8], spelled: bool) -> Result<(), String> {
        let hash = self.hash(bytes, spelled);
        let Err(at) = self.find(hash, bytes, spelled) else {
            return Err(format!("token id {id} is of a text that another token is of"));
        };
        self.put(id, bytes, Place { spelled, ..Place::default() }, false)?;
        self.table[at] = Slot { hash, id };
        self.count += 1;
        if 2 * self.count > self.table.len() {
            self.grow();
        }
        Ok(())
    }

    fn grow(&mut self) {
        let slots = std::mem::take(&mut self.table);
        self.table = vec![FREE; 2 * slots.len()];
        let mask = self.table.len() - 1;
        for slot in slots.into_iter().filter(|slot| slot.id != NONE) {
            let mut at = slot.hash as usize & mask;
            while self.table[at].id != NONE {
                at = (at + 1) & mask;
            }
            self.table[at] = slot;
        }
    }

    /// Enters an added token, which may repeat one of the vocabulary.
    pub fn add(&mut self, id: u32, text: &str, special: bool) -> Result<(), String> {
        self.put(id, text.as_bytes(), Place { special, ..Place::default() }, true)
    }

    fn put(&mut self, id: u32, bytes: &[u8], place: Place, again: bool) -> Result<(), String> {
        let index = id as usize;
        if index >= MAX_TOKENS || bytes.is_empty() || bytes.len() > MAX_TOKEN_BYTES {
            return Err(format!(
                "token id {id} has {} bytes, expected ids below {MAX_TOKENS} of 1 to {MAX_TOKEN_BYTES} bytes",
                bytes.len()
            ));
        }
        if index >= self.places.len() {
            self.places.resize(index + 1, Place::default());
        }
        let there = self.bytes(id);
        if !there.is_empty() && !(again && there == bytes) {
            return Err(format!("token id {id} stands for two texts"));
        }
        if there.is_empty() {
            let start = u32::try_from(self.bytes.len()).map_err(|_| "its tokens are too long".to_owned())?;
            self.bytes.extend_from_slice(bytes);
            self.places[index] = Place { start, len: bytes.len() as u16, ..place };
        }
        self.places[index].special |= place.special;
        Ok(())
    }
}

/// A vocabulary as it stands in the file; the first thing that is wrong with it.
pub(crate) struct Vocabulary(Result<Tokens, String>);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("texts and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let (mut tokens, mut bytes) = (Ok(Tokens::new()), vec![]);
                while let Some((text, id)) = map.next_entry::<Text<'de>, u32>()? {
                    let spelled = unspell(&text.0, &mut bytes);
                    tokens = tokens
                        .and_then(|mut tokens: Tokens| tokens.enter(id, &bytes, spelled).map(|()| tokens));
                }
                Ok(Vocabulary(tokens))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A text that is borrowed where the file has it as it is.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A merge as it stands in the file: two texts, or both in one with a space between.
pub(crate) struct Merge<'a>(Cow<'a, str>, Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a merge: two texts")
            }

            fn visit_borrowed_str<E>(self, line: &'de str) -> Result<Merge<'de>, E> {
                Ok(Merge(Cow::Borrowed(line), None))
            }

            fn visit_str<E>(self, line: &str) -> Result<Merge<'de>, E> {
                Ok(Merge(Cow::Owned(line.into()), None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Merge<'de>, A::Error> {
                let too_few = |count| serde::de::Error::invalid_length(count, &self);
                let first: Text<'de> = access.next_element()?.ok_or_else(|| too_few(0))?;
                let second: Text<'de> = access.next_element()?.ok_or_else(|| too_few(1))?;
                match access.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Merge(first.0, Some(second.0))),
                    Some(_) => Err(too_few(3)),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

/// The encoder, ready for use.
pub(crate) struct Bpe {
    /// All tokens.
    pub tokens: Tokens,
    /// The token of each byte.
    letters: [u32; 256],
    /// Rank and merged token of a pair.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Whether a word that is a token is that token, whatever merges say.
    whole_words: bool,
}

impl Bpe {
    /// Of a vocabulary with a token for every byte, and merges of its tokens to its tokens.
    ///
    /// # Errors
    /// What else they are, in words.
    pub fn new(vocabulary: Vocabulary, merges: &[Merge<'_>], whole_words: bool) -> Result<Bpe, String> {
        let tokens = vocabulary.0?;
        let mut letters = [NONE; 256];
        for (byte, letter) in (0..=255u8).zip(&mut letters) {
            let token = tokens.id(&[byte]);
            *letter = token.ok_or_else(|| format!("its vocabulary has no token for the byte {byte:#04x}"))?;
        }
        let mut table = HashMap::with_capacity(merges.len());
        let mut scratch = Scratch::default();
        for (rank, merge) in (0..).zip(merges) {
            let (a, b) = merge.texts().ok_or("a merge is not two tokens")?;
            let Some((pair, merged)) = scratch.merged(&tokens, a, b) else {
                let (a, b) = (crate::error::shorten(a), crate::error::shorten(b));
                return Err(format!("merge `{a} {b}` is not of tokens to a token"));
            };
            table.insert(pair, (rank, merged));
        }
        Ok(Bpe { tokens, letters, merges: table, whole_words })
    }

    /// Appends the tokens of a word.
    pub fn encode(&self, word: &[u8], ids: &mut Vec<u32>, merging: &mut Merging) {
        if let Some(id) = self.tokens.id(word).filter(|_| self.whole_words) {
            ids.push(id);
            return;
        }
        merging.start(word.iter().map(|byte| self.letters[usize::from(*byte)]));
        for at in 1..merging.symbols.len() as u32 {
            merging.consider(&self.merges, at - 1);
        }
        while let Some(Reverse(next)) = merging.queue.pop() {
            merging.merge(&self.merges, next);
        }
        ids.extend(merging.symbols.iter().map(|symbol| symbol.id).filter(|id| *id != NONE));
    }
}

impl Merge<'_> {
    fn texts(&self) -> Option<(&str, &str)> {
        match &self.1 {
            Some(second) => Some((&self.0, second)),
            None => self.0.split_once(' '),
        }
    }
}

/// Bytes of two texts and of both together.
#[derive(Default)]
struct Scratch {
    first: Vec<u8>,
    second: Vec<u8>,
}

impl Scratch {
    /// The tokens of two texts, and that of both together.
    fn merged(&mut self, tokens: &Tokens, a: &str, b: &str) -> Option<((u32, u32), u32)> {
        let spelled = (unspell(a, &mut self.first), unspell(b, &mut self.second));
        let pair = (tokens.known(&self.first, spelled.0)?, tokens.known(&self.second, spelled.1)?);
        if spelled == (true, true) {
            self.first.extend_from_slice(&self.second);
            return Some((pair, tokens.known(&self.first, true)?));
        }
        // One that stands for itself makes both stand for themselves.
        Some((pair, tokens.known(format!("{a}{b}").as_bytes(), false)?))
    }
}

/// A token of the word that is being merged, and its neighbours.
struct Symbol {
    /// [`NONE`] where it was merged into the one before it.
    id: u32,
    before: u32,
    behind: u32,
}

/// A merge that may be done: by rank, and from the left.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    rank: u32,
    at: u32,
    pair: (u32, u32),
    merged: u32,
}

/// What merging a word needs; used again for the next one.
#[derive(Default)]
pub(crate) struct Merging {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Next>>,
}

impl Merging {
    fn start(&mut self, ids: impl Iterator<Item = u32>) {
        self.symbols.clear();
        self.queue.clear();
        // A word is shorter than 2^32 bytes: texts are.
        self.symbols.extend((0..).zip(ids).map(|(at, id): (u32, u32)| Symbol {
            id,
            before: at.wrapping_sub(1),
            behind: at + 1,
        }));
        if let Some(last) = self.symbols.last_mut() {
            last.behind = NONE;
        }
    }

    /// Notes the merge of the symbol at `at` with the one behind it, where there is one.
    fn consider(&mut self, merges: &HashMap<(u32, u32), (u32, u32)>, at: u32) {
        let Some(symbol) = self.symbols.get(at as usize) else { return };
        let Some(behind) = self.symbols.get(symbol.behind as usize) else { return };
        let pair = (symbol.id, behind.id);
        if let Some(&(rank, merged)) = merges.get(&pair) {
            self.queue.push(Reverse(Next { rank, at, pair, merged }));
        }
    }

    /// Does a merge, unless one of the two was merged with another since.
    fn merge(&mut self, merges: &HashMap<(u32, u32), (u32, u32)>, next: Next) {
        let behind = self.symbols[next.at as usize].behind;
        let Some(second) = self.symbols.get(behind as usize) else { return };
        if (self.symbols[next.at as usize].id, second.id) != next.pair {
            return;
        }
        let further = second.behind;
        self.symbols[behind as usize].id = NONE;
        let symbol = &mut self.symbols[next.at as usize];
        (symbol.id, symbol.behind) = (next.merged, further);
        let before = symbol.before;
        if let Some(further) = self.symbols.get_mut(further as usize) {
            further.before = next.at;
        }
        self.consider(merges, before);
        self.consider(merges, next.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Model;
    use tokenizers::models::bpe::BPE;

    /// The letter of a byte.
    fn letter(byte: u8) -> char {
        let at = BYTES.iter().position(|known| *known == Some(byte)).unwrap();
        char::from_u32(at as u32).unwrap()
    }

    fn spelled(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| letter(*byte)).collect()
    }

    /// Vocabulary and merges that make tokens of the first and the second of each pair, of those that are there already.
    fn drawn(pairs: &[(prop::sample::Index, prop::sample::Index)]) -> (Vec<String>, Vec<(String, String)>) {
        let mut texts: Vec<String> = (0..=255u8).map(|byte| spelled(&[byte])).collect();
        // Few letters, so that words have many merges.
        let mut likely: Vec<String> = b"ab \n".iter().map(|byte| spelled(&[*byte])).collect();
        let mut merges = vec![];
        for (a, b) in pairs {
            let (a, b) = (a.get(&likely).clone(), b.get(&likely).clone());
            let merged = format!("{a}{b}");
            if merged.chars().count() < 40 {
                if !texts.contains(&merged) {
                    texts.push(merged.clone());
                    likely.push(merged);
                }
                merges.push((a, b));
            }
        }
        (texts, merges)
    }

    fn read(texts: &[String], merges: &[(String, String)], lines: bool, whole: bool) -> Result<Bpe, String> {
        let ids: serde_json::Map<String, serde_json::Value> =
            texts.iter().zip(0u32..).map(|(text, id)| (text.clone(), id.into())).collect();
        let vocabulary: Vocabulary = serde_json::from_str(&serde_json::to_string(&ids).unwrap()).unwrap();
        let merges = match lines {
            true => {
                serde_json::to_string(&merges.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>())
            }
            false => serde_json::to_string(merges),
        }
        .unwrap();
        Bpe::new(vocabulary, &serde_json::from_str::<Vec<Merge<'_>>>(&merges).unwrap(), whole)
    }

    proptest! {
        #[test]
        fn words_become_the_tokens_that_the_library_makes_of_them(
            pairs in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..60),
            words in prop::collection::vec("[ab \n]{0,60}|[ -~é]{0,8}", 1..8), lines in any::<bool>(), whole in any::<bool>(),
        ) {
            let (texts, merges) = drawn(&pairs);
            let ours = read(&texts, &merges, lines, whole).unwrap();
            let vocab = texts.iter().cloned().zip(0u32..).collect::<tokenizers::models::bpe::Vocab>();
            let theirs = BPE::builder().vocab_and_merges(vocab, merges).cache_capacity(0).ignore_merges(whole).build().unwrap();
            let mut merging = Merging::default();
            for word in words {
                let mut ids = vec![];
                ours.encode(word.as_bytes(), &mut ids, &mut merging);
                let right: Vec<u32> = theirs.tokenize(&spelled(word.as_bytes())).unwrap().iter().map(|token| token.id).collect();
                prop_assert_eq!(&ids, &right, "{:?}", word);
                let back: Vec<u8> = ids.iter().flat_map(|id| ours.tokens.bytes(*id)).copied().collect();
                prop_assert_eq!(back, word.as_bytes());
            }
        }

        #[test]
        fn hostile_vocabularies_and_merges_are_refused_or_read_but_never_panic(
            text in prop_oneof![".{0,200}", r#"\{("[ab\\u0120 é<>]{0,3}":[0-9]{1,3},?){0,9}\}"#,
                r#"\[("[ab ]{0,3}",?|\["a","b"(,"c")?\],?){0,9}\]"#],
        ) {
            if let Ok(vocabulary) = serde_json::from_str::<Vocabulary>(&text) {
                prop_assert!(Bpe::new(vocabulary, &[], false).is_err());
            }
            if let Ok(merges) = serde_json::from_str::<Vec<Merge<'_>>>(&text) {
                let (texts, _) = drawn(&[]);
                let whole = read(&texts, &[], false, false).unwrap();
                let found = Bpe::new(Vocabulary(Ok(whole.tokens)), &merges, false);
                prop_assert_eq!(found.is_err(), !merges.is_empty());
            }
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_in_words() {
        let (texts, _) = drawn(&[]);
        let refused =
            |texts: &[String], merges: &[(String, String)]| read(texts, merges, false, false).err().unwrap();
        assert!(refused(&texts[1..], &[]).contains("no token for the byte 0x00"));
        let merge = [("a".into(), "b".into())];
        assert!(refused(&texts, &merge).contains("merge `a b` is not of tokens to a token"));
        let two = |json: &str| serde_json::from_str::<Vocabulary>(json).unwrap().0.err().unwrap();
        assert!(two(r#"{"a": 1, "b": 1}"#).contains("token id 1 stands for two texts"));
        assert!(two(r#"{"a": 1, "a": 2}"#).contains("of a text that another token is of"));
        assert!(two(r#"{"": 1}"#).contains("has 0 bytes"));
        assert!(two(r#"{"a": 4194304}"#).contains("ids below"));
        assert!(two(&format!("{{\"{}\": 4}}", "a".repeat(1025))).contains("1025 bytes"));
    }

    #[test]
    fn a_token_in_other_letters_stands_for_its_own_text() {
        let (mut texts, _) = drawn(&[]);
        texts.extend(["日".to_owned(), "a日".to_owned(), spelled("日".as_bytes())]);
        let bpe = read(&texts, &[("a".into(), "日".into())], false, false).unwrap();
        assert_eq!((bpe.tokens.bytes(256), bpe.tokens.bytes(258)), ("日".as_bytes(), "日".as_bytes()));
        assert_eq!((bpe.tokens.id("日".as_bytes()), bpe.tokens.size()), (Some(258), 259));
    }

    #[test]
    fn a_word_of_a_megabyte_takes_no_longer_a_letter_than_a_short_one() {
        let (texts, merges) = drawn(&[]);
        let bpe = read(&texts, &merges, false, false).unwrap();
        let mut ids = vec![];
        bpe.encode(&vec![b'a'; 1 << 20], &mut ids, &mut Merging::default());
        assert_eq!(ids.len(), 1 << 20);
    }
}
