//! Machine to QEMU's arguments: a pure function, so that a golden test shows every word.
//!
//! Choices that keep measurements foretellable are listed, each with its reason, under "Machine facts" in
//! `docs/reference/measured-boot.md`. `restrict=on` leaves the guest no way out but the forwarded port; a guest that calls
//! peers does without it, and then reaches what this host reaches.
//!
//! Syntax: QEMU 10.0 invocation manual; the trust domain's object and `vfio-pci`: QEMU 10.1 (`qapi/qom.json`, "TdxGuestProperties"). What is
//! given as JSON may hold commas (file names) or nests; option lists double commas.

mod tdx;

use crate::machine::{Disk, Forward, Machine, Placement, Root, Vsock};
use measure::shape::{
    EMULATED_CPU, EMULATED_MACHINE, EMULATED_TPM, GLOBALS, MAC, TDX_CPU, TDX_GLOBALS, TDX_MACHINE, slot,
};
use protocol::names;
use std::path::Path;

/// The machine's UUID: a constant (RFC 9562 version 8), since SMBIOS tables carry it.
pub const UUID: &str = "63687279-7361-8c69-b300-000000000000";

/// QEMU's arguments, without the program's name.
pub fn argv(machine: &Machine) -> Vec<String> {
    let mut args = Args(Vec::new());
    args.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
    args.pair("-display", "none");
    args.pair("-name", "chrysalis");
    args.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    platform(&mut args, machine);
    firmware(&mut args, machine);
    if let Root::Tpm(socket) = &machine.root {
        tpm(&mut args, socket);
    }
    ports(&mut args, machine);
    network(&mut args, machine);
    args.pair("-object", "rng-builtin,id=rng");
    args.pair("-device", &format!("virtio-rng-pci,rng=rng,{}", at(slot::RNG)));
    for disk in &machine.disks {
        attach(&mut args, disk, machine.kernel.is_none());
    }
    if let Root::Tdx { domain, .. } = &machine.root {
        tdx::devices(&mut args, domain);
    }
    if let Some(uki) = &machine.kernel {
        args.pair("-kernel", &uki.to_string_lossy());
    }
    args.0
}

struct Args(Vec<String>);

impl Args {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|f| (*f).to_owned()));
    }

    fn pair(&mut self, option: &str, value: &str) {
        self.flags(&[option, value]);
    }
}

fn platform(args: &mut Args, machine: &Machine) {
    let memory = memory_backend(args, machine);
    let words = match &machine.root {
        Root::Tpm(_) => {
            let words = format!("{EMULATED_MACHINE},graphics=off,pflash0=code,pflash1=vars");
            [words, "tcg,thread=multi".into(), EMULATED_CPU.into()]
        }
        Root::Tdx { domain, mrconfigid } => {
            tdx::object(args, domain, mrconfigid);
            let words = format!("{TDX_MACHINE},graphics=off,confidential-guest-support=tdx");
            [words, "kvm".into(), TDX_CPU.into()]
        }
    };
    let [words, accelerator, cpu] = words;
    args.pair("-machine", &format!("{words}{memory}"));
    args.pair("-accel", &accelerator);
    args.pair("-cpu", &cpu);
    let vcpus = machine.shape.vcpus;
    args.pair("-smp", &format!("cpus={vcpus},sockets=1,cores={vcpus},threads=1,maxcpus={vcpus}"));
    args.pair("-m", &format!("{}M", machine.shape.memory_mib));
    args.pair("-uuid", UUID);
    let more = if matches!(machine.root, Root::Tdx { .. }) { &TDX_GLOBALS[..] } else { &[] };
    for global in GLOBALS.iter().chain(more) {
        args.pair("-global", global);
    }
    args.pair("-qmp", &format!("unix:{},server=on,wait=off", comma(&machine.qmp)));
}

/// The object that holds the memory, and the machine's option that takes it; nothing where QEMU's own choice will do.
///
/// Files in memory (memfd) where pages are huge or a process beside QEMU has to share them, plain memory otherwise.
fn memory_backend(args: &mut Args, machine: &Machine) -> &'static str {
    let Placement { nodes, hugepages, .. } = &machine.placement;
    let domain = match &machine.root {
        Root::Tpm(_) => None,
        Root::Tdx { domain, .. } => Some(domain),
    };
    let shared = domain.is_some_and(|domain| matches!(domain.vsock, Some(Vsock::VhostUser { .. })));
    if domain.is_none() && nodes.is_empty() && hugepages.is_none() {
        return "";
    }
    let kind = if shared || hugepages.is_some() { "memfd,share=on" } else { "ram" };
    let mut words = format!("memory-backend-{kind},id=memory,size={}M", machine.shape.memory_mib);
    if let Some(pages) = hugepages {
        words += &format!(",hugetlb=on,hugetlbsize={},prealloc=on", pages.name());
    }
    if !nodes.is_empty() {
        // A list is a repeated option.
        words += &nodes.iter().map(|node| format!(",host-nodes={node}")).collect::<String>();
        words += ",policy=bind";
    }
    args.pair("-object", &words);
    ",memory-backend=memory"
}

fn firmware(args: &mut Args, machine: &Machine) {
    let code = &machine.firmware.code;
    match &machine.firmware.vars {
        Some(vars) => {
            args.pair("-blockdev", &blockdev("code", code, true));
            args.pair("-blockdev", &blockdev("vars", vars, false));
        }
        // A trust domain has no flash: code and variables are one image in its memory.
        None => args.pair("-bios", &code.to_string_lossy()),
    }
}

fn tpm(args: &mut Args, socket: &Path) {
    args.pair("-chardev", &format!("socket,id=tpm,path={}", comma(socket)));
    args.pair("-tpmdev", "emulator,id=tpm0,chardev=tpm");
    args.pair("-device", &format!("{EMULATED_TPM},tpmdev=tpm0"));
}

fn ports(args: &mut Args, machine: &Machine) {
    args.pair("-chardev", &format!("file,id=console,path={}", comma(&machine.console)));
    args.pair("-serial", "chardev:console");
    args.pair("-chardev", &format!("file,id=progress,path={}", comma(&machine.progress)));
    args.pair("-chardev", &format!("socket,id=control,path={},server=on,wait=off", comma(&machine.control)));
    // Port 0 is set aside for a console.
    args.pair("-device", &format!("virtio-serial-pci,id=ports,max_ports=3,{}", at(slot::SERIAL)));
    for (number, (node, name)) in
        (1..).zip([("progress", names::PROGRESS_PORT), ("control", names::CONTROL_PORT)])
    {
        args.pair("-device", &format!("virtserialport,bus=ports.0,nr={number},chardev={node},name={name}"));
    }
}

fn network(args: &mut Args, machine: &Machine) {
    let Forward { host, guest } = machine.forward;
    let restrict = if machine.outward { "off" } else { "on" };
    let rule = format!("tcp:{}:{}-{}:{}", host.ip(), host.port(), guest.ip(), guest.port());
    args.pair("-netdev", &format!("user,id=net,ipv6=off,restrict={restrict},hostfwd={rule}"));
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    args.pair("-device", &format!("virtio-net-pci,netdev=net,mac={mac},romfile=,{}", at(slot::NET)));
}

fn attach(args: &mut Args, disk: &Disk, boots: bool) {
    let node = format!("disk{}", disk.slot);
    args.pair("-blockdev", &blockdev(&node, &disk.path, true));
    let first = if boots && disk.serial == names::ROOT_DISK_SERIAL { ",bootindex=0" } else { "" };
    let serial = &disk.serial;
    args.pair("-device", &format!("virtio-blk-pci,drive={node},serial={serial},{}{first}", at(disk.slot)));
}

/// Modern virtio only, at a fixed address of the root bus.
fn at(slot: u8) -> String {
    format!("disable-legacy=on,bus=pcie.0,addr=0x{slot:02x}")
}

fn blockdev(node: &str, path: &Path, read_only: bool) -> String {
    let file = serde_json::Value::from(path.to_string_lossy().as_ref());
    let rest = format!(r#""file":{{"driver":"file","filename":{file}}}"#);
    format!(r#"{{"driver":"raw","node-name":"{node}","read-only":{read_only},{rest}}}"#)
}

/// Doubles commas, as QEMU's option lists want.
fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests;
