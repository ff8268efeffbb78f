//! The few words of QMP that supervising takes (QEMU Machine Protocol specification): one connection a command.
//!
//! QEMU answers one client at a time and holds others in its queue, so short connections need no lock between threads.

use crate::error::LaunchError;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddrV4;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest message that is read, in bytes.
const MAX_MESSAGE: u64 = 1024 * 1024;
/// Most messages (events) read while an answer is awaited.
const MAX_MESSAGES: usize = 256;
/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs one command with its arguments, returns what QEMU returned.
pub fn call(socket: &Path, command: &str, arguments: Value) -> Result<Value, LaunchError> {
    let refuse = |reason: String| LaunchError::Monitor { command: command.into(), reason };
    let io = |e: std::io::Error| refuse(format!("{e}; is QEMU still running?"));
    let mut stream = UnixStream::connect(socket).map_err(io)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
    let mut reader = BufReader::new(stream.try_clone().map_err(io)?);
    let greeting = message(&mut reader).map_err(refuse)?;
    if greeting.get("QMP").is_none() {
        return Err(refuse("the first message is no QMP greeting".into()));
    }
    let mut ask = |request: Value| -> Result<Value, String> {
        stream.write_all(format!("{request}\n").as_bytes()).map_err(|e| e.to_string())?;
        answer(&mut reader)
    };
    ask(json!({"execute": "qmp_capabilities"})).map_err(refuse)?;
    ask(json!({"execute": command, "arguments": arguments})).map_err(refuse)
}

/// Where QEMU's user network really listens (it may have been told port 0).
pub fn forwarded(socket: &Path) -> Result<SocketAddrV4, LaunchError> {
    let command = "human-monitor-command";
    let table = call(socket, command, json!({"command-line": "info usernet"}))?;
    let text = table.as_str().unwrap_or_default();
    listening(text).ok_or_else(|| LaunchError::Monitor {
        command: "info usernet".into(),
        reason: format!("no forwarded port in {text:?}; is this QEMU 10.0 or newer?"),
    })
}

/// Reads `TCP[HOST_FORWARD]  14       127.0.0.1 33499 ...`.
fn listening(table: &str) -> Option<SocketAddrV4> {
    let row = table.lines().find(|l| l.trim_start().starts_with("TCP[HOST_FORWARD]"))?;
    let mut words = row.split_whitespace().skip(2);
    let (ip, port) = (words.next()?, words.next()?);
    Some(SocketAddrV4::new(ip.parse().ok()?, port.parse().ok()?))
}

/// The answer to the last request; events before it are skipped.
fn answer(reader: &mut impl BufRead) -> Result<Value, String> {
    for _ in 0..MAX_MESSAGES {
        let mut message = message(reader)?;
        if let Some(value) = message.get_mut("return") {
            return Ok(value.take());
        }
        if let Some(error) = message.get("error") {
            return Err(format!(
                "refused: {}",
                error.get("desc").and_then(Value::as_str).unwrap_or("no reason given")
            ));
        }
    }
    Err(format!("no answer among {MAX_MESSAGES} messages"))
}

fn message(reader: &mut impl BufRead) -> Result<Value, String> {
    let mut line = Vec::new();
    reader.take(MAX_MESSAGE).read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
    if line.is_empty() {
        return Err("the monitor closed the connection".into());
    }
    serde_json::from_slice(&line).map_err(|e| format!("not JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    /// A monitor that says each line of `script` after each line it hears (the first unasked).
    fn monitor(dir: &Path, script: &'static [&'static str]) -> PathBuf {
        let path = dir.join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut heard = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            for line in script {
                stream.write_all(format!("{line}\n").as_bytes()).unwrap();
                heard.read_line(&mut String::new()).unwrap();
            }
        });
        path
    }

    #[test]
    fn events_before_the_answer_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let script = &[
            r#"{"QMP":{}}"#,
            r#"{"return":{}}"#,
            "{\"event\":\"SHUTDOWN\"}\n{\"return\":{\"running\":true}}",
        ];
        let value = call(&monitor(dir.path(), script), "query-status", json!({})).unwrap();
        assert_eq!(value["running"], true);
    }

    #[test]
    fn a_refused_command_carries_qemus_reason() {
        let dir = tempfile::tempdir().unwrap();
        let script = &[r#"{"QMP":{}}"#, r#"{"return":{}}"#, r#"{"error":{"class":"X","desc":"not found"}}"#];
        let error = call(&monitor(dir.path(), script), "fly", json!({})).unwrap_err().to_string();
        assert_eq!(error, "QEMU's monitor, command `fly`: refused: not found");
    }

    #[test]
    fn the_chosen_port_is_read_from_the_table() {
        let table = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                     TCP[HOST_FORWARD]  14       127.0.0.1 33499       10.0.2.15  8443     0     0\r\n";
        assert_eq!(listening(table), Some("127.0.0.1:33499".parse().unwrap()));
        assert_eq!(listening("nothing"), None);
    }
}
