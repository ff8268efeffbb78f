//! GPUs of the guest and of its peers: what the configuration demands, and what their evidence is held against.
//!
//! ```text
//! gpu_collateral = "DIR"     DIR/driver/*, DIR/vbios/*   manifests (RIMs): XML, or as NVIDIA's service answers
//!                            DIR/ocsp/*                  OCSP responses, DER
//!                            DIR/device-root.der, DIR/rim-root.der   of SIMULATED GPUs alone
//! [gpu]                      the guest's own: measured
//! [trust] gpu = "fresh"      its peers': measured
//! ```
//! The folder is read and each of its files parsed here, so that a mistake is told before a machine starts. It is handed over
//! unmeasured: the guest verifies signatures and dates itself.

use super::check::{SMALL, read};
use super::trust::literal;
use super::{Input, SettingsError};
use evidence::gpu::{
    GpuCollateral, GpuError, GpuPolicy, GpuSettings, MAX_GPU_COLLATERAL, OcspResponse, Rim, read_rim,
};
use protocol::config::{GpuConfig, PeerGpuConfig, file_hash};
use protocol::handoff::{File, GPU_COLLATERAL_FILE};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The guest's own GPUs, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuFragment {
    /// The keys of a policy's `[gpu]` table (TOML): how many, which, how new.
    pub policy: Option<PathBuf>,
    /// Whether the guest refuses to serve without them; it does if absent.
    pub required: Option<bool>,
    /// The guest appraises nothing as of an earlier time, Unix seconds.
    pub not_before: Option<u64>,
}

/// What the guest is told of GPUs.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    /// For the static configuration.
    pub(super) own: Option<GpuConfig>,
    /// For its section on trust.
    pub(super) peers: Option<PeerGpuConfig>,
    /// For the handoff disk.
    pub(super) files: Vec<File>,
}

const FOLDER: &str = "gpu_collateral";
const FETCH: &str = "fetch it with `chrysalis gpu trust DIR`, or name another folder";

impl Input {
    /// Everything about GPUs.
    pub(super) fn gpus(&self) -> Result<Gpus, SettingsError> {
        let demand = self.trust.as_ref().and_then(|trust| trust.gpu.as_deref());
        let Some(folder) = &self.gpu_collateral else {
            if self.gpu.is_none() && demand.is_none() {
                return Ok(Gpus::default());
            }
            let expected = "a folder with manifests and OCSP responses, for [gpu] or trust.gpu is set";
            return Err(self.value(FOLDER, "missing".into(), expected, FETCH));
        };
        let mut files = vec![self.gpu_collateral(folder)?];
        let roots = self.gpu_roots(folder)?;
        let simulated_roots = roots.as_ref().map(|roots| roots.each_ref().map(|file| file_hash(&file.bytes)));
        files.extend(roots.into_iter().flatten());
        let own = self.gpu.as_ref().map(|gpu| self.own_gpus(gpu, simulated_roots.clone())).transpose()?;
        let max_age = demand.map(|demand| self.demand(demand)).transpose()?;
        let peers = max_age.map(|max_age| PeerGpuConfig { max_age, simulated_roots });
        Ok(Gpus { own, peers, files })
    }

    fn own_gpus(
        &self,
        gpu: &GpuFragment,
        simulated_roots: Option<[String; 2]>,
    ) -> Result<GpuConfig, SettingsError> {
        const FIELD: &str = "gpu.policy";
        let wrong = |found: String, hint| self.value(FIELD, found, "a policy of GPUs", hint);
        let missing = || wrong("missing".into(), "name a file with such a line as `count = 1`");
        let path = gpu.policy.as_deref().ok_or_else(missing)?;
        let bytes = read("policy of GPUs", path, "name the keys of a policy's [gpu] table (TOML)", SMALL)?;
        let text = literal(bytes)
            .ok_or_else(|| wrong("a text with ''' or control characters".into(), "write it without them"))?;
        GpuSettings::parse(&text).map_err(|e| wrong(e.to_string(), "correct that file"))?;
        let Some(not_before) = gpu.not_before else {
            let hint = "give the present time: the guest's clock is the host's, and this bounds how far it can be turned back";
            return Err(self.value("gpu.not_before", "missing".into(), "Unix seconds", hint));
        };
        let required = gpu.required.unwrap_or(true);
        Ok(GpuConfig { policy: text, required, not_before, simulated_roots })
    }

    /// `fresh`, or the age that is allowed.
    fn demand(&self, text: &str) -> Result<Option<u32>, SettingsError> {
        let age = text.strip_prefix("cached:").and_then(|seconds| seconds.parse().ok());
        if text == "fresh" || age.is_some() {
            return Ok(age);
        }
        let expected = "\"fresh\" or \"cached:SECONDS\"";
        Err(self.value("trust.gpu", format!("{text:?}"), expected, "leave it out to demand no GPU"))
    }

    fn gpu_collateral(&self, folder: &Path) -> Result<File, SettingsError> {
        let rim = |bytes: &[u8]| {
            let xml = read_rim(bytes)?;
            Rim::parse(&xml).map(|_| xml)
        };
        let response = |bytes: &[u8]| OcspResponse::parse(bytes).map(|_| bytes.to_vec());
        let collateral = GpuCollateral {
            driver_rims: self.each(&folder.join("driver"), rim)?,
            vbios_rims: self.each(&folder.join("vbios"), rim)?,
            ocsp: self.each(&folder.join("ocsp"), response)?,
        };
        let bytes = collateral.to_json().into_bytes();
        // The guest's own bounds, which are on counts as well.
        GpuCollateral::parse(&bytes).map_err(|error| {
            let expected = format!("what fits {MAX_GPU_COLLATERAL} bytes for the guest");
            self.value(FOLDER, error.to_string(), &expected, "keep the manifests of firmware that is in use")
        })?;
        Ok(File { name: GPU_COLLATERAL_FILE.into(), bytes })
    }

    /// Every file of a folder, by name.
    fn each(
        &self,
        folder: &Path,
        parse: impl Fn(&[u8]) -> Result<Vec<u8>, GpuError>,
    ) -> Result<Vec<Vec<u8>>, SettingsError> {
        let unreadable = |source| SettingsError::Unreadable {
            what: "folder of GPU collateral",
            path: folder.into(),
            source,
            hint: FETCH,
        };
        let entries = std::fs::read_dir(folder).map_err(unreadable)?;
        let mut paths = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>();
        paths.iter_mut().for_each(|paths| paths.sort());
        let one = |path: &PathBuf| {
            let bytes = read("GPU collateral", path, FETCH, SMALL)?;
            parse(&bytes).map_err(|error| {
                let found = format!("{}: {error}", path.display());
                self.value(FOLDER, found, "manifests in driver/ and vbios/, OCSP responses in ocsp/", FETCH)
            })
        };
        paths.map_err(unreadable)?.iter().map(one).collect()
    }

    /// The roots of SIMULATED GPUs, if the folder has them: of devices and of manifests.
    fn gpu_roots(&self, folder: &Path) -> Result<Option<[File; 2]>, SettingsError> {
        let names = ["device-root.der", "rim-root.der"];
        if !names.iter().any(|name| folder.join(name).exists()) {
            return Ok(None);
        }
        let file = |name: &str| {
            let hint = "both roots or none: they are of SIMULATED GPUs";
            let bytes = read("root of SIMULATED GPUs", &folder.join(name), hint, SMALL)?;
            Ok(File { name: format!("gpu-{name}"), bytes })
        };
        let roots = [file(names[0])?, file(names[1])?];
        GpuPolicy::simulated(&roots[0].bytes, &roots[1].bytes).map_err(|error| {
            let expected = "roots that say SIMULATED";
            self.value(FOLDER, error.to_string(), expected, "NVIDIA's roots are built in: remove the files")
        })?;
        Ok(Some(roots))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fragment;
    use super::*;
    use protocol::config::StaticConfig;
    use simulator::gpu::GpuMachine;
    use std::fs;

    /// A folder with the collateral of a SIMULATED GPU, a policy, and a work folder.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let case = GpuMachine::Hopper(1).case().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("gpu/driver/550.xml", &case.driver_rims[0]);
        put("gpu/vbios/9600.xml", &case.vbios_rims[0]);
        case.ocsp.iter().enumerate().for_each(|(i, bytes)| put(&format!("gpu/ocsp/{i:02}.der"), bytes));
        put("gpu/device-root.der", &case.device_root);
        put("gpu/rim-root.der", &case.rim_root);
        put("gpu.toml", b"count = 1\n");
        dir
    }

    fn gpus(dir: &tempfile::TempDir, text: &str) -> Result<Gpus, String> {
        let path = dir.path().join("launch.toml");
        fs::write(&path, format!("schema = 1\n{text}")).unwrap();
        Fragment::read(&path).unwrap().input().gpus().map_err(|error| error.to_string())
    }

    const OWN: &str = "gpu_collateral = \"gpu\"\n[gpu]\npolicy = \"gpu.toml\"\nnot_before = 7\n";

    #[test]
    fn a_folder_becomes_one_document_and_the_roots_of_simulated_gpus_are_measured() {
        let dir = folder();
        let found = gpus(&dir, OWN).unwrap();
        let names: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, [GPU_COLLATERAL_FILE, "gpu-device-root.der", "gpu-rim-root.der"]);
        let collateral = GpuCollateral::parse(&found.files[0].bytes).unwrap();
        assert_eq!((collateral.driver_rims.len(), collateral.vbios_rims.len()), (1, 1));
        assert!(collateral.ocsp.len() > 5);
        let own = found.own.unwrap();
        assert_eq!((own.policy.as_str(), own.required, own.not_before), ("count = 1\n", true, 7));
        let roots = own.roots(&found.files).unwrap().unwrap();
        assert_eq!(roots[0].name, "gpu-device-root.der");
        assert!(found.peers.is_none());
        for name in ["device-root.der", "rim-root.der"] {
            fs::remove_file(dir.path().join("gpu").join(name)).unwrap();
        }
        let found = gpus(&dir, &format!("{OWN}required = false\n")).unwrap();
        assert_eq!(found.files.len(), 1);
        let own = found.own.unwrap();
        assert!(own.simulated_roots.is_none() && !own.required);
    }

    #[test]
    fn evidence_of_peers_gpus_is_demanded_fresh_or_of_an_age() {
        let dir = folder();
        let peers = |demand: &str| {
            gpus(&dir, &format!("gpu_collateral = \"gpu\"\n[trust]\ngpu = \"{demand}\"\n"))
                .map(|g| g.peers.unwrap())
        };
        assert_eq!(peers("fresh").unwrap().max_age, None);
        assert_eq!(peers("cached:300").unwrap().max_age, Some(300));
        let error = peers("old").unwrap_err();
        assert!(error.contains("line 4: `trust.gpu` is \"old\", expected \"fresh\""), "{error}");
    }

    #[test]
    fn what_lacks_or_can_not_be_read_is_named_before_a_machine_starts() {
        let dir = folder();
        let refuse = |text: &str| gpus(&dir, text).unwrap_err();
        let error = refuse("[gpu]\npolicy = \"gpu.toml\"\nnot_before = 7\n");
        assert!(
            error.contains("`gpu_collateral` is missing") && error.contains("chrysalis gpu trust"),
            "{error}"
        );
        assert!(refuse("[trust]\ngpu = \"fresh\"\n").contains("`gpu_collateral` is missing"));
        assert!(refuse(&OWN.replace("not_before = 7\n", "")).contains("`gpu.not_before` is missing"));
        assert!(refuse(&OWN.replace("\"gpu\"", "\"absent\"")).contains("absent/driver"));
        fs::write(dir.path().join("gpu.toml"), "cuont = 1\n").unwrap();
        assert!(refuse(OWN).contains("cuont"));
        fs::write(dir.path().join("gpu.toml"), "count = 1\n").unwrap();
        fs::write(dir.path().join("gpu/ocsp/99.der"), "no response").unwrap();
        let error = refuse(OWN);
        assert!(error.contains("99.der") && error.contains("OCSP response"), "{error}");
        fs::remove_file(dir.path().join("gpu/ocsp/99.der")).unwrap();
        fs::write(dir.path().join("gpu/vbios/a.xml"), "<x/>").unwrap();
        assert!(refuse(OWN).contains("vbios/a.xml"));
        fs::remove_file(dir.path().join("gpu/vbios/a.xml")).unwrap();
        fs::remove_file(dir.path().join("gpu/rim-root.der")).unwrap();
        assert!(refuse(OWN).contains("both roots or none"));
        fs::write(dir.path().join("gpu/rim-root.der"), "no root").unwrap();
        assert!(refuse(OWN).contains("roots that say SIMULATED"));
    }

    #[test]
    fn what_is_written_is_what_the_guest_reads() {
        let found = gpus(&folder(), OWN).unwrap();
        let mut text = String::from("schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n");
        crate::handoff::gpu_toml(found.own.as_ref().unwrap(), &mut text);
        assert_eq!(StaticConfig::parse(text.as_bytes()).unwrap().gpu, found.own);
    }
}
