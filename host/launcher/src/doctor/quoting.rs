//! The quoting side: the service that turns a TD's report into a quote, and the certificates that it needs.
//!
//! QGS listens on vsock port 4050 or on /var/run/tdx-qgs/qgs.socket (Intel's `linux-sgx` packages `tdx-qgs`); the quote
//! provider library reads /etc/sgx_default_qcnl.conf; registration is told by the BIOS in the variable
//! `SgxRegistrationStatus` (Intel DCAP, `MPUefi.h`: version, size, status bits, error code).

use super::{Finding, Seen, fail, pass, unknown, unseen};
use crate::host::{Endpoint, Miss, Question};

const QCNL: &str = "/etc/sgx_default_qcnl.conf";
const VARIABLES: &str = "/sys/firmware/efi/efivars";
const VARIABLE: &str = "SgxRegistrationStatus-";
const AGENT_LOG: &str = "/var/log/mpa_registration.log";
/// The host's own context.
const HOST_CID: u32 = 2;
const QGS_PORT: u32 = 4050;

pub(super) fn qgs(seen: &Seen<'_>) -> Finding {
    let places = [Endpoint::Vsock(HOST_CID, QGS_PORT), Endpoint::Unix("/var/run/tdx-qgs/qgs.socket".into())];
    let fix = "install and start Intel's tdx-qgs (`systemctl enable --now qgsd`), and `modprobe vhost_vsock vsock_loopback`";
    let mut why = Vec::new();
    for place in places {
        match seen.host.ask(&Question::Reach(place.clone())) {
            Ok(_) => return pass(format!("something listens at {place}")),
            Err(miss) => why.push(format!("{place}: {miss}")),
        }
    }
    let denied = why.iter().any(|line| line.contains("this user") || line.contains("not recorded"));
    if denied { unknown(why.join("; "), "run this command as root") } else { fail(why.join("; "), fix) }
}

/// The address of the certificate service: JSON with comments, or `PCCS_URL=...` of older versions.
fn service(config: &str) -> Option<(String, u16)> {
    let lines =
        config.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.starts_with('#'));
    let url = lines.filter_map(|line| {
        let rest = line.strip_prefix("\"pccs_url\"").or_else(|| line.strip_prefix("PCCS_URL"))?;
        Some(rest.trim_start_matches([':', '=', ' ', '\t', '"']).to_owned())
    });
    let url = url.last()?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let place = rest.split(['/', '"', ',']).next()?;
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (place, 443),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

pub(super) fn pccs(seen: &Seen<'_>) -> Finding {
    let fix = "install and start a PCCS (`systemctl status pccs`), or put Intel's service into /etc/sgx_default_qcnl.conf";
    let config = match seen.host.file(QCNL) {
        Ok(config) => config,
        Err(Miss::Absent) => {
            return fail(
                format!("no {QCNL}"),
                "install Intel's libsgx-dcap-default-qpl and set its pccs_url",
            );
        }
        Err(miss) => return unseen(QCNL, &miss, "run this command as root"),
    };
    let Some((host, port)) = service(&config) else {
        return fail(
            format!("{QCNL} names no service"),
            "set pccs_url, such as https://localhost:8081/sgx/certification/v4/",
        );
    };
    let endpoint = Endpoint::Tcp(host, port);
    match seen.host.ask(&Question::Reach(endpoint.clone())) {
        Ok(_) => pass(format!("{endpoint} answers, named in {QCNL}; its certificate was not looked at")),
        Err(miss @ (Miss::NotRecorded | Miss::Denied)) => unseen(&endpoint.to_string(), &miss, fix),
        Err(miss) => fail(format!("{endpoint}, named in {QCNL}: {miss}"), fix),
    }
}

/// What the BIOS says of the registration.
#[derive(Debug, PartialEq, Eq)]
enum Registration {
    Done,
    Pending,
    Error(u8),
}

/// Four bytes of attributes, then version 1, size 3, status bits, error code.
fn variable(hex: &str) -> Option<Registration> {
    let bytes: Option<Vec<u8>> =
        (0..hex.len() / 2).map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()).collect();
    match bytes.as_deref()? {
        [_, _, _, _, 1, 0, 3, 0, status, _, error] => Some(match (status & 1, error) {
            (_, error) if *error != 0 => Registration::Error(*error),
            (1, _) => Registration::Done,
            _ => Registration::Pending,
        }),
        _ => None,
    }
}

pub(super) fn registration(seen: &Seen<'_>) -> Finding {
    let fix = "register this platform with Intel: `systemctl start mpa_registration_tool`, see /var/log/mpa_registration.log; \
               or PCKIDRetrievalTool and the PCCS";
    let names = seen.host.ask(&Question::Names(VARIABLES.into(), VARIABLE)).unwrap_or_default();
    if let Some(name) = names.lines().next() {
        let told = seen.host.ask(&Question::Hex(format!("{VARIABLES}/{name}")));
        match told.as_deref().map(variable) {
            Ok(Some(Registration::Done)) => return pass("SgxRegistrationStatus: complete"),
            Ok(Some(Registration::Pending)) => return fail("SgxRegistrationStatus: not complete", fix),
            Ok(Some(Registration::Error(code))) => {
                return fail(format!("SgxRegistrationStatus: error code {code:#x}"), fix);
            }
            _ => (),
        }
    }
    match seen.host.file(AGENT_LOG) {
        Ok(log) => match log.lines().rfind(|line| line.contains("Registration Flow")) {
            Some(line) if line.contains("completed successfully") => pass(format!("{AGENT_LOG}: {line}")),
            Some(line) => fail(format!("{AGENT_LOG}: {line}"), fix),
            None => unknown(format!("{AGENT_LOG} says nothing of a registration"), fix),
        },
        Err(miss) => unseen(&format!("no {VARIABLE}*; {AGENT_LOG}"), &miss, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_found_in_both_forms_of_the_file() {
        let some = |host: &str, port| Some((host.to_owned(), port));
        let json =
            "{\n  // \"pccs_url\": \"https://old:1/\"\n  \"pccs_url\": \"https://localhost:8081/sgx/\",\n}";
        assert_eq!(service(json), some("localhost", 8081));
        assert_eq!(service("PCCS_URL=https://pccs.example/sgx/"), some("pccs.example", 443));
        for bad in ["", "\"pccs_url\": \"ftp://x\"", "PCCS_URL=https://:8081/", "PCCS_URL=https://x:99999/"] {
            assert_eq!(service(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_variable_is_read_only_in_its_one_form() {
        let of = |tail: &str| variable(&format!("07000000{tail}"));
        assert_eq!(of("01000300010000"), Some(Registration::Done));
        assert_eq!(of("01000300000000"), Some(Registration::Pending));
        assert_eq!(of("01000300010085"), Some(Registration::Error(0x85)));
        for bad in ["", "0100", "02000300010000", "01000400010000", "010003000100000", "01000300zz0000"] {
            assert!(of(bad).is_none() || bad.len() == 15, "{bad}");
        }
        assert_eq!(variable("é0"), None);
    }
}
