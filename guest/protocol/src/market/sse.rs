//! Counts in a stream of server-sent events, as bytes pass by.
//!
//! A worker that streams says after the events of each flush how much it has written: a comment line `:c 12,0`. Clients
//! ignore comments (HTML, server-sent events, section 9.2.6), so the proxy takes nothing out; it remembers the last whole
//! line that it passed on, which is what a cancelled request is charged by.
//!
//! Lines end with LF, CR or CRLF, as the standard has it. Of a line no more is kept than the longest count takes.

use super::field::Written;

/// `:c ` and two numbers of ten digits with a comma.
const LONGEST: usize = 3 + 10 + 1 + 10;
const MARK: &[u8] = b":c ";

/// What a stream's comments said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountReader {
    /// The head of the line that is being read; longer lines count nothing.
    line: Vec<u8>,
    long: bool,
    last: Option<Written>,
    wrong: bool,
}

impl CountReader {
    /// Takes the next bytes of the stream, however they are cut.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(at) = memchr::memchr2(b'\n', b'\r', bytes) {
            self.keep(&bytes[..at]);
            self.end();
            bytes = &bytes[at + 1..];
        }
        self.keep(bytes);
    }

    /// The last count that was passed on.
    pub fn last(&self) -> Option<Written> {
        self.last
    }

    /// Whether a count could not be read or was lower than one before: no right worker writes that.
    pub fn is_wrong(&self) -> bool {
        self.wrong
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST - self.line.len();
        self.long |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(&mut self) {
        if let Some(count) = self.line.strip_prefix(MARK) {
            let had = self.last.unwrap_or_default();
            let read = std::str::from_utf8(count).ok().filter(|_| !self.long).and_then(|c| c.parse().ok());
            let grown = |new: &Written| new.completion >= had.completion && new.reasoning >= had.reasoning;
            match read.filter(grown) {
                Some(count) => self.last = Some(count),
                None => self.wrong = true,
            }
        }
        self.line.clear();
        self.long = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> CountReader {
        let mut reader = CountReader::default();
        reader.pass(text.as_bytes());
        reader
    }

    fn written(completion: u32, reasoning: u32) -> Option<Written> {
        Some(Written { completion, reasoning })
    }

    #[test]
    fn the_last_whole_comment_counts() {
        let text = "data: {\"a\":1}\n\n:c 1,0\ndata: :c 9,9\n\n:c 3,2\n:c 4,2";
        assert_eq!(read(text).last(), written(3, 2));
        assert_eq!(read(":c 4294967295,4294967295\r\n").last(), written(u32::MAX, u32::MAX));
        assert_eq!(read(&Written { completion: 7, reasoning: 1 }.comment()).last(), written(7, 1));
    }

    #[test]
    fn a_count_that_shrinks_or_is_none_is_wrong_and_changes_nothing() {
        for text in [":c 3,0\n:c 2,0\n", ":c 3,0\n:c x\n", ":c 3,0\n:c 4294967295,42949672950\n"] {
            let reader = read(text);
            assert!(reader.is_wrong(), "{text}");
            assert_eq!(reader.last(), written(3, 0));
        }
        let plain = read(":comment\n: c 1,1\n:c\n :c 1,0\n");
        assert!(!plain.is_wrong());
        assert_eq!(plain.last(), None);
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_the_same_is_read(text in "(:c [0-9]{1,11},[0-9]\n|data: x\n|\r\n|.){0,20}", cuts in prop::collection::vec(0usize..200, 0..8)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut reader = CountReader::default();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                reader.pass(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(reader, read(&text));
        }

        #[test]
        fn hostile_bytes_never_panic_and_little_is_kept(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut reader = CountReader::default();
            reader.pass(&bytes);
            prop_assert!(reader.line.len() <= LONGEST);
        }
    }
}
