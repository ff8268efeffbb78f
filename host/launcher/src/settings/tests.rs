//! Each way in which settings can be wrong, with the message that a person gets.

use super::*;
use measure::{Boot, Platform};
use protocol::config::StaticConfig;
use std::fs;
use tempfile::TempDir;

const ROOT: &str = "abababababababababababababababababababababababababababababababab";

/// A folder with an image and a model, and a settings file `launch.toml` that names them.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join("image")).unwrap();
        put("image/uki.efi", "MZ");
        put("image/disk.raw", "disk");
        put("model.img", "model");
        put("model.json", &format!("{{\"name\":\"m\",\"root\":\"{ROOT}\",\"data_blocks\":3,\"files\":[]}}"));
        Place(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settle(&self, more: &str) -> Result<Settings, SettingsError> {
        let path = self.path("launch.toml");
        fs::write(&path, format!("schema = 1\nimage = \"image\"\n{more}")).unwrap();
        Fragment::read(&path)?.settle()
    }

    /// The refusal, with the folder's own name taken out.
    fn refusal(&self, more: &str) -> String {
        let text = self.settle(more).unwrap_err().to_string();
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn defaults_make_a_whole_machine() {
    let place = Place::new();
    let settings = place.settle("").unwrap();
    assert_eq!(settings.boot, Boot::Direct);
    assert_eq!((settings.vcpus, settings.memory_mib), (2, 2048));
    assert_eq!(settings.listen, "127.0.0.1:0".parse().unwrap());
    assert_eq!(settings.image.uki, place.path("image/uki.efi"), "paths count from the file's folder");
    assert!(settings.work_dir.is_absolute());
    let config = StaticConfig::parse(&settings.static_config).unwrap();
    assert_eq!((config.network.as_str(), config.models.len()), ("local", 0));
}

#[test]
fn models_are_pinned_by_the_file_beside_them() {
    let settings = Place::new().settle("[[models]]\nimage = \"model.img\"\n").unwrap();
    let config = StaticConfig::parse(&settings.static_config).unwrap();
    assert_eq!(config.models, [settings.models[0].pin.clone()]);
    assert_eq!((config.models[0].root.as_str(), config.models[0].data_blocks), (ROOT, 3));
}

#[test]
fn an_unknown_field_is_refused_with_line_and_guess() {
    let text = Place::new().refusal("[shape]\nvcpu = 4\n");
    assert!(text.starts_with("launch.toml line 4: unknown field `vcpu`"), "{text}");
    assert!(text.ends_with("; did you mean `vcpus`?"), "{text}");
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_line() {
    let text = Place::new().refusal("boot = 3\n");
    assert!(text.starts_with("launch.toml line 3: invalid type: integer `3`, expected a string"), "{text}");
}

#[test]
fn a_file_without_schema_is_refused() {
    let text = Fragment::parse("x.toml", "boot = \"disk\"\n").unwrap_err().to_string();
    assert_eq!(text, "x.toml: `schema` is missing, expected 1; start the file with `schema = 1`");
    let text = Fragment::parse("x.toml", "\nschema = 2\n").unwrap_err().to_string();
    assert!(text.starts_with("x.toml line 2: `schema` is 2, expected 1"), "{text}");
}

#[test]
fn values_out_of_range_are_refused_with_place_expectation_and_advice() {
    let place = Place::new();
    for (settings, message) in [
        (
            "platform = \"sev\"",
            "launch.toml line 3: `platform` is \"sev\", expected \"emulated\" or \"tdx\"; ",
        ),
        ("boot = \"usb\"", "launch.toml line 3: `boot` is \"usb\", expected \"direct\" or \"disk\"; "),
        ("role = \"client\"", "launch.toml line 3: `role` is \"client\", expected \"worker\" or \"proxy\"; "),
        ("network = \"a b\"", "launch.toml line 3: `network` is \"a b\", expected 1 to 64 letters"),
        (
            "listen = \"0.0.0.0:1\"",
            "launch.toml line 3: `listen` is \"0.0.0.0:1\", expected a loopback address",
        ),
        ("listen = \"8443\"", "launch.toml line 3: `listen` is \"8443\", expected a loopback address"),
        ("[shape]\nvcpus = 0", "launch.toml line 4: `shape.vcpus` is 0, expected 1 to 255; "),
        (
            "[shape]\nmemory_mib = 64",
            "launch.toml line 4: `shape.memory_mib` is 64, expected 512 to 524288; ",
        ),
        ("[[models]]", "settings: `models[0].image` is missing, expected a model disk; "),
    ] {
        let text = place.refusal(settings);
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn missing_files_are_named_with_the_command_that_makes_them() {
    let place = Place::new();
    for (settings, message) in [
        ("simulated_platform = \"pki\"", "simulated platform's identity pki/identity.bin: No such file"),
        ("static_config = \"none.toml\"", "static configuration none.toml: No such file"),
        ("[[models]]\nimage = \"none.img\"", "model disk none.img: No such file"),
        ("[[models]]\nimage = \"model.img\"\npin = \"none.json\"", "model pin none.json: No such file"),
    ] {
        let text = place.refusal(settings);
        assert!(text.starts_with(message), "{text}");
        assert!(text.contains("; "), "no advice in {text}");
    }
    fs::remove_file(place.path("image/uki.efi")).unwrap();
    assert!(place.refusal("").starts_with("image artifact image/uki.efi: No such file"));
    assert!(place.settle("boot = \"disk\"").is_ok(), "a disk boot needs no separate UKI");
}

#[test]
fn a_static_configuration_beside_role_or_network_is_contradictory() {
    let place = Place::new();
    fs::write(place.path("s.toml"), "schema = 1\nrole = \"worker\"\nnetwork = \"x\"\n").unwrap();
    let text = place.refusal("static_config = \"s.toml\"\nnetwork = \"y\"\n");
    assert!(text.starts_with("launch.toml line 4: `network` is \"y\", expected nothing beside"), "{text}");
    let settings = place.settle("static_config = \"s.toml\"\n").unwrap();
    assert_eq!(
        settings.static_config,
        fs::read(place.path("s.toml")).unwrap(),
        "bytes are handed over as given"
    );
}

#[test]
fn a_static_configuration_that_pins_other_models_is_refused() {
    let place = Place::new();
    fs::write(place.path("s.toml"), "schema = 1\nrole = \"worker\"\nnetwork = \"x\"\n").unwrap();
    let text = place.refusal("static_config = \"s.toml\"\n[[models]]\nimage = \"model.img\"\n");
    assert!(text.contains("expected the models of these settings, [\"m abab"), "{text}");
}

#[test]
fn a_pin_that_no_guest_would_accept_is_refused() {
    let place = Place::new();
    for pin in [
        "{",
        "{\"name\":\"m\",\"root\":\"xyz\",\"data_blocks\":3}",
        "{\"name\":\"a\\\"b\",\"root\":\"\",\"data_blocks\":1}",
    ] {
        fs::write(place.path("model.json"), pin).unwrap();
        let text = place.refusal("[[models]]\nimage = \"model.img\"\n");
        assert!(text.contains("chrysalis model pack"), "{text}");
    }
}

#[test]
fn more_model_disks_than_slots_are_refused() {
    let text = Place::new().refusal(&"[[models]]\nimage = \"model.img\"\n".repeat(9));
    assert!(text.starts_with("settings: `models` is 9 disks, expected at most 8; "), "{text}");
}

/// A place with what a guest needs to believe peers of one SIMULATED platform, and the section that names it.
fn trusting() -> (Place, String) {
    let place = Place::new();
    let platform = simulator::Platform::generate(1_790_000_000).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(place.path(name), bytes).unwrap();
    put("root.der", &platform.root_der().unwrap());
    put("collateral.json", platform.collateral().unwrap().to_json().as_bytes());
    put("policy.toml", b"schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n");
    let zeros = "00".repeat(48);
    let registers: Vec<String> =
        ["mrtd", "rtmr0", "rtmr1", "rtmr2"].iter().map(|name| format!("\"{name}\":\"{zeros}\"")).collect();
    put(
        "peers.json",
        format!("{{\"schema\":1,\"releases\":[{{\"name\":\"r\",{}}}]}}", registers.join(",")).as_bytes(),
    );
    let files = "policy = \"policy.toml\"\ncollateral = \"collateral.json\"\nreferences = [\"peers.json\"]\n";
    (place, format!("[trust]\nnot_before = 1790000000\n{files}"))
}

#[test]
fn trust_is_measured_by_the_hashes_of_the_files_that_travel_beside_it() {
    let (place, section) = trusting();
    let settings = place.settle(&format!("dial = [\"10.0.2.2:8443\"]\n{section}")).unwrap();
    assert_eq!(settings.runtime.dial, ["10.0.2.2:8443"]);
    let trust = StaticConfig::parse(&settings.static_config).unwrap().trust.unwrap();
    assert_eq!(trust.policy.as_bytes(), fs::read(place.path("policy.toml")).unwrap());
    assert_eq!(
        trust.references(&settings.files).unwrap()[0].bytes,
        fs::read(place.path("peers.json")).unwrap()
    );
    let root = trust.simulated_root(&settings.files).unwrap().unwrap();
    assert_eq!(root.bytes, fs::read(place.path("root.der")).unwrap());
    let disk = crate::handoff::handoff_disk(&settings);
    assert_eq!(protocol::handoff::Handoff::from_disk(&disk).unwrap().files, settings.files);
}

#[test]
fn trust_that_is_not_whole_is_refused_with_what_is_missing() {
    let (place, section) = trusting();
    for (line, message) in [
        ("not_before = 1790000000", "`trust.not_before` is missing"),
        ("policy = \"policy.toml\"", "`trust.policy` is missing"),
        ("collateral = \"collateral.json\"", "`trust.collateral` is missing"),
        ("references = [\"peers.json\"]", "0 hashes"),
    ] {
        let text = place.refusal(&section.replace(line, ""));
        assert!(text.contains(message), "{text}");
    }
    fs::remove_file(place.path("root.der")).unwrap();
    assert!(place.refusal(&section).starts_with("simulated root root.der: No such file"));
    fs::write(place.path("policy.toml"), "schema = 1\nplatform = \"tdx\"\nroot = \"x\"\n").unwrap();
    assert!(place.refusal(&section).contains("root of its own"));
}

/// The same with a publication of now in the place of references, which is changed before it is written.
fn published(change: impl FnOnce(&mut release::samples::Publication)) -> (Place, String) {
    let (place, section) = trusting();
    let now = release::SystemClock::start().now().host;
    let mut publication = release::samples::publication(now, 1).unwrap();
    change(&mut publication);
    for (path, bytes) in &publication.files {
        let path = place.path("publication").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(place.path("settings.toml"), publication.anchor.to_toml()).unwrap();
    let lines = "publication = \"settings.toml\"\nsource = \"publication\"";
    (place, section.replace("references = [\"peers.json\"]", lines))
}

#[test]
fn a_publication_is_measured_by_its_settings_and_handed_over_verified() {
    let (place, section) = published(|_| {});
    let settings = place.settle(&format!("mirror = \"10.0.2.2:8000/releases\"\n{section}")).unwrap();
    assert_eq!(settings.runtime.mirror.as_deref(), Some("10.0.2.2:8000/releases"));
    let trust = StaticConfig::parse(&settings.static_config).unwrap().trust.unwrap();
    assert_eq!(trust.publication, Some(fs::read_to_string(place.path("settings.toml")).unwrap()));
    let disk = crate::handoff::handoff_disk(&settings);
    let files = protocol::handoff::Handoff::from_disk(&disk).unwrap().files;
    let handed = files.iter().find(|file| file.name == protocol::handoff::PUBLICATION_FILE).unwrap();
    let bundle = release::Bundle::from_bytes(&handed.bytes).unwrap();
    let anchor = release::Anchor::parse(&trust.publication.unwrap()).unwrap();
    assert_eq!(measure::Digest256::of(&bundle.first_root().unwrap()), anchor.root);
}

#[test]
fn a_publication_of_which_the_guest_would_accept_nothing_starts_no_machine() {
    let now = release::SystemClock::start().now().host;
    let (place, section) =
        published(|publication| publication.restate(now, release::State::Revoked).unwrap());
    let text = place.refusal(&section);
    assert!(text.contains("nothing is accepted") && text.contains("revoked: a hole"), "{text}");
    let (place, section) = published(|publication| {
        publication.files.remove("metadata/timestamp.json");
    });
    assert!(place.refusal(&section).contains("timestamp.json: not on the mirror"));
    let (place, section) = published(|_| {});
    let both = format!("{section}references = [\"peers.json\"]\n");
    assert!(place.refusal(&both).contains("one of the two"));
    let no_source = section.replace("source = \"publication\"", "");
    assert!(place.refusal(&no_source).contains("`trust.source` is missing"));
    let named = format!("mirror = \"mirror.example:8000\"\n{section}");
    assert!(place.refusal(&named).contains("looks up no names"));
}

#[test]
fn a_later_fragment_wins_field_by_field() {
    let base =
        Fragment::parse("a", "schema = 1\nboot = \"disk\"\n[shape]\nvcpus = 3\nmemory_mib = 600\n").unwrap();
    let over =
        Fragment { shape: Some(ShapeFragment { vcpus: Some(5), memory_mib: None }), ..Fragment::default() };
    let input = base.merge(over).input();
    assert_eq!((input.boot.as_str(), input.vcpus, input.memory_mib), ("disk", 5, 600));
}

#[test]
fn a_refused_value_names_the_fragment_that_set_it() {
    let a = Fragment::parse("a.toml", "schema = 1\nboot = \"usb\"\n").unwrap();
    let b = Fragment::parse("b.toml", "schema = 1\n").unwrap();
    let text = a.merge(b).settle().unwrap_err().to_string();
    assert!(text.starts_with("a.toml line 2: "), "{text}");
}

#[test]
fn every_size_that_settings_allow_can_be_predicted() {
    let place = Place::new();
    for (vcpus, memory) in [(1, 512), (255, 524_288)] {
        let settings = place.settle(&format!("[shape]\nvcpus = {vcpus}\nmemory_mib = {memory}\n")).unwrap();
        settings.shape().check(Platform::Emulated).unwrap();
    }
}

#[test]
fn a_trust_domain_has_defaults_and_the_shape_that_is_published_for_it() {
    let place = Place::new();
    let one = "platform = \"tdx\"\nwork_dir = \"a\"\n[shape]\nvcpus = 32\nmemory_mib = 65536\n";
    let settings = place.settle(&format!("{one}[tdx]\ngpus = [\"17:00.0\"]\ngpu = \"h200\"\n")).unwrap();
    let domain = settings.platform.trust_domain().unwrap();
    assert_eq!(domain.quotes.to_string(), "vsock:2:4050");
    assert_eq!(domain.gpus[0].as_str(), "0000:17:00.0");
    assert_eq!(settings.firmware.vars, None);
    let published = "schema = 1\nvcpus = 32\nmemory_mib = 65536\nmodel_disks = 0\ngpus = 1\ngpu = \"h200\"\n";
    assert_eq!(settings.shape(), measure::Shape::from_toml(published).unwrap());
    settings.shape().check(Platform::Tdx).unwrap();
    let other = place.settle(&one.replace("\"a\"", "\"b\"")).unwrap();
    let vsock = |settings: &Settings| settings.platform.trust_domain().unwrap().vsock.clone();
    assert_ne!(vsock(&settings), vsock(&other), "instances have contexts of their own");
}

#[test]
fn contradictory_platforms_and_devices_are_refused_with_line_and_hint() {
    let place = Place::new();
    let tdx = "platform = \"tdx\"\n[tdx]\n";
    for (more, message) in [
        (
            "[tdx]\ncid = 4",
            "launch.toml line 3: `tdx` is there, expected nothing beside platform \"emulated\"; ",
        ),
        (
            "platform = \"tdx\"\nsimulated_platform = \"pki\"",
            "launch.toml line 4: `simulated_platform` is \"pki\", expected nothing beside platform \"tdx\"; ",
        ),
        (
            "platform = \"tdx\"\n[firmware]\nvars = \"x.fd\"",
            "launch.toml line 5: `firmware.vars` is \"x.fd\", expected nothing beside platform \"tdx\"; ",
        ),
        (
            "platform = \"tdx\"\n[shape]\nvcpus = 513",
            "launch.toml line 5: `shape.vcpus` is 513, expected 1 to 512; ",
        ),
        (
            "platform = \"tdx\"\n[shape]\nmemory_mib = 512",
            "launch.toml line 5: `shape.memory_mib` is 512, expected 1024 to 6291456; ",
        ),
        (
            &format!("{tdx}gpus = [\"17:00\"]"),
            "launch.toml line 5: `tdx.gpus` is \"17:00\", expected PCI addresses",
        ),
        (&format!("{tdx}gpus = [\"17:00.0\"]"), "settings: `tdx.gpu` is missing, expected \"h100\""),
        (
            &format!("{tdx}gpu = \"h100\""),
            "launch.toml line 5: `tdx.gpu` is \"h100\", expected nothing without `gpus`",
        ),
        (
            &format!("{tdx}gpu = \"a100\"\ngpus = [\"17:00.0\"]"),
            "launch.toml line 5: `tdx.gpu` is \"a100\", expected \"h100\"",
        ),
        (
            &format!("{tdx}gpu = \"h100\"\ngpus = [\"17:00.0\", \"0000:17:00.0\"]"),
            "launch.toml line 6: `tdx.gpus` is 0000:17:00.0 twice, expected each device once; ",
        ),
    ] {
        let text = place.refusal(more);
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn sockets_and_sizes_of_a_trust_domain_that_cannot_be_are_refused() {
    let place = Place::new();
    let tdx = "platform = \"tdx\"\n[tdx]\n";
    for (more, message) in [
        (
            &format!("{tdx}nvswitches = [\"17:00.0\"]"),
            "launch.toml line 5: `tdx.nvswitches` is there, expected GPUs beside them; ",
        ),
        (
            &format!("{tdx}quotes = \"vsock:2\""),
            "launch.toml line 5: `tdx.quotes` is \"vsock:2\", expected \"vsock:2:4050\"",
        ),
        (
            &format!("{tdx}quotes = \"unix:qgs\""),
            "launch.toml line 5: `tdx.quotes` is \"unix:qgs\", expected",
        ),
        (&format!("{tdx}cid = 2"), "launch.toml line 5: `tdx.cid` is 2, expected 3 to 4294967294; "),
        (
            &format!("{tdx}cid = 5\nvsock = \"none\""),
            "launch.toml line 5: `tdx.cid` is there, expected nothing beside vsock \"none\"; ",
        ),
        (
            &format!("{tdx}vsock = \"vhost-user\""),
            "settings: `tdx.vsock_socket` is missing, expected a socket; ",
        ),
        (&format!("{tdx}vsock = \"usb\""), "launch.toml line 5: `tdx.vsock` is \"usb\", expected \"vhost\""),
        (
            &format!("{tdx}gpu_mode = \"on\""),
            "launch.toml line 5: `tdx.gpu_mode` is \"on\", expected nothing without `gpus`; ",
        ),
        (
            &format!("{tdx}gpu_mode = \"off\"\ngpu = \"h100\"\ngpus = [\"17:00.0\"]"),
            "launch.toml line 5: `tdx.gpu_mode` is \"off\", expected \"on\" or \"protected-pcie\"; the host could read",
        ),
        (
            &format!("{tdx}gpu_mode = \"devtools\"\ngpu = \"h100\"\ngpus = [\"17:00.0\"]"),
            "launch.toml line 5: `tdx.gpu_mode` is \"devtools\", expected \"on\" or",
        ),
        (
            &format!("{tdx}gpus_after = \"sell\"\ngpu = \"h100\"\ngpus = [\"17:00.0\"]"),
            "launch.toml line 5: `tdx.gpus_after` is \"sell\", expected \"keep\" or \"give-back\"; ",
        ),
        (
            &format!("{tdx}gpus_after = \"keep\""),
            "launch.toml line 5: `tdx.gpus_after` is \"keep\", expected nothing without `gpus`; ",
        ),
        (&format!("{tdx}phys_bits = 40"), "launch.toml line 5: `tdx.phys_bits` is 40, expected 46 to 52; "),
        (
            &format!("{tdx}qemu = \"10.0\""),
            "launch.toml line 5: `tdx.qemu` is \"10.0\", expected \"10.1\", \"10.2\"",
        ),
    ] {
        let text = place.refusal(more);
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn placement_and_life_that_cannot_be_are_refused() {
    let place = Place::new();
    for (more, message) in [
        (
            "[placement]\ncpus = [1, 2, 3]",
            "launch.toml line 4: `placement.cpus` is 3 processors, expected 2, one for each",
        ),
        (
            "[placement]\ncpus = [1, 1]",
            "launch.toml line 4: `placement.cpus` is 1 twice, expected each once; ",
        ),
        (
            "[placement]\nhugepages = \"4K\"",
            "launch.toml line 4: `placement.hugepages` is \"4K\", expected \"2M\"",
        ),
        (
            "[shape]\nmemory_mib = 1025\n[placement]\nhugepages = \"2M\"",
            "launch.toml line 4: `shape.memory_mib` is 1025, expected a whole number of 2M pages; ",
        ),
        (
            "[life]\nrestart = \"often\"",
            "launch.toml line 4: `life.restart` is \"often\", expected \"never\"",
        ),
        ("[life]\nattempts = 0", "launch.toml line 4: `life.attempts` is 0, expected 1 to 100; "),
        ("[life]\nboot_seconds = 0", "launch.toml line 4: `life.boot_seconds` is 0, expected 1 to 86400; "),
    ] {
        let text = place.refusal(more);
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn tables_of_two_files_are_laid_over_each_other_and_a_refusal_names_the_right_one() {
    let a = "schema = 1\n[life]\nrestart = \"always\"\nattempts = 3\n[placement]\nnodes = [1]\n";
    let b = "schema = 1\n[life]\nattempts = 200\n[placement]\ncpus = [0, 1]\n";
    let both = Fragment::parse("a.toml", a).unwrap().merge(Fragment::parse("b.toml", b).unwrap());
    let life = both.life.clone().unwrap();
    assert_eq!((life.restart.as_deref(), life.attempts), (Some("always"), Some(200)));
    let placement = both.input().placement().unwrap();
    assert_eq!((placement.cpus, placement.nodes), (vec![0, 1], vec![1]));
    let place = Place::new();
    let image = Fragment { image: Some(place.path("image")), ..Fragment::default() };
    let both = Fragment::parse("a.toml", a).unwrap().merge(Fragment::parse("b.toml", b).unwrap());
    let text = both.merge(image).settle().unwrap_err().to_string();
    assert!(text.starts_with("b.toml line 3: `life.attempts` is 200"), "{text}");
}
