//! A continuation's tokens become text, piece by piece: whole characters only, and nothing of a stop sequence.

/// Text that is on its way out.
pub(crate) struct Stream {
    stops: Vec<String>,
    /// Bytes that are not yet whole characters.
    bytes: Vec<u8>,
    /// Whole characters that may still turn out to begin a stop sequence.
    held: String,
}

impl Stream {
    pub fn new(stops: Vec<String>) -> Self {
        Stream { stops, bytes: Vec::new(), held: String::new() }
    }

    /// Takes a token's bytes. Returns what may be shown, and whether a stop sequence was met: then nothing may follow.
    pub fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.bytes.extend_from_slice(bytes);
        self.take_characters(false);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let kept = self.open_end();
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The end of the text; bytes that never became a character show as U+FFFD.
    pub fn finish(mut self) -> String {
        self.take_characters(true);
        self.held
    }

    /// Moves whole characters over. What can't become one is replaced, as `String::from_utf8_lossy` does.
    fn take_characters(&mut self, last: bool) {
        let mut taken = 0;
        for chunk in self.bytes.utf8_chunks() {
            self.held.push_str(chunk.valid());
            taken += chunk.valid().len();
            let invalid = chunk.invalid();
            // An incomplete character at the end may still be completed.
            let open = taken + invalid.len() == self.bytes.len() && !last && is_open(invalid);
            if invalid.is_empty() || open {
                break;
            }
            self.held.push(char::REPLACEMENT_CHARACTER);
            taken += invalid.len();
        }
        self.bytes.drain(..taken);
    }

    /// Length of the longest end of `held` that begins a stop sequence.
    fn open_end(&self) -> usize {
        let begins = |stop: &String| {
            let longest = (stop.len() - 1).min(self.held.len());
            (1..=longest).rev().find(|len| self.held.as_bytes().ends_with(&stop.as_bytes()[..*len]))
        };
        let len = self.stops.iter().filter_map(begins).max().unwrap_or(0);
        // Stop sequences are whole characters, and so is what is held: an equal end begins at a character.
        if self.held.is_char_boundary(self.held.len() - len) { len } else { 0 }
    }
}

/// Whether more bytes could make a character of these.
fn is_open(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_come_whole() {
        let mut stream = Stream::new(vec![]);
        let shown: Vec<String> = "a€😀".bytes().map(|byte| stream.push(&[byte]).0).collect();
        assert_eq!(shown, ["a", "", "", "€", "", "", "", "😀"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn a_broken_character_is_replaced_as_python_does() {
        let mut stream = Stream::new(vec![]);
        assert_eq!(stream.push(b"\xe2\x82").0, "");
        assert_eq!(stream.push(b"x\xff").0, "\u{fffd}x\u{fffd}");
        stream.push(b"\xf0\x9f");
        assert_eq!(stream.finish(), "\u{fffd}");
    }

    #[test]
    fn a_stop_sequence_never_shows() {
        let mut stream = Stream::new(vec!["END".into(), "\n\n".into()]);
        assert_eq!(stream.push(b"one E"), ("one ".into(), false));
        assert_eq!(stream.push(b"N"), ("".into(), false));
        assert_eq!(stream.push(b"T\n"), ("ENT".into(), false));
        assert_eq!(stream.push(b"x EN"), ("\nx ".into(), false));
        assert_eq!(stream.push(b"D more"), ("".into(), true));
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..40), cuts in prop::collection::vec(1usize..5, 0..40)) {
            let mut stream = Stream::new(vec![]);
            let (mut out, mut rest) = (String::new(), bytes.as_slice());
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                out += &stream.push(piece).0;
                rest = more;
            }
            out += &stream.push(rest).0;
            out += &stream.finish();
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn the_text_ends_before_the_first_stop(text in "[ab ]{0,24}", stops in prop::collection::vec("[ab]{1,4}", 1..4), size in 1usize..4) {
            let expected = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let mut stream = Stream::new(stops);
            let (mut out, mut stopped) = (String::new(), false);
            for piece in text.as_bytes().chunks(size) {
                let (shown, stop) = stream.push(piece);
                out += &shown;
                if stop {
                    stopped = true;
                    break;
                }
            }
            if !stopped {
                out += &stream.finish();
            }
            prop_assert_eq!(stopped, expected.is_some());
            // A longer stop sequence that begins earlier may end later than another one that is met first.
            if let Some(at) = expected {
                prop_assert!(text.starts_with(&out) && out.len() >= at);
            } else {
                prop_assert_eq!(out, text);
            }
        }
    }
}
