//! A host as folders: what a launch refuses, and the next step it names.

use super::*;
use crate::gpu::chip::Mode;
use crate::gpu::fake::{Fake, GPUS};
use crate::machine::Placement;
use crate::samples::{domain, settings};
use std::os::unix::net::UnixListener;

const GPU: &str = GPUS[0];

struct Folders {
    fake: Arc<Fake>,
    host: HostDirs,
    _qgs: UnixListener,
}

impl Folders {
    /// A host with all that `Folders::settings` name.
    fn new() -> Self {
        let fake = Arc::new(Fake::new());
        fake.all_in(Mode::On);
        let at = |name: &str| fake.dir.path().join(name);
        for name in ["kvm", "iommu", "vhost-vsock"] {
            fs::create_dir_all(at("dev")).unwrap();
            fs::write(at("dev").join(name), "").unwrap();
        }
        let host = HostDirs { sysfs: Arc::clone(&fake) as _, dev: at("dev"), locks: at("locks") };
        let folders = Folders { _qgs: UnixListener::bind(at("qgs")).unwrap(), fake: Arc::clone(&fake), host };
        folders.put("sys/devices/system/cpu/online", "0-3,8\n");
        folders.put("sys/devices/system/node/online", "0\n");
        folders.put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1024\n");
        folders.put("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "512\n");
        folders
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.fake.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn settings(&self) -> Settings {
        let mut domain = domain(1, 0);
        domain.gpus = vec![PciAddress::parse(GPU).unwrap()];
        domain.quotes = QuoteService::Unix(self.fake.dir.path().join("qgs"));
        Settings { platform: Platform::Tdx(domain), ..settings() }
    }

    fn refusal(&self, settings: &Settings) -> String {
        self.host.claim(settings).unwrap_err().to_string()
    }
}

#[test]
fn a_whole_host_is_claimed_and_given_back() {
    let on = Folders::new();
    let claims = on.host.claim(&on.settings()).unwrap();
    let text = on.refusal(&on.settings());
    assert!(text.starts_with("device 0000:17:00.0: found in use by another launcher"), "{text}");
    assert!(text.contains("chrysalis machine status"), "{text}");
    drop(claims);
    on.host.claim(&on.settings()).unwrap();
}

#[test]
fn a_refused_claim_keeps_nothing() {
    let on = Folders::new();
    let mut settings = on.settings();
    let Platform::Tdx(domain) = &mut settings.platform else { unreachable!() };
    domain.gpus.push(PciAddress::parse("0000:18:00.0").unwrap());
    let text = on.refusal(&settings);
    assert!(text.starts_with("device 0000:18:00.0: found not on the PCI bus"), "{text}");
    on.host.claim(&on.settings()).unwrap();
}

#[test]
fn each_missing_part_is_named_with_the_next_step() {
    for (path, message, next) in [
        ("dev/kvm", "this host: found no ", "chrysalis doctor"),
        ("dev/iommu", "this host: found no ", "iommufd"),
        ("dev/vhost-vsock", "this host: found no ", "\"vhost-user\""),
        ("qgs", "the quote service: found nobody answers on unix:", "systemctl start qgsd"),
    ] {
        let on = Folders::new();
        fs::remove_file(on.fake.dir.path().join(path)).unwrap();
        let text = on.refusal(&on.settings());
        assert!(text.starts_with(message) && text.contains(next), "{path}: {text}");
    }
}

#[test]
fn a_device_that_leaves_the_bus_is_seen() {
    let on = Folders::new();
    let settings = on.settings();
    let domain = settings.platform.trust_domain().unwrap();
    assert_eq!(on.host.vanished(domain), None);
    fs::remove_dir_all(on.fake.device(GPU)).unwrap();
    assert_eq!(on.host.vanished(domain).map(PciAddress::as_str), Some(GPU));
}

#[test]
fn a_placement_that_the_host_does_not_have_is_refused() {
    let on = Folders::new();
    let with = |placement: Placement| Settings { placement, memory_mib: 2048, ..settings() };
    let place = |cpus: &[u32], nodes: &[u32], hugepages| {
        with(Placement { cpus: cpus.into(), nodes: nodes.into(), hugepages })
    };
    on.host.claim(&place(&[3, 8], &[0], None)).unwrap();
    on.host.claim(&place(&[], &[], Some(HugePages::Mega2))).unwrap();
    for (settings, message) in [
        (place(&[1, 4], &[], None), "placement.cpus: found 4, expected of those online, 0-3,8; "),
        (place(&[], &[1], None), "placement.nodes: found 1, expected of those online, 0; "),
        (
            place(&[], &[0], Some(HugePages::Mega2)),
            "placement.hugepages: found 512 free pages of 2M, expected 1024; ",
        ),
        (
            place(&[], &[], Some(HugePages::Giga1)),
            "placement.hugepages: found 0 free pages of 1G, expected 2; ",
        ),
    ] {
        let text = on.refusal(&settings);
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn a_qemu_of_another_release_is_refused() {
    let says = |words: &'static str| {
        move |_: &str| {
            let mut command = Command::new("echo");
            command.arg(words).arg("#");
            command
        }
    };
    let domain = domain(0, 0);
    release_of_qemu(&domain, &says("QEMU emulator version 10.2.1 (Debian 1:10.2.1+ds-1)")).unwrap();
    for (words, found) in [
        ("QEMU emulator version 10.1.0", "10.1.0"),
        ("QEMU emulator version 10.20.0", "10.20.0"),
        ("no", "of no version"),
    ] {
        let text = release_of_qemu(&domain, &says(words)).unwrap_err().to_string();
        assert!(text.starts_with(&format!("QEMU's release: found {found}, expected 10.2; ")), "{text}");
    }
}
