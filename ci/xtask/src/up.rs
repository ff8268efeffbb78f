//! `cargo xtask up`: from nothing to a verified answer, and to a paid one, on the simulated platform.

use crate::host;
use crate::leash::Leashed;
use crate::steps::{House, MODEL, Steps, TOY, shown};
use anyhow::{Context, Result, bail};
use builder::Profile;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    /// End with the machine's answers: no chain, no proxies, nobody pays.
    #[arg(long)]
    no_network: bool,
}

/// Runs all steps; idempotent.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut steps = Steps::new(if args.no_network { 7 } else { 8 });
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
    let guest = launch(&chrysalis, &image, &disks, &platform, &run, args)?;
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
    steps.done("verified and answered");
    let guest = args.stay.then_some(guest);

    if !args.no_network {
        steps.next(
            "Network: clients pay, proxies route, workers earn, on a local chain and SIMULATED platforms",
        );
        network(&house, &image, &disks, &platform, args)?;
        steps.done("played to the balanced books");
    }
    eprintln!("\nAll done in {:.0} s.", steps.seconds());
    if let Some(mut guest) = guest {
        eprintln!("\nThe machine stays up; stop it with Ctrl-C. Try in another terminal:");
        eprintln!("  {} embed --run {} \"your text\"", chrysalis.display(), run.display());
        guest.child.wait().context("the launcher is gone")?;
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

/// Starts the launcher and waits until it says that the machine serves.
fn launch(
    chrysalis: &Path,
    image: &Path,
    models: &[PathBuf],
    platform: &Path,
    run: &Path,
    args: &Args,
) -> Result<Leashed> {
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
    let mut guest = Leashed::spawn(command.arg("--json").stdout(Stdio::piped()))?;
    let stdout = guest.child.stdout.take().context("the launcher has no output")?;
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

/// Compiles the role play's programs, where they are not compiled yet, and plays it inside the tools root.
fn network(house: &House, image: &Path, disks: &[PathBuf; 2], platform: &Path, args: &Args) -> Result<()> {
    let workshop = house.workshop(&[])?;
    let mut cargo = workshop.cargo();
    cargo.args(["build", "--release", "--locked", "--offline", "--quiet", "--bins"]);
    cargo.args(["--manifest-path", "/chrysalis/src/Cargo.toml"]);
    host::run(cargo.args(["-p", "network", "-p", "devnet", "-p", "chrysalis"]))?;
    drop(workshop);
    let program = house.checkout.cache().join("target/release/chrysalis-network");
    let mut play = house.tools.command(&program.display().to_string());
    let [embedder, chatter] = disks;
    play.arg("--image").arg(image).arg("--embedder").arg(embedder).arg("--chatter").arg(chatter);
    play.arg("--chatter-folder").arg(house.toy_folder()).arg("--platform").arg(platform);
    play.arg("--run").arg(house.out("run/network"));
    play.arg("--text").arg(&args.text).arg("--question").arg(&args.question);
    Leashed::spawn(&mut play)?.wait().context("the role play")
}
