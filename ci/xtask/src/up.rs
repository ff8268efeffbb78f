//! `cargo xtask up`: from nothing to a verified answer, on the simulated platform.

use crate::host;
use crate::steps::{House, MODEL, Steps, TOY, shown};
use anyhow::{Context, Result, bail};
use builder::Profile;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Most tokens of the toy's answer: the machine is emulated.
const TOY_TOKENS: &str = "60";

/// Options of `up`.
#[derive(clap::Args)]
pub struct Args {
    /// What to ask the worker for an embedding of.
    #[arg(long, default_value = "The chrysalis opens.")]
    text: String,
    /// What to ask the toy model.
    #[arg(long, default_value = "Who are you?")]
    question: String,
    /// Boot through the disk's EFI partition instead of handing the kernel image to the firmware.
    #[arg(long)]
    disk: bool,
    /// Leave the machine running until Ctrl-C.
    #[arg(long)]
    stay: bool,
}

/// Runs all steps; idempotent.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut steps = Steps::new(7);
    steps.next("Tools: a locked Debian root, so that every host builds the same bytes");
    let house = House::open(root)?;
    steps.done("tools root ready");

    steps.next("Front door: compiling `chrysalis` for this host");
    let chrysalis = front_door(root)?;
    steps.done(&chrysalis.display().to_string());

    steps.next("Image: debug profile (worker, proxy, and the TDX simulator that no release has)");
    let image = house.out(Profile::Debug.name());
    shown(Command::new(&chrysalis).args(["image", "build", "--profile", "debug"]).current_dir(root))?;
    steps.done("image built");

    steps.next(
        "Models: all-MiniLM-L6-v2 and the toy of this repository, each a read-only disk with a root hash",
    );
    let pack = |name: &str, folder: &Path| {
        let disk = house.out("models").join(name);
        let mut command = Command::new(&chrysalis);
        shown(command.args(["model", "pack", "--name", name, "--out"]).arg(&disk).arg(folder)).map(|()| disk)
    };
    let disks = [pack(MODEL, &house.model_folder()?)?, pack(TOY, &house.toy_folder())?];
    steps.done("models packed");

    steps.next("Platform: keys of a SIMULATED TDX platform (first run only)");
    let platform = house.simulated_platform("demo")?;
    steps.done("simulated platform ready; it proves nothing about hardware");

    steps.next("Boot: foretell the measurements, then start the machine (software emulation)");
    let run = house.out("run/demo");
    let mut guest = Guest::launch(&chrysalis, &image, &disks, &platform, &run, args)?;
    steps.done("the machine serves");

    steps.next("Verify, then ask");
    let on = |subcommand: &str| {
        let mut command = Command::new(&chrysalis);
        command.arg(subcommand).arg("--run").arg(&run);
        command
    };
    shown(&mut on("verify"))?;
    shown(on("embed").args(["--model", MODEL]).arg(&args.text))?;
    eprintln!(
        "      And a chat answer, by a TOY model of two million weights; it is no good, but it is served as any other:"
    );
    shown(on("chat").args(["--model", TOY, "--most", TOY_TOKENS]).arg(&args.question))?;
    steps.done(&format!("verified and answered; {:.0} s in all", steps.seconds()));
    if args.stay {
        eprintln!("\nThe machine stays up; stop it with Ctrl-C. Try in another terminal:");
        eprintln!("  {} embed --run {} \"your text\"", chrysalis.display(), run.display());
        guest.0.wait().context("the launcher is gone")?;
    }
    Ok(())
}

/// Compiles the front door with the host's own linker; guest programs never come from this build.
pub fn front_door(root: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--package", "chrysalis"]).current_dir(root);
    host::run(&mut cargo)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/chrysalis"))
}

/// The launcher as a child; the machine ends with it.
struct Guest(Child);

impl Guest {
    /// Starts the launcher and waits until it says that the machine serves.
    fn launch(
        chrysalis: &Path,
        image: &Path,
        models: &[PathBuf],
        platform: &Path,
        run: &Path,
        args: &Args,
    ) -> Result<Self> {
        let mut command = Command::new(chrysalis);
        command.arg("launch").arg("--image").arg(image);
        for model in models {
            command.arg("--model").arg(model);
        }
        command.arg("--simulated-platform").arg(platform).arg("--run").arg(run);
        if args.disk {
            command.args(["--boot", "disk"]);
        }
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        eprintln!("      $ {} {}", chrysalis.display(), words.join(" "));
        let child = command.arg("--json").stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut guest = Guest(child.context("cannot start the launcher")?);
        let stdout = guest.0.stdout.take().context("the launcher has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next() {
            if line.context("the launcher's output broke off")?.contains("\"state\":\"serving\"") {
                // A pipe that nobody reads would stop the launcher.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(guest);
            }
        }
        bail!("the launcher ended before the machine served; its last lines above say why")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SIGTERM lets the launcher stop QEMU and the TPM; it may be gone already.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
