//! NVIDIA's admin tool: pinned, copied, run on one device, and believed only if it says what it says when it succeeds.
//!
//! github.com/NVIDIA/gpu-admin-tools, `nvidia_gpu_tools.py` with the packages beside it; words of its output as in
//! `cli/per_gpu.py` and `cli/per_gpu_nvswitch.py` of v2026.02.24. It has no releases that are signed, so whoever uses it
//! pins a copy that he looked at. Not validated on hardware.

use super::chip::{Kind, Mode};
use super::error::GpuError;
use measure::Digest256;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const SCRIPT: &str = "nvidia_gpu_tools.py";
/// A change of mode takes seconds.
const RUN: Duration = Duration::from_secs(90);
/// More than it ever prints.
const MAX_OUTPUT: u64 = 256 << 10;
const MAX_FILES: usize = 2000;
const MAX_BYTES: usize = 64 << 20;

/// Stores modes in devices.
pub trait Admin: Send + Sync {
    /// Stores `mode`, which becomes active with a reset.
    fn set_mode(&self, address: &str, kind: Kind, mode: Mode, before: Option<Mode>) -> Result<(), GpuError>;
}

/// The tool's source, in memory, with its pin.
#[derive(Debug, Clone)]
pub struct Source {
    files: Vec<(PathBuf, Vec<u8>)>,
    pin: Digest256,
}

impl Source {
    /// Reads all Python files below a folder that has the script.
    pub fn read(dir: &Path) -> Result<Self, GpuError> {
        let mut files = Vec::new();
        collect(dir, Path::new(""), &mut files).map_err(|why| refused(dir, &why))?;
        files.sort();
        if !files.iter().any(|(name, _)| name == Path::new(SCRIPT)) {
            return Err(refused(dir, &format!("there is no {SCRIPT} in it")));
        }
        let list: String = files.iter().fold(String::new(), |mut list, (name, bytes)| {
            // A string takes everything.
            let _ = writeln!(list, "{}  {}", Digest256::of(bytes), name.display());
            list
        });
        Ok(Source { files, pin: Digest256::of(list.as_bytes()) })
    }

    /// SHA-256 over the list `SHA-256  NAME` of its files.
    pub fn pin(&self) -> Digest256 {
        self.pin
    }
}

fn refused(dir: &Path, why: &str) -> GpuError {
    let fix = "name a copy of github.com/NVIDIA/gpu-admin-tools";
    GpuError::Refused { reason: format!("{}: {why}; {fix}", dir.display()) }
}

/// Python files in a folder and those below it; links are not followed.
fn collect(dir: &Path, below: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<(), String> {
    for entry in std::fs::read_dir(dir.join(below)).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let name = below.join(entry.file_name());
        let kind = entry.file_type().map_err(|e| e.to_string())?;
        if kind.is_dir()
            && !entry.file_name().to_string_lossy().starts_with(['.', '_'])
            && below.components().count() < 8
        {
            collect(dir, &name, files)?;
        } else if kind.is_file() && name.extension().is_some_and(|e| e == "py") {
            let bytes = std::fs::read(entry.path()).map_err(|e| e.to_string())?;
            let whole: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
            if files.len() >= MAX_FILES || whole + bytes.len() > MAX_BYTES {
                return Err("it has more files than that tool".into());
            }
            files.push((name, bytes));
        }
    }
    Ok(())
}

/// The tool, ready to run: a copy of what was pinned, in a folder of its own.
#[derive(Debug)]
pub struct Tool {
    dir: PathBuf,
    interpreter: PathBuf,
}

impl Tool {
    /// Writes what was read into `dir`, if it is what is pinned.
    pub fn unpack(source: &Source, pin: &Digest256, dir: &Path) -> Result<Self, GpuError> {
        if source.pin != *pin {
            let found = source.pin;
            let reason = format!(
                "NVIDIA's admin tool is {found}, and {pin} is pinned; look at what changed, then pin it anew"
            );
            return Err(GpuError::Refused { reason });
        }
        let fault = |path: &Path, source| GpuError::State { path: path.into(), source };
        if let Err(e) = std::fs::remove_dir_all(dir)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(fault(dir, e));
        }
        for (name, bytes) in &source.files {
            let path = dir.join(name);
            let parent = path.parent().unwrap_or(dir);
            std::fs::create_dir_all(parent).map_err(|e| fault(parent, e))?;
            std::fs::write(&path, bytes).map_err(|e| fault(&path, e))?;
        }
        Ok(Tool { dir: dir.into(), interpreter: "/usr/bin/python3".into() })
    }

    /// Another interpreter than `/usr/bin/python3`.
    pub fn with_interpreter(mut self, interpreter: impl Into<PathBuf>) -> Self {
        self.interpreter = interpreter.into();
        self
    }

    /// Runs it to its end; what it said, both streams together.
    fn run(&self, words: &[String]) -> Result<String, String> {
        let (reader, writer) = std::io::pipe().map_err(|e| e.to_string())?;
        let errors = writer.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new(&self.interpreter);
        command.arg(self.dir.join(SCRIPT)).args(words).current_dir(&self.dir).env_clear().process_group(0);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(writer).stderr(errors);
        let mut child =
            command.spawn().map_err(|e| format!("{} does not start: {e}", self.interpreter.display()))?;
        // Its copies of the pipe's writing end go with it.
        drop(command);
        let (send, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = reader.take(MAX_OUTPUT).read_to_end(&mut bytes);
            // Nobody waits any more after the deadline.
            let _ = send.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()));
        });
        let said = output.recv_timeout(RUN);
        if said.is_err()
            && let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended meanwhile, which is what is wanted.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let status = child.wait().map_err(|e| e.to_string())?;
        let said = match said {
            Ok(Ok(said)) => said,
            Ok(Err(e)) => return Err(e.to_string()),
            Err(_) => return Err(format!("no end after {} s; it was ended", RUN.as_secs())),
        };
        if status.success() { Ok(said) } else { Err(format!("{status}: {}", last_line(&said))) }
    }
}

impl Admin for Tool {
    fn set_mode(&self, address: &str, kind: Kind, mode: Mode, before: Option<Mode>) -> Result<(), GpuError> {
        let tool = |reason: String| GpuError::Tool { address: address.into(), reason };
        for (words, promise) in runs(address, kind, mode, before).map_err(tool)? {
            let said = self.run(&words).map_err(tool)?;
            believe(&said, address, &promise).map_err(tool)?;
        }
        Ok(())
    }
}

/// Arguments of each run, and the words that say that it worked.
fn runs(
    address: &str,
    kind: Kind,
    mode: Mode,
    before: Option<Mode>,
) -> Result<Vec<(Vec<String>, String)>, String> {
    let run = |option: &str, value: &str, promise: &str| {
        let words = [format!("--gpu-bdf={address}"), format!("{option}={value}"), "--log=info".into()];
        (words.to_vec(), promise.replace("{}", value))
    };
    let cc =
        |value: &str| run("--set-cc-mode", value, "CC mode set to {}. It will be active after GPU reset.");
    let ppcie = |value: &str| {
        run("--set-ppcie-mode", value, "PPCIe mode set to {}. It will be active after GPU or switch reset.")
    };
    let selects = |(mut words, promise): (Vec<String>, String)| {
        // `--gpu-bdf` selects GPUs only.
        words[0] = format!("--devices={address}");
        (words, promise)
    };
    if !kind.can(mode) {
        return Err(format!("this device can't be in mode {mode}"));
    }
    Ok(match (kind, mode) {
        (Kind::Switch, Mode::ProtectedPcie) => vec![selects(ppcie("on"))],
        (Kind::Switch, _) => vec![selects(ppcie("off"))],
        (_, Mode::On) => vec![cc("on")],
        (_, Mode::ProtectedPcie) => vec![ppcie("on")],
        // Setting one of the two to off leaves the other.
        _ if before == Some(Mode::ProtectedPcie) => vec![ppcie("off")],
        _ => vec![cc("off")],
    })
}

/// The tool succeeded if one line says so of this very device, and none says anything of an error.
fn believe(said: &str, address: &str, promise: &str) -> Result<(), String> {
    let bad = ["ERROR", "CRITICAL", "Traceback"];
    if let Some(line) = said.lines().find(|line| bad.iter().any(|word| line.contains(word))) {
        return Err(format!("it says `{}`", line.trim()));
    }
    let kept = said
        .lines()
        .filter(|line| {
            line.split_whitespace().any(|word| word == address) && line.trim_end().ends_with(promise)
        })
        .count();
    match kept {
        1 => Ok(()),
        0 => Err(format!("it does not say `{promise}`; its last line is `{}`", last_line(said))),
        _ => Err(format!("it says `{promise}` {kept} times")),
    }
}

fn last_line(said: &str) -> String {
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    line.trim().chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As posted in NVIDIA/nvtrust issue 55, with the mode that was set there.
    const SAID: &str = "NVIDIA GPU Tools version v2024.02.14o\n\
        Command line arguments: ['nvidia_gpu_tools.py', '--gpu-bdf=43:00.0', '--set-cc-mode=off', '--reset-after-cc-mode-switch']\n\
        2024-05-09,03:02:58.309 WARNING  GPU 0000:43:00.0 ? 0x2330 BAR0 0x0 was in D3, forced power control to on (prev auto). New state D0\n\
        Topo:\n     GPU 0000:43:00.0 H100-SXM 0x2330 BAR0 0xab042000000\n\
        2024-05-09,03:02:58.413 INFO     GPU 0000:43:00.0 H100-SXM 0x2330 BAR0 0xab042000000 CC mode set to off. It will be active after GPU reset.\n\
        2024-05-09,03:03:00.072 WARNING  GPU 0000:43:00.0 H100-SXM 0x2330 BAR0 0xab042000000 restoring power control to auto\n";
    const PROMISE: &str = "CC mode set to off. It will be active after GPU reset.";

    #[test]
    fn what_the_tool_really_said_is_believed_and_every_other_end_is_not() {
        assert_eq!(believe(SAID, "0000:43:00.0", PROMISE), Ok(()));
        for (said, word) in [
            (SAID.replace("set to off", "set to on"), "does not say"),
            (SAID.replace("43:00.0 H100", "44:00.0 H100"), "does not say"),
            (SAID.replace("WARNING  GPU", "ERROR    GPU"), "ERROR"),
            (format!("{SAID}Traceback (most recent call last):\n"), "Traceback"),
            (format!("{SAID}{SAID}"), "2 times"),
            (SAID.replace("reset.\n", "reset. Or not\n"), "does not say"),
            (String::new(), "does not say"),
        ] {
            assert!(believe(&said, "0000:43:00.0", PROMISE).unwrap_err().contains(word), "{said}");
        }
    }

    #[test]
    fn each_mode_has_its_words_and_devtools_none() {
        let gpu = Kind::of(0x2330, 0x30200).unwrap();
        let words =
            |kind, mode, before| runs("0000:43:00.0", kind, mode, before).map(|runs| runs[0].0[1].clone());
        assert_eq!(words(gpu, Mode::On, None).unwrap(), "--set-cc-mode=on");
        assert_eq!(words(gpu, Mode::Off, Some(Mode::On)).unwrap(), "--set-cc-mode=off");
        assert_eq!(words(gpu, Mode::Off, Some(Mode::ProtectedPcie)).unwrap(), "--set-ppcie-mode=off");
        assert_eq!(words(Kind::Switch, Mode::ProtectedPcie, None).unwrap(), "--set-ppcie-mode=on");
        assert!(words(gpu, Mode::Devtools, None).is_err() && words(Kind::Switch, Mode::On, None).is_err());
    }

    fn source(script: &str) -> (tempfile::TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cli")).unwrap();
        std::fs::write(dir.path().join("cli/core.py"), "# beside").unwrap();
        std::fs::write(dir.path().join(SCRIPT), script).unwrap();
        let source = Source::read(dir.path()).unwrap();
        (dir, source)
    }

    #[test]
    fn a_tool_that_is_not_the_pinned_one_is_not_even_written() {
        let (dir, pinned) = source("echo x");
        std::fs::write(dir.path().join("cli/core.py"), "# changed").unwrap();
        let changed = Source::read(dir.path()).unwrap();
        let copy = dir.path().join("copy");
        let refused = Tool::unpack(&changed, &pinned.pin(), &copy).unwrap_err().to_string();
        assert!(refused.contains("pin it anew") && !copy.exists(), "{refused}");
        assert!(Source::read(&dir.path().join("cli")).unwrap_err().to_string().contains(SCRIPT));
    }

    #[test]
    fn the_pinned_copy_is_run_and_what_it_says_and_returns_decides() {
        let gpu = Kind::of(0x2330, 0x30200).unwrap();
        let line = "INFO GPU 0000:43:00.0 H100 CC mode set to on. It will be active after GPU reset.";
        let check = "[ \"$1 $2\" = '--gpu-bdf=0000:43:00.0 --set-cc-mode=on' ] || exit 9";
        for (script, word) in [
            (format!("{check}\necho '{line}'"), ""),
            (format!("echo '{line}'; exit 3"), "exit status: 3"),
            ("echo 'ERROR no device' >&2".into(), "no device"),
            (format!("echo '{line}' | head -c 40"), "does not say"),
        ] {
            let (dir, source) = source(&script);
            let tool = Tool::unpack(&source, &source.pin(), &dir.path().join("copy"))
                .unwrap()
                .with_interpreter("/bin/sh");
            // The original is of no matter once it was read.
            std::fs::write(dir.path().join(SCRIPT), "exit 99").unwrap();
            let done = tool.set_mode("0000:43:00.0", gpu, Mode::On, Some(Mode::Off));
            match done {
                Ok(()) => assert!(word.is_empty(), "{script}"),
                Err(e) => assert!(!word.is_empty() && e.to_string().contains(word), "{script}: {e}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_output_makes_the_tool_be_believed_but_its_promise(said in "\\PC{0,200}") {
            prop_assert!(believe(&said, "0000:43:00.0", PROMISE).is_err());
        }
    }
}
