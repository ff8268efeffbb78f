//! Tests that hold the book to the command line: the reference of every command is what the code says, and the commands of the
//! how-tos parse.
//!
//! `CHRYSALIS_WRITE_BOOK=1 cargo test -p chrysalis book` writes the reference anew.

#[path = "../tests/support/pages.rs"]
mod pages;

use crate::Args;
use clap::{Arg, ArgAction, Command, CommandFactory};
use std::fmt::Write;

const PAGE: &str = "docs/reference/commands.md";
const HEAD: &str = "# Commands\n\n\
    Every command of `chrysalis`, as the program itself describes it: this page is written by a test and held against the code by it.\n\n\
    Exit codes are the same everywhere: 0 fine, 1 a mismatch or a refusal, 2 bad input or a failure of the machine. Each command takes\n\
    `--json`: facts as JSON on standard output, progress on standard error. The programs of a guest (`chrysalis-worker` and those before\n\
    it) are started by its units alone and are described with them; `cargo xtask --help` lists the tasks of the house.\n";

/// The page, from the tree of commands.
fn page() -> String {
    let mut root = Args::command();
    root.build();
    let mut out = HEAD.to_owned();
    section(&mut out, &root, "");
    out
}

/// One command and those below it.
fn section(out: &mut String, command: &Command, above: &str) {
    let name = format!("{above}{}", command.get_name());
    if !above.is_empty() {
        describe(out, command, &name);
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        section(out, below, &format!("{name} "));
    }
}

fn describe(out: &mut String, command: &Command, name: &str) {
    let level = if name.matches(' ').count() == 1 { "##" } else { "###" };
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let aliases: Vec<_> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    let also = if aliases.is_empty() { String::new() } else { format!(" Also {}.", aliases.join(", ")) };
    write!(out, "\n{level} {name}\n\n{}.{also}\n", cell(&about)).expect("a string takes it");
    let options: Vec<_> = command.get_arguments().filter(|a| !is_everywhere(a)).collect();
    if !options.is_empty() {
        out.push_str("\n| option | | what |\n|---|---|---|\n");
    }
    for option in options {
        let (what, values) = (meaning(option), notes(option));
        writeln!(out, "| `{}` | {values} | {what} |", spelled(option)).expect("a string takes it");
    }
}

/// `--json`, `--help` and `--version` are told once.
fn is_everywhere(arg: &Arg) -> bool {
    arg.is_hide_set() || ["json", "help", "version"].contains(&arg.get_id().as_str())
}

fn spelled(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_value_names().unwrap_or_default().iter().map(|v| format!("<{v}>")).collect();
    let long = arg.get_long().map(|long| format!("--{long}"));
    let takes = arg.get_action().takes_values().then(|| values.join(" "));
    let words: Vec<_> = [long, takes].into_iter().flatten().collect();
    cell(&words.join(" "))
}

/// Whether it is needed, repeats, and what stands for it.
fn notes(arg: &Arg) -> String {
    let mut out = Vec::new();
    if arg.is_required_set() {
        out.push("needed".to_owned());
    }
    if matches!(arg.get_action(), ArgAction::Append) {
        out.push("repeats".to_owned());
    }
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        out.push(format!("else {}", defaults.join(", ")));
    }
    out.join("; ")
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let values: Vec<_> = arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
    let named = arg.get_action().takes_values() && !values.is_empty();
    let values = if named { format!(" One of {}.", values.join(", ")) } else { String::new() };
    cell(&format!("{}.{values}", help.trim_end_matches('.')))
}

/// Text as it stands in a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// Words of each command of `program` in a block of `sh`, the program first, as a shell splits them; what is behind a pipe or a
/// redirection is left out.
fn commands(text: &str, program: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let starts =
        |line: &&str| line.strip_prefix(program).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    joined.lines().filter(starts).map(words).collect()
}

fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => out.extend(word.take()),
            ('|' | '>' | '&' | ';', None) => break,
            ('#', None) if word.is_none() => break,
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

#[test]
fn the_reference_of_every_command_is_what_the_code_says() {
    let file = pages::root().join(PAGE);
    if std::env::var_os("CHRYSALIS_WRITE_BOOK").is_some() {
        std::fs::write(&file, page()).expect("the page is written");
    }
    let stands = std::fs::read_to_string(&file).unwrap_or_default();
    let (expected, found) = (page(), stands);
    let line = expected.lines().zip(found.lines()).position(|(a, b)| a != b);
    assert!(
        expected == found,
        "{PAGE} is stale from line {}; write it anew: CHRYSALIS_WRITE_BOOK=1 cargo test -p chrysalis book",
        line.map_or(expected.lines().count().min(found.lines().count()), |line| line + 1)
    );
}

#[test]
fn every_command_of_the_how_tos_parses() {
    let (mut seen, mut bad) = (0, Vec::new());
    for (name, text) in pages::how_tos() {
        for block in pages::blocks(&text).iter().filter(|block| block.language() == "sh") {
            for words in commands(&block.text, "chrysalis") {
                seen += 1;
                if let Err(why) = Args::command().try_get_matches_from(&words) {
                    bad.push(format!("{name}:{}: {}: {why}", block.line, words.join(" ")));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(seen >= 30, "only {seen} commands were found");
}

#[test]
fn a_command_that_does_not_exist_would_be_noticed() {
    let text = "chrysalis release \\\n  verify --mirror 'a b' --settings s --colour | less # x\ncurl x\n";
    let found = commands(text, "chrysalis");
    assert_eq!(found, [["chrysalis", "release", "verify", "--mirror", "a b", "--settings", "s", "--colour"]]);
    assert!(Args::command().try_get_matches_from(&found[0]).is_err());
    assert!(Args::command().try_get_matches_from(&found[0][..7]).is_ok());
}

#[test]
fn settings_of_machines_on_the_how_tos_are_read_by_the_launcher() {
    let mut seen = 0;
    for (name, text) in pages::how_tos() {
        let blocks = pages::blocks(&text);
        let launched = blocks.iter().flat_map(|block| commands(&block.text, "chrysalis launch"));
        let named: Vec<_> = launched
            .filter_map(|words| words.iter().skip_while(|w| *w != "--settings").nth(1).cloned())
            .collect();
        for block in
            blocks.iter().filter(|b| named.iter().any(|file| b.info.contains(&format!("file={file}"))))
        {
            seen += 1;
            if let Err(why) = launcher::settings::Fragment::parse(&name, &block.text) {
                panic!("{name}:{}: {why}", block.line);
            }
        }
    }
    assert!(seen >= 1, "no settings were found");
}
