//! A program that computes on demand: ours or a peer's, told by lines on its standard input.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What a program says when it is ready.
#[derive(Debug, Clone, Deserialize)]
struct Hello {
    ready: Ready,
    versions: BTreeMap<String, String>,
}

/// What loading took.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Ready {
    /// Seconds from the first line of its own program.
    pub wall: f64,
    /// Processor seconds of all its threads.
    pub cpu: f64,
}

/// What a task took.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Taken {
    /// Seconds.
    pub wall: f64,
    /// Processor seconds of all its threads.
    pub cpu: f64,
    /// Tokens, texts or bytes.
    pub count: f64,
    /// Bytes of resident memory behind it.
    pub rss: f64,
}

/// A running program; it ends when this is dropped.
pub struct Program {
    name: String,
    child: Child,
    tasks: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What loading took.
    pub ready: Ready,
    /// What computes, by name.
    pub versions: BTreeMap<String, String>,
}

impl Program {
    /// Starts it and waits until it is ready.
    pub fn start(name: &str, command: &mut Command) -> Result<Program> {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name}: {shown} does not start"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (tasks, answers) = pipes.context("a child without its pipes")?;
        let ready = Ready { wall: f64::NAN, cpu: f64::NAN };
        let answers = BufReader::new(answers);
        let mut program =
            Program { name: name.into(), child, tasks, answers, ready, versions: BTreeMap::new() };
        let hello: Hello = program.line()?;
        (program.ready, program.versions) = (hello.ready, hello.versions);
        Ok(program)
    }

    /// Has one task computed.
    pub fn task(&mut self, task: &str) -> Result<Taken> {
        self.ask(task)
    }

    /// The same where the answer is of another kind.
    pub fn ask<T: for<'a> Deserialize<'a>>(&mut self, task: &str) -> Result<T> {
        writeln!(self.tasks, "{task}").with_context(|| format!("{}: takes no task any more", self.name))?;
        self.line().with_context(|| format!("{}: {task}", self.name))
    }

    fn line<T: for<'a> Deserialize<'a>>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line).with_context(|| format!("{}: can't be read", self.name))?;
        if line.is_empty() {
            bail!("{}: ended without an answer; what it said is above", self.name);
        }
        serde_json::from_str(&line).with_context(|| format!("{}: said {line}", self.name))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nothing is lost with it, and one that has ended already is no trouble.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Program> {
        Program::start("shell", Command::new("sh").args(["-c", script]))
    }

    const READY: &str = r#"echo '{"ready": {"wall": 1.5, "cpu": 1, "rss": 7}, "versions": {"sh": "1"}}'; "#;

    #[test]
    fn a_program_answers_line_by_line() {
        let answer = r#"while read n; do echo '{"wall": 2, "cpu": 1, "count": '$n', "rss": 4096}'; done"#;
        let mut program = shell(&format!("{READY}{answer}")).unwrap();
        assert_eq!((program.ready.wall, program.versions["sh"].as_str()), (1.5, "1"));
        assert_eq!(program.task("8").unwrap().count, 8.0);
        assert_eq!(program.task("9").unwrap().count, 9.0);
    }

    #[test]
    fn a_program_that_ends_or_talks_nonsense_is_named() {
        let ended = shell("true").err().unwrap();
        assert!(format!("{ended:#}").contains("shell: ended without an answer"), "{ended:#}");
        let nonsense = shell("echo hello; cat").err().unwrap();
        assert!(format!("{nonsense:#}").contains("said hello"), "{nonsense:#}");
        let mut program = shell(&format!("{READY}read task; echo '{{}}'; cat")).unwrap();
        assert!(format!("{:#}", program.task("decode 3").unwrap_err()).contains("decode 3"));
    }
}
