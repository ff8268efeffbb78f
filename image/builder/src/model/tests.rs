//! Packing twice under different circumstances, and folders that are refused. Uses the tools root.

use super::*;
use crate::Checkout;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

fn tools() -> Tools {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Tools::open(&Checkout::at(&root).unwrap(), &mut |_| ()).unwrap()
}

/// A model folder; its files are made in the given order, with this mode and age.
fn folder(order: &[usize], mode: u32, age: Duration) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let weights: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("model.safetensors", &weights),
        ("tokenizer.json", b"{\"a\":1}"),
        ("1_Pooling/config.json", b"{\"b\":2}"),
        ("vocab.txt", b"a\nb\n"),
    ];
    for index in order {
        let (name, content) = files[*index];
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        set_mode(&path, mode).unwrap();
        File::open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }
    dir
}

fn plain() -> tempfile::TempDir {
    folder(&[0, 1, 2, 3, 4], 0o644, Duration::ZERO)
}

#[test]
fn equal_files_give_an_equal_disk_under_other_times_modes_and_orders() {
    let (tools, out) = (tools(), tempfile::tempdir().unwrap());
    let first = pack(&tools, plain().path(), &out.path().join("a"), "m", &mut |_| ()).unwrap();
    let other = folder(&[4, 3, 2, 1, 0], 0o600, Duration::from_secs(1_000_000));
    let second = pack(&tools, other.path(), &out.path().join("b"), "m", &mut |_| ()).unwrap();
    assert_eq!(first, second);
    let image = |dir: &str| fs::read(out.path().join(dir).join("model.img")).unwrap();
    assert_eq!(image("a"), image("b"));
    let json = fs::read(out.path().join("a/model.json")).unwrap();
    assert_eq!(serde_json::from_slice::<ModelDisk>(&json).unwrap(), first);
    assert_eq!(fs::read_dir(out.path().join("a")).unwrap().count(), 2);
}

#[test]
fn one_changed_byte_gives_another_root() {
    let (tools, out, dir) = (tools(), tempfile::tempdir().unwrap(), plain());
    let first = pack(&tools, dir.path(), out.path(), "m", &mut |_| ()).unwrap();
    fs::write(dir.path().join("vocab.txt"), "a\nc\n").unwrap();
    let second = pack(&tools, dir.path(), out.path(), "m", &mut |_| ()).unwrap();
    assert_ne!(first.root, second.root);
}

#[test]
fn the_disk_is_data_superblock_and_tree_and_verifies() {
    let (tools, out) = (tools(), tempfile::tempdir().unwrap());
    let disk = pack(&tools, plain().path(), out.path(), "m", &mut |_| ()).unwrap();
    let image = fs::read(out.path().join("model.img")).unwrap();
    let end_of_data = (disk.data_blocks * BLOCK) as usize;
    assert_eq!(&image[end_of_data..end_of_data + 6], b"verity");
    assert_eq!(disk.size, image.len() as u64);
    assert_eq!(&image[1024..1028], &0xe0f5_e1e2u32.to_le_bytes());
    // The root is the hash of the block behind the superblock: what the guest checks first.
    let top = end_of_data + BLOCK as usize;
    assert_eq!(crate::hash::bytes(&image[top..top + BLOCK as usize]), disk.root);
}

#[test]
fn what_no_program_reads_is_left_out_and_said() {
    let (tools, out, dir) = (tools(), tempfile::tempdir().unwrap(), plain());
    let first = pack(&tools, dir.path(), out.path(), "m", &mut |_| ()).unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), "pickle").unwrap();
    fs::write(dir.path().join(".gitattributes.json"), "x").unwrap();
    fs::create_dir_all(dir.path().join("onnx/deep")).unwrap();
    let second = pack(&tools, dir.path(), out.path(), "m", &mut |_| ()).unwrap();
    assert_eq!(second.left_out, [".gitattributes.json", "onnx/deep", "pytorch_model.bin"]);
    assert_eq!((first.root, first.files), (second.root, second.files));
}

#[test]
fn a_folder_without_weights_config_or_tokenizer_is_refused() {
    for missing in REQUIRED {
        let dir = plain();
        fs::remove_file(dir.path().join(missing)).unwrap();
        let text = survey(dir.path()).unwrap_err().to_string();
        assert!(text.contains(&format!("expected {missing}")), "{text}");
    }
}

#[test]
fn a_symbolic_link_is_refused_wherever_it_points() {
    for target in ["/etc/passwd", "config.json", "../..", "absent"] {
        for link in ["extra.json", "1_Pooling/extra.json", "folder"] {
            let dir = plain();
            symlink(target, dir.path().join(link)).unwrap();
            let text = survey(dir.path()).unwrap_err().to_string();
            assert!(text.contains("found a symbolic link"), "{text}");
        }
    }
}

#[test]
fn a_name_that_is_no_folder_of_its_own_is_refused() {
    for bad in ["", ".", "..", ".m", "a/b", "a b", "ä", &"m".repeat(65)] {
        assert!(check_name(bad).unwrap_err().to_string().contains("model name"), "accepted {bad}");
    }
    check_name("all-minilm-l6-v2").unwrap();
}

#[test]
fn other_output_of_veritysetup_is_refused() {
    let root = "0a".repeat(32);
    assert_eq!(root_hash(&format!("UUID: x\nRoot hash:      \t{root}\n")).unwrap(), root);
    for bad in ["", "Root hash: 0a", &format!("Salt: {root}"), &format!("Root hash: {}", root.to_uppercase())]
    {
        assert!(root_hash(bad).is_err(), "accepted {bad}");
    }
}
