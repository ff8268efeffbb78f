//! `cargo xtask`: the tasks of the house. A routing table; one file a task.
//!
//! This program is compiled first on a fresh machine, so it links little: it brings the tools root up and does
//! everything else by running programs inside it.

mod answers;
mod bench;
#[cfg(test)]
mod book;
mod conformance;
mod flake;
mod fuzz;
mod gpu;
mod host;
mod leash;
mod node;
mod peers;
mod quantise;
mod reference;
mod serve;
mod steps;
mod still;
mod test;
mod tidy;
mod toy;
mod up;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Chrysalis house")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up, build the measured image, boot it, verify it, ask it, and play a network that pays for answers.
    Up(up::Args),
    /// Set up and run every test, VM stories included.
    Test(test::Args),
    /// Serve model folders over plain HTTP on loopback, for development.
    Serve(serve::Args),
    /// Write what a text model must compute beside it.
    Answers(answers::Args),
    /// Write a text model with its weights in bytes, half as large, to a new folder, with its known answers.
    Quantise(quantise::Args),
    /// Run the kernels for GPUs on whatever Vulkan has; not CUDA.
    Gpu(gpu::Args),
    /// Train the toy language model, or measure it.
    Toy(toy::Args),
    /// Check the house rules.
    Tidy(tidy::Args),
    /// Show what `nix/` claims, with the real nix, offline.
    Flake,
    /// Run libFuzzer on the parsers of hostile bytes.
    Fuzz(fuzz::Args),
    /// Write evidence with one defect each to a folder, and show who catches what.
    Conformance(conformance::Args),
    /// Print the numbers, each beside its peer or limit.
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    let root = host::checkout()?;
    match Args::parse().task {
        Task::Up(args) => up::run(&root, &args),
        Task::Test(args) => test::run(&root, &args),
        Task::Serve(args) => serve::run(&root, &args),
        Task::Answers(args) => answers::run(&root, &args),
        Task::Quantise(args) => quantise::run(&root, &args),
        Task::Gpu(args) => gpu::run(&root, &args),
        Task::Toy(args) => toy::run(&root, &args),
        Task::Tidy(args) => tidy::run(&root, &args),
        Task::Flake => flake::run(&root),
        Task::Fuzz(args) => fuzz::run(&root, &args),
        Task::Conformance(args) => conformance::run(&root, &args),
        Task::Bench(args) => bench::run(&root, &args),
    }
}
