//! Brings the one network interface up with the address of the runtime configuration.
//!
//! IPv6 is switched off first: without it the kernel would answer and speak to the host's network on its own.

use crate::netlink::Netlink;
use anyhow::{Context, Result, bail, ensure};
use protocol::config::RuntimeConfig;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

const CLASS: &str = "/sys/class/net";
const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// `ARPHRD_ETHER`, as `/sys/class/net/NAME/type` shows it.
const ETHERNET: &str = "1";

/// Loopback and interface up, address and gateway set.
pub(crate) fn up(config: &RuntimeConfig) -> Result<()> {
    let (address, prefix) = parse_address(&config.address)?;
    let gateway = config.gateway.as_deref().map(parse_gateway).transpose()?;
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        if Path::new(&path).exists() {
            fs::write(&path, "1").with_context(|| path)?;
        }
    }
    let netlink = Netlink::open().context("cannot open a route socket")?;
    netlink.up(index(Path::new(CLASS), "lo")?).context("cannot bring loopback up")?;
    let name = wait_for_interface(Path::new(CLASS))?;
    let index = index(Path::new(CLASS), &name)?;
    netlink
        .address(index, address, prefix)
        .with_context(|| format!("{name}: cannot set {address}/{prefix}"))?;
    netlink.up(index).with_context(|| format!("{name}: cannot bring it up"))?;
    if let Some(gateway) = gateway {
        netlink.gateway(index, gateway).with_context(|| format!("{name}: cannot set gateway {gateway}"))?;
    }
    Ok(())
}

fn parse_address(text: &str) -> Result<(Ipv4Addr, u8)> {
    let parts = text.split_once('/').and_then(|(a, p)| Some((a.parse().ok()?, p.parse().ok()?)));
    match parts {
        Some((address, prefix)) if (1..=32).contains(&prefix) => Ok((address, prefix)),
        _ => bail!(
            "runtime configuration: address: expected IPv4 and prefix length such as 10.0.2.15/24, found `{text}`"
        ),
    }
}

fn parse_gateway(text: &str) -> Result<Ipv4Addr> {
    text.parse().ok().with_context(|| {
        format!("runtime configuration: gateway: expected an IPv4 address such as 10.0.2.2, found `{text}`")
    })
}

/// The only Ethernet interface, once it is there.
fn wait_for_interface(class: &Path) -> Result<String> {
    let start = Instant::now();
    loop {
        let mut found = ethernet(class)?;
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => return Ok(one),
            (Some(one), false) => {
                bail!("expected one network interface, found {one} and {}; attach only one", found.join(", "))
            }
            (None, _) => {}
        }
        ensure!(
            start.elapsed() < LIMIT,
            "expected a network interface, found none after {LIMIT:?}; attach a virtio-net device"
        );
        std::thread::sleep(POLL);
    }
}

fn ethernet(class: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(class).with_context(|| class.display().to_string())?;
    let is_ethernet = |name: &String| attribute(class, name, "type").is_ok_and(|kind| kind == ETHERNET);
    Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).filter(is_ethernet).collect())
}

fn index(class: &Path, name: &str) -> Result<u32> {
    let text = attribute(class, name, "ifindex")?;
    text.parse().with_context(|| format!("{name}: expected an interface index, found `{text}`"))
}

fn attribute(class: &Path, name: &str, file: &str) -> Result<String> {
    let path = class.join(name).join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_needs_its_prefix_length() {
        assert_eq!(parse_address("10.0.2.15/24").unwrap(), (Ipv4Addr::new(10, 0, 2, 15), 24));
        for bad in ["10.0.2.15", "10.0.2.15/0", "10.0.2.15/33", "fe80::1/64", "10.0.2/24", "", "/"] {
            assert!(parse_address(bad).is_err(), "accepted {bad}");
        }
    }

    #[test]
    fn the_only_ethernet_interface_is_taken_and_two_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let add = |name: &str, kind: &str| {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("type"), format!("{kind}\n")).unwrap();
        };
        add("lo", "772");
        add("eth0", "1");
        assert_eq!(wait_for_interface(dir.path()).unwrap(), "eth0");
        add("eth1", "1");
        assert!(wait_for_interface(dir.path()).unwrap_err().to_string().contains("expected one"));
    }

    proptest! {
        #[test]
        fn any_address_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = parse_address(&text);
            let _ = parse_gateway(&text);
        }
    }
}
