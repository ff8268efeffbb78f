//! What a recording leaves out: whatever names one machine, its owner or its network.
//!
//! Text is taken apart into words; a word goes when its form is that of an identifier, and a value goes when its name says
//! what it is. Addresses of PCI functions, register values and versions stay: they are what a fault is found by.
//!
//! Deliberately absent: a promise. Who sends a recording reads it first, as the command says.

/// Stands for what was left out.
const GONE: &str = "REDACTED";
/// A line `name: value` or `name=value` with one of these in its name loses its value.
const NAMES: &[&str] = &[
    "serial",
    "uuid",
    "ppid",
    "piid",
    "hostname",
    "mac address",
    "asset",
    "token",
    "password",
    "api_key",
    "apikey",
    "user",
];
/// Parameters of the kernel's command line that are kept; of all others only the name.
const PARAMETERS: &[&str] = &[
    "intel_iommu",
    "iommu",
    "kvm_intel.",
    "kvm.",
    "nohibernate",
    "hugepages",
    "hugepagesz",
    "default_hugepagesz",
    "transparent_hugepage",
    "vfio",
    "vfio-pci.",
    "vfio_iommu_type1.",
    "pci",
    "nomodeset",
    "quiet",
    "ro",
    "rw",
    "mem_encrypt",
    "tme",
    "tdx",
    "sgx",
    "clearcpuid",
    "numa_balancing",
    "modprobe.blacklist",
    "rd.driver.blacklist",
];

/// Leaves out what names a machine. `host` is the machine's own name.
pub(super) fn redact(text: &str, host: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| redact_line(line, host)).collect();
    lines.join("\n")
}

/// The kernel's command line, of which most is nobody's business.
pub(super) fn redact_cmdline(text: &str) -> String {
    let keep = |word: &str| {
        let name = word.split('=').next().unwrap_or(word);
        PARAMETERS.iter().any(|known| name == *known || (known.ends_with('.') && name.starts_with(known)))
    };
    let words = text.split_whitespace();
    words.map(|word| if keep(word) { word } else { GONE }).collect::<Vec<_>>().join(" ")
}

fn redact_line(line: &str, host: &str) -> String {
    let line = match line.find("ommand line:") {
        Some(at) => {
            let (head, tail) = line.split_at(at + "ommand line:".len());
            format!("{head} {}", redact_cmdline(tail))
        }
        None => line.to_owned(),
    };
    if let Some(at) = line.find([':', '=']) {
        let name = line[..at].to_ascii_lowercase();
        if NAMES.iter().any(|known| name.contains(known)) && at + 1 < line.len() {
            return format!("{} {GONE}", &line[..=at]);
        }
    }
    words(&line, host)
}

/// Replaces words that are identifiers by their form.
fn words(line: &str, host: &str) -> String {
    let (mut out, mut word) = (String::new(), String::new());
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '-' | '_');
    for c in line.chars().chain([' ']) {
        if part(c) {
            word.push(c);
            continue;
        }
        let bare = word.trim_end_matches([':', '.']);
        // A port says which service; only what stands before it says whose.
        let name = bare
            .rsplit_once(':')
            .filter(|(_, port)| port.parse::<u16>().is_ok())
            .map_or(bare, |(name, _)| name);
        let remote = (out.ends_with("//") || out.ends_with("tcp ")) && !is_public(name);
        let home = out.ends_with("/home/");
        let hidden = if is_identifier(bare) || same(bare, host) || home {
            bare
        } else if is_ip(name) || same(name, host) || remote {
            name
        } else {
            ""
        };
        if !hidden.is_empty() {
            out.push_str(GONE);
        }
        out.push_str(&word[hidden.len()..]);
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// The machine's name, alone or with its domain.
fn same(word: &str, host: &str) -> bool {
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    !matches!(first(host).as_str(), "" | "localhost") && first(word) == first(host)
}

/// A UUID, a MAC address, an IP address, or a long number in hexadecimal without `0x`.
fn is_identifier(word: &str) -> bool {
    is_uuid(word) || is_mac(word) || is_ip(word) || is_long_hex(word)
}

/// The last 36 characters: `GPU-` and others may stand before.
fn is_uuid(word: &str) -> bool {
    let Some(tail) = word.len().checked_sub(36).and_then(|at| word.get(at..)) else { return false };
    let groups: Vec<&str> = tail.split('-').collect();
    groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(|g| all_hex(g))
}

fn is_mac(word: &str) -> bool {
    [':', '-'].iter().any(|separator| {
        let groups: Vec<&str> = word.split(*separator).collect();
        groups.len() >= 6 && groups.iter().all(|g| g.len() == 2 && all_hex(g))
    })
}

/// Addresses that name this machine to itself stay.
fn is_ip(word: &str) -> bool {
    word.parse::<std::net::IpAddr>().is_ok_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// Names of services that are everybody's, and of this machine to itself.
fn is_public(name: &str) -> bool {
    let loopback = name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    name.is_empty() || name == "localhost" || name.ends_with(".intel.com") || loopback
}

fn is_long_hex(word: &str) -> bool {
    word.len() >= 16 && !word.starts_with("0x") && all_hex(word) && word.bytes().any(|b| b.is_ascii_digit())
}

fn all_hex(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever stands around it, as long as it stands apart.
        #[test]
        fn an_identifier_is_left_out_of_any_text(
            secret in prop_oneof![
                "[1-9][0-9]?\\.(0|[1-9][0-9]?)\\.(0|[1-9][0-9]?)\\.[1-9][0-9]?",
                "[0-9a-f]{2}(:[0-9a-f]{2}){5}",
                "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                "[0-9][0-9a-f]{15,40}",
            ],
            before in "\\PC{0,30}[ /=\"(,]",
            after in "[ /=\"),;]\\PC{0,30}",
        ) {
            let kept = redact(&format!("{before}{secret}{after}"), "rig-7");
            prop_assert!(!kept.contains(&secret), "{kept}");
        }
    }

    #[test]
    fn what_names_a_machine_is_left_out() {
        for secret in [
            "GPU UUID: \t GPU-285d37e5-51c1-af10-bcd9-ad1d99a34f40",
            "root=UUID=5ff9422f-98dc-449b-9c97-6108dc518bd3",
            "eth0 52:54:00:12:34:56 up",
            "https://192.168.7.9:8081/sgx/",
            "connect 10.1.2.3:8081",
            "https://pccs.acme.example:8081/sgx/",
            "reach tcp acme:8081",
            concat!("tdvf /home", "/acme/OVMF.fd"),
            "inet6 fe80::1c2d:3e4f",
            "ppid 0123456789abcdef0123456789ABCDEF",
            "Serial Number: 1654922006536",
            "systemd: Hostname set to <rig-7>.",
            "rig-7.example.net kernel:",
        ] {
            let kept = redact(secret, "rig-7.example.net");
            assert!(kept.contains(GONE), "{secret} -> {kept}");
            assert_eq!(secret.contains(":8081"), kept.contains(":8081"), "{secret} -> {kept}");
            for word in [
                "285d37e5", "5ff9422f", "52:54", "192.168", "10.1.2", "fe80", "01234567", "16549", "rig-7",
                "acme",
            ] {
                assert!(!kept.contains(word), "{secret} -> {kept}");
            }
        }
    }

    #[test]
    fn what_a_fault_is_found_by_stays() {
        for plain in [
            "0000:17:00.0 0x2330 0x030200",
            "virt/tdx: BIOS enabled: private KeyID range [64, 128)",
            "QEMU emulator version 10.1.0 (Debian 1:10.1.0+ds-1)",
            "0x00000ab042000000 0x00000ab042ffffff 0x0000000000140204",
            "Video BIOS: \t 96.00.9f.00.01",
            "https://localhost:8081/sgx/certification/v4/",
            "  \"pccs_url\": \"https://127.0.0.1:8081/sgx/\"",
            "MemTotal:       1056431232 kB",
        ] {
            assert_eq!(redact(plain, "rig-7"), plain);
        }
    }

    #[test]
    fn a_command_line_keeps_what_is_known_and_nothing_else() {
        let line = "BOOT_IMAGE=/vmlinuz-6.16 root=/dev/mapper/acme-root ro nohibernate kvm_intel.tdx=1 intel_iommu=on ip=10.0.0.2 corp.secret=1 flag";
        let kept = redact_cmdline(line);
        assert_eq!(
            kept,
            "REDACTED REDACTED ro nohibernate kvm_intel.tdx=1 intel_iommu=on REDACTED REDACTED REDACTED"
        );
        assert!(redact(&format!("[    0.0] Kernel command line: {line}"), "").ends_with(&kept));
    }
}
