//! Collateral of GPUs, from where it is published.
//!
//! ```text
//! GET  {rim}/{name of a manifest}      {"rim": base64, ..}     NVIDIA's RIM service, version 1
//! POST {ocsp}  OCSPRequest             OCSPResponse            RFC 6960, appendix A.1
//! ```
//! What comes is read, so that an answer of something else is told at once; its signatures are for whoever appraises with it.

use crate::service::{FetchError, Service, Settings, SettingsError};
use evidence::gpu::{
    DeviceEvidence, GpuCollateral, GpuInputs, GpuPolicy, MAX_OCSP, OcspResponse, Rim, ocsp_requests,
    read_rim, verify_gpus,
};
use std::collections::BTreeSet;

/// Most bytes of a manifest as the service answers it.
const MAX_RIM: u64 = 2 * 1024 * 1024;

/// Which services, and how patient to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSettings {
    /// Base URL of the manifests.
    pub rim: String,
    /// URL of the OCSP responder.
    pub ocsp: String,
    /// Certificates (PEM) to trust for TLS instead of the public ones.
    pub tls_roots: Option<String>,
    /// How often to try, in all.
    pub attempts: u32,
}

/// Services to fetch from. They block the calling thread.
#[derive(Debug, Clone)]
pub struct GpuServices {
    rim: Service,
    ocsp: Service,
    settings: GpuSettings,
}

impl GpuServices {
    /// Checks the settings; nothing is asked yet.
    pub fn new(settings: GpuSettings) -> Result<Self, SettingsError> {
        let service = |url: &str| {
            let GpuSettings { tls_roots, attempts, .. } = settings.clone();
            Service::new(Settings { tls_roots, attempts, ..Settings::of(url) })
        };
        Ok(GpuServices { rim: service(&settings.rim)?, ocsp: service(&settings.ocsp)?, settings })
    }

    /// Everything that an appraisal of these devices takes: their manifests, by the names that NVIDIA publishes them under, and an OCSP
    /// response about each certificate. `policy` says whose devices these are; `at` is the present time, Unix seconds.
    pub fn fetch(
        &self,
        devices: &[DeviceEvidence],
        policy: &GpuPolicy,
        at: u64,
    ) -> Result<GpuCollateral, FetchError> {
        let mut collateral = GpuCollateral::default();
        for name in names(devices, policy, at)? {
            let xml = self.manifest(&name)?;
            match name.contains("DRIVER") {
                true => collateral.driver_rims.push(xml),
                false => collateral.vbios_rims.push(xml),
            }
        }
        let rims = [collateral.driver_rims.as_slice(), &collateral.vbios_rims].concat();
        let requests = ocsp_requests(devices, &rims).map_err(|error| malformed("certificates", &error))?;
        for request in requests {
            collateral.ocsp.push(self.response(&request.der)?);
        }
        Ok(collateral)
    }

    fn manifest(&self, name: &str) -> Result<Vec<u8>, FetchError> {
        const WHAT: &str = "manifest (RIM)";
        let url = format!("{}/{name}", self.settings.rim.trim_end_matches('/'));
        let answer = self.rim.ask(WHAT, &url, None, MAX_RIM)?;
        let xml = read_rim(&answer.body).map_err(|error| malformed(WHAT, &error))?;
        Rim::parse(&xml).map_err(|error| malformed(WHAT, &error))?;
        Ok(xml)
    }

    fn response(&self, request: &[u8]) -> Result<Vec<u8>, FetchError> {
        const WHAT: &str = "OCSP response";
        let body = self.ocsp.ask(WHAT, &self.settings.ocsp, Some(request), MAX_OCSP as u64)?.body;
        OcspResponse::parse(&body).map_err(|error| malformed(WHAT, &error))?;
        Ok(body)
    }
}

fn malformed(what: &'static str, error: &evidence::gpu::GpuError) -> FetchError {
    FetchError::Malformed { what, why: error.to_string() }
}

/// Names of the manifests of these devices, each once; they stand in reports that their devices signed.
fn names(devices: &[DeviceEvidence], policy: &GpuPolicy, at: u64) -> Result<BTreeSet<String>, FetchError> {
    let inputs = GpuInputs {
        devices,
        nonce: None,
        driver_rims: &[],
        vbios_rims: &[],
        ocsp: &[],
        system: None,
        policy,
        at,
    };
    let verdict = verify_gpus(&inputs);
    if verdict.devices.iter().any(|device| device.rims.is_empty()) {
        let why = format!("it names no manifests: {}", verdict.reasons().join(", "));
        return Err(FetchError::Malformed { what: "GPU evidence", why });
    }
    Ok(verdict.devices.into_iter().flat_map(|device| device.rims).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use simulator::gpu::{AT, GpuCase, GpuMachine};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// Plays both services for this machine. Each answer closes its connection.
    fn serve(case: GpuCase) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever hangs up is not answered.
                let _ = answer(stream, &case);
            }
        });
        format!("http://{address}")
    }

    fn answer(mut stream: TcpStream, case: &GpuCase) -> std::io::Result<()> {
        let (mut request, mut bytes) = (Vec::new(), [0; 4096]);
        let head = loop {
            let length = stream.read(&mut bytes)?;
            request.extend_from_slice(&bytes[..length]);
            let head = request.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(head) = head.filter(|head| whole(&request, *head)) {
                break head;
            }
            if length == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&request[..head]).into_owned();
        let body = match text.split(' ').nth(1).unwrap_or_default() {
            path if path.contains("DRIVER") => Some(case.driver_rims[0].clone()),
            path if path.contains("VBIOS") => Some(case.vbios_rims[0].clone()),
            "/ocsp" => {
                // The five heads of a request have two or three bytes each; what is compared lies well inside.
                let id = &request[head + 4..];
                let key = &id[id.len() - 40..];
                case.ocsp.iter().find(|ocsp| ocsp.windows(key.len()).any(|part| part == key)).cloned()
            }
            _ => None,
        };
        let (status, body) = body.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        stream.write_all(&body)
    }

    fn whole(request: &[u8], head: usize) -> bool {
        let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        request.len() >= head + 4 + length.unwrap_or(0_usize)
    }

    fn services(rim: &str, ocsp: &str) -> GpuServices {
        let (rim, ocsp) = (rim.to_owned(), ocsp.to_owned());
        GpuServices::new(GpuSettings { rim, ocsp, tls_roots: None, attempts: 1 }).unwrap()
    }

    #[test]
    fn what_is_fetched_is_all_that_an_appraisal_takes() {
        let case = GpuMachine::Hopper(2).case().unwrap();
        let base = serve(case.clone());
        let services = services(&format!("{base}/v1/rim/"), &format!("{base}/ocsp"));
        let policy = case.policy().unwrap();
        let fetched = services.fetch(&case.devices, &policy, AT).unwrap();
        let GpuCollateral { driver_rims, vbios_rims, ocsp } = fetched;
        let fetched = GpuCase { driver_rims, vbios_rims, ocsp, ..case };
        evidence::gpu::appraise_gpus(&fetched.inputs(&policy)).unwrap();
    }

    #[test]
    fn a_service_that_is_away_or_knows_nothing_is_named() {
        let case = GpuMachine::Hopper(1).case().unwrap();
        let (base, policy) = (serve(case.clone()), case.policy().unwrap());
        let away = services("http://127.0.0.1:9/rim", "http://127.0.0.1:9/ocsp");
        let error = away.fetch(&case.devices, &policy, AT).unwrap_err().to_string();
        assert!(error.contains("manifest (RIM) from http://127.0.0.1:9/rim/NV_GPU_"), "{error}");
        let half = services(&base, "http://127.0.0.1:9/ocsp");
        let error = half.fetch(&case.devices, &policy, AT).unwrap_err().to_string();
        assert!(error.contains("OCSP response from http://127.0.0.1:9/ocsp"), "{error}");
        let lost = services(&base, &format!("{base}/elsewhere"));
        assert!(lost.fetch(&case.devices, &policy, AT).unwrap_err().to_string().contains("HTTP 404"));
        let other = services(&base, &format!("{base}/DRIVER"));
        assert!(other.fetch(&case.devices, &policy, AT).unwrap_err().to_string().contains("OCSP response"));
        // Whose firmware it is says only what the policy's root vouches for.
        let error = other.fetch(&case.devices, &GpuPolicy::production(), AT).unwrap_err().to_string();
        assert!(error.contains("names no manifests: gpu_trust_root"), "{error}");
    }
}
