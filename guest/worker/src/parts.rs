//! What an answer consists of: reasoning, text, and calls of functions, as text models write them.
//!
//! ```text
//! start --"<think>"--> thinking --"</think>"--> text <--"<tool_call>" .. "</tool_call>"--> call
//!   '---- `{` and tools ----> one bare call, to the end (Llama 3)
//! ```
//! A mark may arrive in pieces: what could be the beginning of one is held back until it is known. What looks like a call
//! and is none is text, so that nothing is lost.

use engine::Json;

const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";
const CALL: &str = "<tool_call>";
const CALLED: &str = "</tool_call>";

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What the model wrote for itself.
    Reasoning(String),
    /// What it wrote for the reader.
    Text(String),
    /// A call.
    Call {
        /// Of which function.
        name: String,
        /// A JSON object, as text.
        arguments: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Thinking,
    /// After a mark: line ends that follow it belong to the mark.
    Gap,
    Text,
    Call,
    Bare,
}

/// Takes an answer's text as it comes.
#[derive(Debug, Clone)]
pub struct Parts {
    state: State,
    tools: bool,
    held: String,
}

impl Parts {
    /// Of an answer to a request with tools, or without.
    pub fn new(tools: bool) -> Self {
        Parts { state: State::Start, tools, held: String::new() }
    }

    /// The parts that are certain after this piece of text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.advance(&mut out) {}
        out
    }

    /// What is left when the answer has ended.
    pub fn end(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        let part = match self.state {
            State::Thinking => Part::Reasoning(held),
            State::Call | State::Bare => return vec![call(&held).unwrap_or_else(|| self.text_again(held))],
            State::Start | State::Gap | State::Text => Part::Text(held),
        };
        if is_empty(&part) { Vec::new() } else { vec![part] }
    }

    fn text_again(&self, held: String) -> Part {
        Part::Text(if self.state == State::Call { format!("{CALL}{held}") } else { held })
    }

    /// One step; `false` if more text is needed.
    fn advance(&mut self, out: &mut Vec<Part>) -> bool {
        match self.state {
            State::Start => self.start(),
            State::Gap => {
                let rest = self.held.trim_start_matches(['\n', '\r']);
                self.held = rest.to_string();
                let more = !self.held.is_empty();
                if more {
                    self.state = State::Text;
                }
                more
            }
            State::Thinking => self.until(THOUGHT, State::Gap, Part::Reasoning, out),
            State::Text if self.tools => self.until(CALL, State::Call, Part::Text, out),
            State::Text => {
                let text = Part::Text(std::mem::take(&mut self.held));
                out.extend(Some(text).filter(|part| !is_empty(part)));
                false
            }
            State::Call => self.called(out),
            State::Bare => false,
        }
    }

    /// Decides what the answer begins with.
    fn start(&mut self) -> bool {
        let seen = self.held.trim_start();
        if seen.is_empty() || (seen.len() < THINK.len() && THINK.starts_with(seen)) {
            return false;
        }
        match seen.strip_prefix(THINK) {
            Some(rest) => (self.held, self.state) = (rest.to_string(), State::Thinking),
            None if self.tools && seen.starts_with('{') => self.state = State::Bare,
            None => self.state = State::Text,
        }
        true
    }

    /// Passes on what stands before `mark`, and goes on to `next` after it.
    fn until(&mut self, mark: &str, next: State, part: fn(String) -> Part, out: &mut Vec<Part>) -> bool {
        let (end, after) = match self.held.find(mark) {
            Some(at) => (at, Some(at + mark.len())),
            None => (self.held.len() - beginning_of(mark, &self.held), None),
        };
        out.extend(Some(part(self.held[..end].to_string())).filter(|part| !is_empty(part)));
        self.held.drain(..after.unwrap_or(end));
        if after.is_some() {
            self.state = next;
        }
        after.is_some()
    }

    fn called(&mut self, out: &mut Vec<Part>) -> bool {
        let Some(at) = self.held.find(CALLED) else { return false };
        let inner = self.held[..at].to_string();
        self.held.drain(..at + CALLED.len());
        self.state = State::Gap;
        out.push(call(&inner).unwrap_or_else(|| Part::Text(format!("{CALL}{inner}{CALLED}"))));
        true
    }
}

/// Length of the longest end of `text` that `mark` begins with.
fn beginning_of(mark: &str, text: &str) -> usize {
    let most = (mark.len() - 1).min(text.len());
    let ends = (1..=most).rev().filter(|n| text.is_char_boundary(text.len() - n));
    ends.into_iter().find(|n| mark.starts_with(&text[text.len() - n..])).unwrap_or(0)
}

fn is_empty(part: &Part) -> bool {
    matches!(part, Part::Text(text) | Part::Reasoning(text) if text.is_empty())
}

/// `{"name": .., "arguments": {..}}`, or `parameters` as Llama says it.
fn call(text: &str) -> Option<Part> {
    let json: Json = serde_json::from_str(text.trim()).ok()?;
    let name = json.get("name")?.as_str().filter(|name| !name.is_empty())?.to_string();
    let arguments = match json.get("arguments").or_else(|| json.get("parameters")) {
        Some(object @ Json::Object(_)) => serde_json::to_string(object).ok()?,
        // Some models write the object as text once more.
        Some(Json::String(text)) if serde_json::from_str::<Json>(text).is_ok() => text.clone(),
        None => "{}".into(),
        Some(_) => return None,
    };
    Some(Part::Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts of a whole answer, neighbours of one kind joined.
    fn read(tools: bool, pieces: &[&str]) -> Vec<Part> {
        let mut parts = Parts::new(tools);
        let mut all: Vec<_> = pieces.iter().flat_map(|piece| parts.push(piece)).collect();
        all.extend(parts.end());
        let mut out: Vec<Part> = Vec::new();
        for part in all {
            match (out.last_mut(), part) {
                (Some(Part::Text(last)), Part::Text(more)) => last.push_str(&more),
                (Some(Part::Reasoning(last)), Part::Reasoning(more)) => last.push_str(&more),
                (_, part) => out.push(part),
            }
        }
        out
    }

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn called(name: &str, arguments: &str) -> Part {
        Part::Call { name: name.into(), arguments: arguments.into() }
    }

    const FULL: &str = "<think>\nhm <b\n</think>\n\nLet me look. <tool_call>\n{\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": \"<\"}}\n</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>";

    #[test]
    fn however_an_answer_is_cut_its_parts_are_the_same() {
        let expected = [
            Part::Reasoning("\nhm <b\n".into()),
            text("Let me look. "),
            called("f", r#"{"z":1,"a":"<"}"#),
            called("g", "{}"),
        ];
        assert_eq!(read(true, &[FULL]), expected);
        for size in 1..20 {
            let cut: Vec<_> = FULL.as_bytes().chunks(size).map(|c| std::str::from_utf8(c).unwrap()).collect();
            assert_eq!(read(true, &cut), expected, "{size}");
        }
    }

    #[test]
    fn text_is_passed_on_as_soon_as_it_can_be_no_mark() {
        let mut parts = Parts::new(true);
        assert_eq!(parts.push("a <tool"), [text("a ")]);
        assert_eq!(parts.push("box> b"), [text("<toolbox> b")]);
        assert_eq!(parts.end(), []);
    }

    #[test]
    fn without_tools_nothing_is_a_call() {
        let plain = "{\"name\": \"f\"} <tool_call>{\"name\": \"f\"}</tool_call>";
        assert_eq!(read(false, &[plain]), [text(plain)]);
    }

    #[test]
    fn a_bare_object_is_llamas_call_and_any_other_stays_text() {
        let bare = r#"{"name": "f", "parameters": {"x": [1]}}"#;
        assert_eq!(read(true, &[&bare[..9], &bare[9..]]), [called("f", r#"{"x":[1]}"#)]);
        for other in [r#"{"city": "Paris"}"#, r#"{"name": "f", "parameters": 3}"#, r#"{"name": "f""#] {
            assert_eq!(read(true, &[other]), [text(other)]);
        }
    }

    #[test]
    fn a_call_that_is_no_call_is_text_with_its_marks() {
        for broken in ["a <tool_call>nonsense</tool_call> b", "a <tool_call>{\"name\":"] {
            let joined = read(true, &[broken]);
            let all: String = joined
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.as_str(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(all.replace("</tool_call>b", "</tool_call> b"), broken);
        }
    }

    #[test]
    fn thinking_that_never_ends_is_reasoning() {
        assert_eq!(read(false, &["  <thi", "nk>a", "</thi"]), [Part::Reasoning("a</thi".into())]);
    }

    #[test]
    fn characters_of_several_bytes_are_never_cut() {
        assert_eq!(read(true, &["ä<", "ö<tool_", "é"]), [text("ä<ö<tool_é")]);
    }
}
