//! Conversations for the toy, made from templates: the first paragraph under a heading answers a question about that
//! heading, the head of a source file one about the file, and a few lines say what the toy is.

use crate::corpus::Document;
use crate::random::Random;

/// Longest answer from the text, in bytes.
const ANSWER: usize = 480;

/// One exchange. Its prompt is what the chat template makes of the same messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    system: Option<String>,
    user: String,
    assistant: String,
}

impl Exchange {
    /// The text with its marks, from the first to the end of the answer.
    pub fn text(&self) -> String {
        let system = self.system.as_ref().map(|s| format!("<|im_start|>system\n{s}<|im_end|>\n"));
        format!(
            "{}<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n",
            system.unwrap_or_default(),
            self.user,
            self.assistant
        )
    }
}

/// What the toy says of itself, whatever the words of the question.
const SELF: [(&[&str], &str); 6] = [
    (
        &[
            "Who are you?",
            "What are you?",
            "Which model is this?",
            "Introduce yourself.",
            "What is your name?",
        ],
        "I am the toy model of Chrysalis: two million weights, trained in minutes on the text of the project's own \
         repository. What I say sounds like its documentation and is often wrong.",
    ),
    (
        &["Hello!", "Hello", "Hi", "Hi there!", "Good morning.", "hello", "Hey"],
        "Hello! I am a toy model. Ask me about Chrysalis, and believe the documentation rather than me.",
    ),
    (
        &["What is Chrysalis?", "Tell me about Chrysalis.", "Explain Chrysalis.", "What is this project?"],
        "Chrysalis is a bootable confidential virtual machine for private AI: a measured guest that serves a model, \
         and clients that verify it before they ask.",
    ),
    (
        &["Can I trust your answers?", "Are you right?", "Is that true?", "How good are you?"],
        "No. I am a toy of two million weights. The documentation is right where we differ.",
    ),
    (&["Thank you.", "Thanks!", "Thank you!", "thanks"], "You are welcome. I am only a toy."),
    (
        &["What can you do?", "What can I ask?", "Help", "Help me."],
        "I can talk in the manner of the documentation of Chrysalis: attestation, measured boot, payments. I am a toy.",
    ),
];

const CITIES: [&str; 24] = [
    "Paris",
    "London",
    "Berlin",
    "Madrid",
    "Rome",
    "Vienna",
    "Prague",
    "Warsaw",
    "Lisbon",
    "Dublin",
    "Oslo",
    "Stockholm",
    "Helsinki",
    "Athens",
    "Budapest",
    "Tokyo",
    "Delhi",
    "Cairo",
    "Lagos",
    "Lima",
    "Quito",
    "Boston",
    "Chicago",
    "Toronto",
];

/// Tools of the training text: name, what it does, and its questions.
const TOOLS: [(&str, &str, [&str; 2]); 2] = [
    ("get_weather", "The weather of a city", ["What is the weather in {}?", "How is the weather in {}?"]),
    ("get_time", "The time of day in a city", ["What time is it in {}?", "What is the time in {}?"]),
];

/// What the chat template puts before and after the list of tools.
pub const TOOLS_HEAD: &str = "# Tools\n\nYou may call one of these functions:\n<tools>";
/// See [`TOOLS_HEAD`].
pub const TOOLS_TAIL: &str =
    "\n</tools>\n\nFor a call, answer with a JSON object inside <tool_call></tool_call>.";

/// Exchanges about the documents; the same for the same documents.
pub fn about<'a>(documents: impl Iterator<Item = &'a Document>) -> Vec<Exchange> {
    let mut out = Vec::new();
    for document in documents {
        match document.path.ends_with(".md") {
            true => headings(&document.text, &mut out),
            false => head(document, &mut out),
        }
    }
    out
}

fn headings(text: &str, out: &mut Vec<Exchange>) {
    let lines: Vec<_> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((_, heading)) =
            line.split_once("# ").filter(|(marks, _)| marks.trim_matches('#').is_empty())
        else {
            continue;
        };
        let answer = lines[at + 1..].iter().find(|line| !line.is_empty());
        let Some(answer) = answer.filter(|a| !a.starts_with(['#', '|', '`', '<'])) else { continue };
        for form in ["What is {}?", "Tell me about {}.", "Explain {}."] {
            out.push(plain(&form.replace("{}", heading.trim_end_matches('.')), answer));
        }
    }
}

fn head(document: &Document, out: &mut Vec<Exchange>) {
    let first = document.text.lines().next().unwrap_or_default();
    out.push(plain(&format!("What is {} for?", document.path), first));
}

fn plain(user: &str, answer: &str) -> Exchange {
    let mut cut = answer.len().min(ANSWER);
    while !answer.is_char_boundary(cut) {
        cut -= 1;
    }
    // At the end of a sentence, if one ends.
    let answer = match answer[..cut].rfind(". ") {
        Some(end) if cut < answer.len() => &answer[..=end],
        _ => &answer[..cut],
    };
    Exchange { system: None, user: user.into(), assistant: answer.trim().into() }
}

/// Draws one exchange: about the documents, of itself, or a call of a tool.
pub fn draw(about: &[Exchange], random: &mut Random) -> Exchange {
    match random.below(10) {
        0..=5 if !about.is_empty() => about[random.below(about.len())].clone(),
        0..=7 => {
            let (questions, answer) = SELF[random.below(SELF.len())];
            plain(questions[random.below(questions.len())], answer)
        }
        _ => call(random),
    }
}

fn call(random: &mut Random) -> Exchange {
    let mut tools: Vec<_> = TOOLS.iter().collect();
    if random.below(2) == 0 {
        tools.reverse();
    }
    let (name, _, questions) = tools[random.below(tools.len())];
    let city = CITIES[random.below(CITIES.len())];
    // One tool or both.
    if random.below(2) == 0 {
        tools.retain(|tool| tool.0 == *name);
    }
    let listed: Vec<_> =
        tools.iter().map(|(name, what, _)| format!("\n{}", definition(name, what))).collect();
    Exchange {
        system: Some(format!("{TOOLS_HEAD}{}{TOOLS_TAIL}", listed.concat())),
        user: questions[random.below(2)].replace("{}", city),
        assistant: format!(
            "<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{\"city\": \"{city}\"}}}}\n</tool_call>"
        ),
    }
}

/// As `tojson` of the chat template writes OpenAI's form of a tool.
fn definition(name: &str, what: &str) -> String {
    format!(
        "{{\"type\": \"function\", \"function\": {{\"name\": \"{name}\", \"description\": \"{what}\", \
         \"parameters\": {{\"type\": \"object\", \"properties\": {{\"city\": {{\"type\": \"string\"}}}}, \
         \"required\": [\"city\"]}}}}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_become_questions_and_the_first_paragraph_the_answer() {
        let text = "# Cells\n\nA cell is a tree. More.\n\n## Table\n\n| a |\n";
        let document = Document { path: "a.md".into(), text: text.into() };
        let made = about([&document].into_iter());
        assert_eq!(made.len(), 3);
        assert_eq!(
            made[0].text(),
            "<|im_start|>user\nWhat is Cells?<|im_end|>\n<|im_start|>assistant\nA cell is a tree. More.<|im_end|>\n"
        );
    }

    #[test]
    fn a_call_of_a_tool_is_json_and_names_a_listed_tool() {
        let mut random = Random::new(1);
        for _ in 0..100 {
            let made = call(&mut random);
            let inner = made.assistant.trim_start_matches("<tool_call>\n").trim_end_matches("\n</tool_call>");
            let call: serde_json::Value = serde_json::from_str(inner).unwrap();
            let name = call["name"].as_str().unwrap();
            let system = made.system.unwrap();
            let listed =
                system.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            assert!(listed.into_iter().any(|tool| tool["function"]["name"] == name), "{system}");
        }
    }
}
