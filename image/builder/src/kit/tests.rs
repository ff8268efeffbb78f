//! Kits of a small made-up project: made, copied, spoiled in every way, and unpacked.

use super::*;
use crate::checkout::Checkout;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const CRATE: &str = "tiny-1.2.3";
const DEB: &[u8] = b"a package";
/// A small file that every installed toolchain has.
const INSTALLED: &str = "lib/rustlib/etc/gdb_lookup.py";

fn quiet() -> impl FnMut(crate::Progress) {
    |_| {}
}

fn git(dir: &Path, args: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@invalid", "-c", "init.defaultBranch=main"]);
    let output = git.args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
}

/// A tar with these entries, path tricks included.
fn tarball(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        // The crate's own setter refuses what an attacker writes.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        if *kind == tar::EntryType::Symlink || *kind == tar::EntryType::Link {
            header.as_old_mut().linkname[..bytes.len()].copy_from_slice(bytes);
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
        } else {
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A project with one package, one crate and one file of the toolchain, and a cache that has them.
struct Project {
    dir: tempfile::TempDir,
    checkout: Checkout,
}

impl Project {
    fn new() -> Self {
        let krate = gzip(&tarball(&[("tiny-1.2.3/Cargo.toml", tar::EntryType::Regular, b"[package]")]));
        Project::with_crate(&krate)
    }

    fn with_crate(krate: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, cache) = (dir.path().join("project"), dir.path().join("cache"));
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        write(&root.join("image/mkosi.conf"), "");
        write(&root.join(".gitignore"), "/out\n");
        write(&root.join("out/secret"), "never in a kit");
        fs::copy(here.join("rust-toolchain.toml"), root.join("rust-toolchain.toml")).unwrap();
        let lock = fs::read_to_string(here.join(toolchain::FILE)).unwrap();
        let keep = |line: &&str| line.starts_with('#') || line.ends_with(INSTALLED);
        let lock: Vec<&str> = lock.lines().filter(keep).collect();
        assert_eq!(lock.len(), 4, "the lock lists {INSTALLED}");
        write(&root.join(toolchain::FILE), lock.join("\n") + "\n");
        let sha256 = crate::hash::bytes(DEB);
        let packages = format!(
            "# suite: trixie\n# snapshot: 20260912T075541Z\nhello 1:2.0-1 amd64 {sha256} {} pool/h.deb\n",
            DEB.len()
        );
        write(&root.join("image/packages.lock"), &packages);
        write(&root.join("image/tools.lock"), &packages);
        let cargo = format!(
            "version = 4\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n[[package]]\nname = \"tiny\"\n\
             version = \"1.2.3\"\nsource = \"registry\"\nchecksum = \"{}\"\n",
            crate::hash::bytes(krate)
        );
        write(&root.join("Cargo.lock"), cargo);
        write(&cache.join("debs/sha256").join(sha256), DEB);
        write(&cache.join(format!("cargo/registry/cache/any/{CRATE}.crate")), krate);
        git(&root, &["init", "-q"]);
        git(&root, &["add", "-A"]);
        git(&root, &["commit", "-q", "-m", "first"]);
        let checkout = Checkout::at(&root).unwrap().with_cache(&cache);
        Project { dir, checkout }
    }

    fn kit(&self, name: &str) -> Kit {
        let what = What::Commit("HEAD".into());
        make(&self.checkout, &what, &self.dir.path().join(name), &mut quiet()).unwrap()
    }

    fn unpack(&self, kit: &Kit) -> anyhow::Result<Checkout> {
        let root = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        unpack(kit, &root, &mut quiet())
    }

    /// The refusal of a kit whose index was changed, and whose objects are as the new index says.
    fn refusal(&self, change: impl FnOnce(&mut Index, &Path)) -> String {
        let kit = self.kit("changed");
        let mut index = kit.index().clone();
        change(&mut index, &kit.dir().join(OBJECTS));
        index.objects.sort();
        let named: Vec<&str> = index.objects.iter().map(|object| object.sha256.as_str()).collect();
        for entry in fs::read_dir(kit.dir().join(OBJECTS)).unwrap().flatten() {
            if !named.contains(&entry.file_name().to_str().unwrap()) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        fs::write(kit.dir().join(INDEX), index.to_bytes()).unwrap();
        let kit = Kit::open(kit.dir()).unwrap();
        kit.verify(&mut quiet()).unwrap();
        format!("{:#}", self.unpack(&kit).unwrap_err())
    }
}

/// Replaces an object of a kind by other bytes, and the index by what is true of them.
fn replace(index: &mut Index, objects: &Path, kind: Kind, bytes: &[u8]) {
    let object = index.objects.iter_mut().find(|object| object.kind == kind).unwrap();
    object.sha256 = crate::hash::bytes(bytes);
    object.size = bytes.len() as u64;
    fs::write(objects.join(&object.sha256), bytes).unwrap();
}

fn object(kit: &Kit, kind: Kind) -> (Object, PathBuf) {
    let object = kit.index().of(kind).next().unwrap().clone();
    let path = kit.dir().join(OBJECTS).join(&object.sha256);
    (object, path)
}

#[test]
fn a_kit_is_the_same_wherever_and_whenever_it_is_made() {
    let project = Project::new();
    let first = project.kit("first");
    // Neither what is not committed nor the time of a file counts.
    write(&project.checkout.root().join("untracked"), "x");
    git(project.checkout.root(), &["config", "core.autocrlf", "true"]);
    let second = project.kit("deeper/second");
    assert_eq!(first.index(), second.index());
    let read = |kit: &Kit| fs::read(kit.dir().join(INDEX)).unwrap();
    assert_eq!(crate::hash::bytes(&read(&first)), first.index().id());
    assert_eq!(read(&first), read(&second));
}

#[test]
fn a_kit_of_a_working_tree_holds_what_is_not_committed_and_leaves_git_alone() {
    let project = Project::new();
    write(&project.checkout.root().join("untracked"), "x");
    let git_folder = project.checkout.root().join(".git");
    let before = crate::hash::tree(&git_folder).unwrap();
    let at = |name: &str| project.dir.path().join(name);
    let kit = make(&project.checkout, &What::WorkingTree, &at("w"), &mut quiet()).unwrap();
    let again = make(&project.checkout, &What::WorkingTree, &at("v"), &mut quiet()).unwrap();
    assert_eq!(kit.index(), again.index());
    assert_eq!(crate::hash::tree(&git_folder).unwrap(), before);
    let source = project.unpack(&kit).unwrap().root().to_owned();
    assert!(source.join("untracked").is_file() && !source.join("out").exists());
}

#[test]
fn a_kit_alone_becomes_a_checkout_of_its_commit_with_everything_beside_it() {
    let project = Project::new();
    let kit = project.kit("kit");
    kit.verify(&mut quiet()).unwrap();
    let moved = project.dir.path().join("moved");
    fs::rename(kit.dir(), &moved).unwrap();
    let checkout = project.unpack(&Kit::open(&moved).unwrap()).unwrap();
    let ask = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(checkout.root()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(ask(&["rev-parse", "HEAD"]), kit.index().commit);
    assert_eq!(ask(&["status", "--porcelain"]), "");
    let cargo = checkout.cache().join("cargo");
    let crates = cargo.join("registry/src/index.crates.io-1949cf8c6b5b557f").join(CRATE);
    assert_eq!(fs::read(crates.join("Cargo.toml")).unwrap(), b"[package]");
    assert!(fs::read_to_string(crates.join(".cargo-checksum.json")).unwrap().contains("package"));
    assert!(fs::read_to_string(cargo.join("config.toml")).unwrap().contains("replace-with"));
    assert!(checkout.toolchain().unwrap().join(INSTALLED).is_file());
    assert_eq!(fs::read_dir(checkout.cache().join("debs/sha256")).unwrap().count(), 1);
}

#[test]
fn a_flipped_bit_is_found_and_the_object_named() {
    let project = Project::new();
    for kind in [Kind::Commit, Kind::Source, Kind::Crate, Kind::Package, Kind::Toolchain] {
        let kit = project.kit(&format!("{kind:?}"));
        let (object, path) = object(&kit, kind);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let kit = Kit::open(kit.dir()).unwrap();
        let error = kit.verify(&mut quiet()).unwrap_err();
        assert!(matches!(&error, KitError::Tampered { field: "SHA-256", .. }), "{error}");
        assert!(error.to_string().contains(&object.title()), "{error}");
        let error = format!("{:#}", project.unpack(&kit).unwrap_err());
        assert!(error.contains(&object.title()) && error.contains("SHA-256"), "{error}");
    }
}

#[test]
fn a_kit_that_lacks_or_adds_a_file_is_refused_before_anything_is_read() {
    let project = Project::new();
    let open = |kit: &Kit| Kit::open(kit.dir()).unwrap_err();
    let kit = project.kit("missing");
    fs::remove_file(object(&kit, Kind::Package).1).unwrap();
    assert!(matches!(open(&kit), KitError::Missing { .. }));
    let kit = project.kit("longer");
    fs::OpenOptions::new().append(true).open(object(&kit, Kind::Crate).1).unwrap().write_all(b"x").unwrap();
    assert!(matches!(open(&kit), KitError::Tampered { field: "size", .. }));
    let kit = project.kit("link");
    let path = object(&kit, Kind::Crate).1;
    fs::rename(&path, project.dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(project.dir.path().join("elsewhere"), &path).unwrap();
    assert!(matches!(open(&kit), KitError::Tampered { field: "kind", .. }));
    for extra in ["objects/more", "more"] {
        let kit = project.kit(&format!("extra {}", extra.len()));
        fs::write(kit.dir().join(extra), "x").unwrap();
        assert!(matches!(open(&kit), KitError::Extra { .. }));
    }
}

#[test]
fn what_the_locks_of_the_source_do_not_name_is_refused_even_if_the_index_does() {
    let project = Project::new();
    let error = project.refusal(|index, objects| replace(index, objects, Kind::Crate, b"another crate"));
    assert!(error.contains("crate tiny-1.2.3") && error.contains("not in the kit"), "{error}");
    let _ = fs::remove_dir_all(project.dir.path().join("changed"));
    let error = project.refusal(|index, objects| {
        let extra = Object {
            kind: Kind::Crate,
            name: "evil-0.0.1".into(),
            sha256: crate::hash::bytes(b"e"),
            size: 1,
        };
        fs::write(objects.join(&extra.sha256), b"e").unwrap();
        index.objects.push(extra);
    });
    assert!(error.contains("evil-0.0.1") && error.contains("locked by nothing"), "{error}");
    let _ = fs::remove_dir_all(project.dir.path().join("changed"));
    let error = project.refusal(|index, _| index.objects.retain(|object| object.kind != Kind::Package));
    assert!(error.contains("package hello 1:2.0-1 amd64") && error.contains("not in the kit"), "{error}");
}

#[test]
fn a_source_that_is_not_the_commits_is_refused() {
    let project = Project::new();
    let other = tarball(&[("image/mkosi.conf", tar::EntryType::Regular, b"other")]);
    let error = project.refusal(|index, objects| replace(index, objects, Kind::Source, &other));
    assert!(error.contains("the files make tree"), "{error}");
    let _ = fs::remove_dir_all(project.dir.path().join("changed"));
    let error = project.refusal(|index, _| index.commit = "0".repeat(40));
    assert!(error.contains("git hashes it to"), "{error}");
}

#[test]
fn an_archive_that_writes_elsewhere_or_into_git_is_refused() {
    use tar::EntryType::{Fifo, Link, Regular, Symlink};
    let project = Project::new();
    let outside = project.dir.path().join("outside");
    let cases: [(&str, tar::EntryType, &[u8]); 7] = [
        ("../outside", Regular, b"x"),
        ("/chrysalis-was-here", Regular, b"x"),
        ("a/../../outside", Regular, b"x"),
        (".git/config", Regular, b"[core]\n\tfsmonitor = touch /chrysalis-was-here\n"),
        ("deep/.GIT/hooks/x", Regular, b"x"),
        ("link", Symlink, b"/etc"),
        ("hard", Link, b"/etc/passwd"),
    ];
    for (number, case) in cases.into_iter().chain([("fifo", Fifo, &b""[..])]).enumerate() {
        let tar = tarball(&[case]);
        let error = project.refusal(|index, objects| replace(index, objects, Kind::Source, &tar));
        assert!(error.contains("the archive of the source") || error.contains("tree"), "{number}: {error}");
        assert!(!outside.exists() && !Path::new("/chrysalis-was-here").exists(), "{number}");
        fs::remove_dir_all(project.dir.path().join("changed")).unwrap();
    }
}

#[test]
fn a_crate_that_unpacks_beside_its_folder_is_refused() {
    for path in ["other-1.0.0/Cargo.toml", "tiny-1.2.3/../other-1.0.0/build.rs", "/tiny-1.2.3/x"] {
        let krate = gzip(&tarball(&[(path, tar::EntryType::Regular, b"x")]));
        let project = Project::with_crate(&krate);
        let error = format!("{:#}", project.unpack(&project.kit("kit")).unwrap_err());
        assert!(error.contains(CRATE) && error.contains("leads elsewhere"), "{path}: {error}");
    }
}

/// Serves a kit's folder; what `change` returns instead, if it returns something.
struct Server<'a> {
    kit: &'a Kit,
    change: &'a dyn Fn(&str) -> Option<Box<dyn Read>>,
}

impl Mirror for Server<'_> {
    fn open(&self, path: &str) -> Result<Box<dyn Read>, KitError> {
        let file = || fs::File::open(self.kit.dir().join(path)).map_err(KitError::io(path));
        (self.change)(path).map_or_else(|| Ok(Box::new(file()?) as Box<dyn Read>), Ok)
    }
}

#[test]
fn a_mirror_gives_the_kit_and_a_second_attempt_goes_on_where_the_first_broke_off() {
    let project = Project::new();
    let kit = project.kit("kit");
    let to = project.dir.path().join("fetched");
    let (broken, _) = object(&kit, Kind::Toolchain);
    let cut =
        |path: &str| path.ends_with(&broken.sha256).then(|| Box::new(std::io::empty()) as Box<dyn Read>);
    let server = Server { kit: &kit, change: &cut };
    let error = fetch(&server, &to, &mut quiet()).unwrap_err();
    assert!(matches!(&error, KitError::Tampered { field: "size", .. }), "{error}");
    let served = std::cell::Cell::new(0);
    let count = |_: &str| -> Option<Box<dyn Read>> {
        served.set(served.get() + 1);
        None
    };
    let fetched = fetch(&Server { kit: &kit, change: &count }, &to, &mut quiet()).unwrap();
    assert_eq!(fetched.index(), kit.index());
    assert!(served.get() < kit.index().objects.len(), "only what was missing is fetched again");
    fetched.verify(&mut quiet()).unwrap();
}

#[test]
fn an_endless_mirror_is_cut_off() {
    let project = Project::new();
    let kit = project.kit("kit");
    for end in [INDEX, &object(&kit, Kind::Source).0.sha256] {
        let endless =
            |path: &str| path.ends_with(end).then(|| Box::new(std::io::repeat(b'x')) as Box<dyn Read>);
        let server = Server { kit: &kit, change: &endless };
        let to = project.dir.path().join(format!("to-{}", end.len()));
        let error = fetch(&server, &to, &mut quiet()).unwrap_err().to_string();
        assert!(error.contains("or more"), "{error}");
    }
}

#[test]
fn an_index_with_tricks_is_refused() {
    let index = |change: &dyn Fn(&mut Index)| {
        let one = |kind, name: &str| Object { kind, name: name.into(), sha256: "ab".repeat(32), size: 1 };
        let objects = vec![one(Kind::Commit, "c"), one(Kind::Source, "s"), one(Kind::Crate, "a-1")];
        let mut index = Index { schema: 1, commit: "0".repeat(40), objects };
        change(&mut index);
        Index::parse("index.json", &index.to_bytes())
    };
    index(&|_| {}).unwrap();
    let changes: [(&str, &dyn Fn(&mut Index)); 9] = [
        ("schema 2", &|i| i.schema = 2),
        ("40 hex digits", &|i| i.commit = "../x".into()),
        ("SHA-256", &|i| i.objects[0].sha256 = "../../etc/passwd".into()),
        ("SHA-256", &|i| i.objects[0].sha256 = "AB".repeat(32)),
        ("a path elsewhere", &|i| i.objects[2].name = "../../x".into()),
        ("a path elsewhere", &|i| i.objects[2].name = "a\u{202e}b".into()),
        ("at most", &|i| i.objects[2].size = u64::MAX),
        ("twice", &|i| i.objects.push(i.objects[2].clone())),
        ("expected 1", &|i| i.objects.truncate(1)),
    ];
    for (word, change) in changes {
        let error = index(change).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    let spaced = String::from_utf8(index(&|_| {}).unwrap().to_bytes()).unwrap() + " ";
    assert!(Index::parse("index.json", spaced.as_bytes()).unwrap_err().to_string().contains("spelling"));
    assert!(
        Index::parse("index.json", &vec![b' '; MAX_INDEX + 1]).unwrap_err().to_string().contains("at most")
    );
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_are_an_index(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(index) = Index::parse("x", &bytes) {
            prop_assert_eq!(index.to_bytes(), bytes);
        }
    }

    #[test]
    fn any_index_keeps_its_bounds(
        schema in 0u32..3,
        objects in prop::collection::vec(("[a-c./ -]{0,6}", "[0-9a-f]{64}", any::<u64>(), 0usize..5), 0..6),
    ) {
        let kinds = [Kind::Commit, Kind::Source, Kind::Crate, Kind::Package, Kind::Toolchain];
        let objects = objects.into_iter().map(|(name, sha256, size, kind)| {
            Object { kind: kinds[kind], name, sha256, size }
        });
        let index = Index { schema, commit: "0".repeat(40), objects: objects.collect() };
        if let Ok(read) = Index::parse("x", &index.to_bytes()) {
            prop_assert_eq!(&read, &index);
            prop_assert!(read.objects.iter().all(|o| !o.name.starts_with('/') && !o.name.contains("..")));
            prop_assert!(read.size() <= 16 << 30);
        }
    }
}
