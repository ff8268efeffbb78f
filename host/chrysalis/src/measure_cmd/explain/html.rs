//! The page: one file, no requests, no scripts; registers as lanes with their events as blocks.
//!
//! Everything on it may come from an attacker: names out of a log, paths out of a folder. So text enters the page through
//! [`text`] alone, which escapes it, and the page forbids scripts and requests to itself (Content-Security-Policy).

use measure::Register;
use measure::explain::{EventReport, EventStatus, Explanation, RegisterReport, Verdict, Word};
use std::fmt::Write;

const STYLE: &str = include_str!("html/style.css");

/// The whole page.
pub fn page(explanation: &Explanation) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let state = if explanation.equal { "equal" } else { "differs" };
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head>\n<body class=\"{state}\"><header>\
         <p class=\"brand\">chrysalis measure explain</p><h1>{}</h1>{}</header>\n<main>",
        if explanation.equal { "As expected" } else { "Not as expected" },
        text(&explanation.headline),
        chips(explanation),
    );
    summary(&mut out, explanation);
    out.push_str("<section class=\"lanes\"><h2>Registers, in measurement order</h2>");
    out.push_str(LEGEND);
    explanation.registers.iter().for_each(|register| lane(&mut out, register));
    out.push_str("</section>");
    files(&mut out, explanation);
    out.push_str("</main></body></html>\n");
    out
}

const LEGEND: &str = "<p class=\"legend\"><span class=\"k same\">as foretold</span>\
    <span class=\"k changed\">changed</span><span class=\"k missing\">missing</span>\
    <span class=\"k unexpected\">not expected</span><span class=\"k open\">nothing to compare with</span>\
    <span class=\"hint\">open a block to see its bytes</span></p>";

/// Escapes text for element content and quoted attributes.
fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push('\n'),
            // Control characters and marks that turn the direction of writing.
            c if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

fn chips(explanation: &Explanation) -> String {
    let mut out = String::from("<p class=\"chips\">");
    for fact in explanation.facts.iter().filter(|fact| fact.axis.name() != "command line") {
        let class = if fact.departs() { "chip off" } else { "chip" };
        let expected = fact.expected.as_ref().map_or(String::new(), |e| format!("<s>{}</s>", text(e)));
        let _ = write!(
            out,
            "<span class=\"{class}\"><b>{}</b>{} {expected}</span>",
            fact.axis.name(),
            text(&fact.found)
        );
    }
    if let Some(log) = &explanation.log {
        let (class, says) = if log.replays { ("chip", "adds up") } else { ("chip off", "does not add up") };
        let _ = write!(out, "<span class=\"{class}\"><b>event log</b>{} events, {says}</span>", log.events);
    }
    out + "</p>"
}

fn summary(out: &mut String, explanation: &Explanation) {
    out.push_str(
        "<section><table><thead><tr><th>Register<th>Verdict<th>What it is<th>Value</tr></thead><tbody>",
    );
    for register in &explanation.registers {
        let found = register.found.map_or("-".to_owned(), |digest| digest.to_string());
        let mut value = format!("<code title=\"{found}\">{}</code>", short(&found));
        if let Some(expected) =
            register.expected.filter(|e| Some(*e) != register.found && register.found.is_some())
        {
            let _ = write!(
                value,
                "<br><small>expected</small> <code title=\"{expected}\">{}</code>",
                short(&expected.to_string())
            );
        }
        let _ = write!(
            out,
            "<tr class=\"{}\"><th>{}<td><span class=\"verdict\">{}</span><td>{}<td>{value}</tr>",
            class_of(register.verdict),
            register.register,
            register.verdict.name(),
            text(&register.text),
        );
    }
    out.push_str("</tbody></table></section>");
}

fn class_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Equal => "good",
        Verdict::Runtime | Verdict::NotShown => "quiet",
        Verdict::Explained | Verdict::Located => "known",
        Verdict::Unexplained => "bad",
    }
}

fn short(digest: &str) -> String {
    if digest.len() > 24 {
        format!("{}...{}", &digest[..12], &digest[digest.len() - 6..])
    } else {
        digest.to_owned()
    }
}

/// Differing blocks of a lane that are open from the start, if they are no more than these.
const OPEN_AT_MOST: usize = 3;

fn lane(out: &mut String, register: &RegisterReport) {
    let differing = register.differences().count();
    let note = match (register.events.len(), differing) {
        (0, _) => String::new(),
        (all, 0) => format!("{all} events"),
        (all, some) => format!("{all} events, {some} differ"),
    };
    let class = class_of(register.verdict);
    let _ = write!(out, "<div class=\"lane {class}\"><h3>{}<small>{note}</small></h3>", register.register);
    if register.events.is_empty() {
        let none = match register.register {
            Register::Mrtd => "measured page by page while the machine was built; there are no events",
            Register::Rtmr3 => "left to the guest; no events are at hand",
            _ => "no events are at hand",
        };
        let _ = write!(out, "<p class=\"none\">{none}</p></div>");
        return;
    }
    out.push_str("<ol>");
    let open = differing <= OPEN_AT_MOST;
    register.events.iter().for_each(|event| block(out, event, open));
    out.push_str("</ol></div>");
}

fn block(out: &mut String, event: &EventReport, open: bool) {
    let class = match event.status {
        EventStatus::Same => "same",
        EventStatus::Changed => "changed",
        EventStatus::Missing => "missing",
        EventStatus::Unexpected => "unexpected",
        EventStatus::Open => "open",
    };
    let open = if open && class != "same" && class != "open" { " open" } else { "" };
    let _ = write!(
        out,
        "<li class=\"{class}\"><details{open}><summary>{}</summary><div class=\"body\">",
        text(&event.name)
    );
    for why in &event.why {
        let _ = write!(out, "<p class=\"why\">{}</p>", text(why));
    }
    if !event.words.is_empty() {
        out.push_str("<p class=\"words\">");
        event.words.iter().for_each(|word| out.push_str(&marked(word)));
        out.push_str("</p>");
    }
    let same = event.expected_text == event.found_text;
    let shown =
        [(if same { "bytes" } else { "expected" }, &event.expected_text), ("found", &event.found_text)];
    for (name, bytes) in shown.into_iter().take(if same { 1 } else { 2 }) {
        if let Some(bytes) = bytes {
            let _ = write!(out, "<h4>{name}</h4><pre>{}</pre>", text(bytes));
        }
    }
    for (name, digest) in [("expected", event.expected), ("found", event.found)] {
        if let Some(digest) = digest.filter(|_| name == "found" || event.expected != event.found) {
            let _ = write!(out, "<p class=\"digest\"><small>{name}</small><code>{digest}</code></p>");
        }
    }
    if let Some(position) = event.position {
        let _ = write!(out, "<p class=\"digest\"><small>event {position} of the log</small></p>");
    }
    out.push_str("</div></details></li>");
}

fn marked(word: &Word) -> String {
    match word {
        Word::Same(word) => format!("{} ", text(word)),
        Word::Removed(word) => format!("<del>{}</del> ", text(word)),
        Word::Added(word) => format!("<ins>{}</ins> ", text(word)),
    }
}

fn files(out: &mut String, explanation: &Explanation) {
    if explanation.artifacts.is_empty() {
        return;
    }
    out.push_str("<section><details><summary class=\"plain\">Artifacts</summary><table class=\"files\">");
    for file in &explanation.artifacts {
        let fault = file.fault.as_ref().map_or(String::new(), |fault| format!(": {}", text(fault)));
        let _ = write!(out, "<tr><td><code>{}</code><td>{}{fault}</tr>", text(&file.path), file.kind.name());
    }
    out.push_str("</table></details></section>");
}
