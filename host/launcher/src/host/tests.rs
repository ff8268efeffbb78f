//! A lying file system: pipes, loops, huge files, bytes that are no text; and recordings that are no recordings.

use super::*;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::os::unix::fs::symlink;
use std::path::Path;

fn root(make: impl FnOnce(&Path)) -> (tempfile::TempDir, Real) {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let host = Real::below(dir.path());
    (dir, host)
}

#[test]
fn a_named_pipe_in_the_place_of_a_file_is_told_and_nothing_waits() {
    let (_dir, host) = root(|dir| {
        mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        std::fs::create_dir(dir.join("dir")).unwrap();
    });
    for question in [
        Question::File("/pipe".into()),
        Question::Line("/pipe".into(), "x"),
        Question::Hex("/pipe".into()),
        Question::Tdvf("/pipe".into()),
        Question::File("/dir".into()),
    ] {
        assert!(matches!(host.ask(&question), Err(Miss::OtherKind(_))), "{question}");
    }
    assert_eq!(host.ask(&Question::Kind("/pipe".into())), Ok("fifo".into()));
}

#[test]
fn links_that_lead_nowhere_or_in_circles_are_misses() {
    let (_dir, host) = root(|dir| {
        symlink("b", dir.join("a")).unwrap();
        symlink("a", dir.join("b")).unwrap();
        symlink("gone", dir.join("dangling")).unwrap();
    });
    assert!(matches!(host.ask(&Question::File("/a".into())), Err(Miss::Failed(_))));
    assert!(matches!(host.ask(&Question::Dir("/a".into())), Err(Miss::Failed(_))));
    assert_eq!(host.ask(&Question::File("/dangling".into())), Err(Miss::Absent));
    assert_eq!(host.ask(&Question::Link("/a".into())), Ok("b".into()));
}

#[test]
fn huge_files_and_folders_are_read_up_to_a_limit() {
    let (_dir, host) = root(|dir| {
        std::fs::File::create(dir.join("huge")).unwrap().set_len(1 << 40).unwrap();
        std::fs::write(dir.join("long"), "x".repeat(MAX_ANSWER + 1)).unwrap();
        std::fs::create_dir(dir.join("many")).unwrap();
        (0..MAX_NAMES + 50).for_each(|i| std::fs::write(dir.join(format!("many/{i}")), "").unwrap());
    });
    assert_eq!(host.ask(&Question::File("/huge".into())).unwrap().len(), MAX_ANSWER);
    assert_eq!(host.ask(&Question::File("/long".into())).unwrap().len(), MAX_ANSWER);
    assert_eq!(host.ask(&Question::Line("/huge".into(), "x")), Err(Miss::Absent));
    assert_eq!(host.ask(&Question::Dir("/many".into())).unwrap().lines().count(), MAX_NAMES);
    assert!(host.ask(&Question::Tdvf("/huge".into())).is_err());
}

#[test]
fn bytes_that_are_no_text_are_shown_as_such() {
    let (_dir, host) = root(|dir| std::fs::write(dir.join("odd"), [0xff, b'a', 0xc3, 0x28, 0]).unwrap());
    assert_eq!(host.ask(&Question::File("/odd".into())).unwrap(), "\u{fffd}a\u{fffd}(\0");
    assert_eq!(host.ask(&Question::Hex("/odd".into())).unwrap(), "ff61c32800");
}

#[test]
fn the_functions_of_a_vendor_are_found_and_a_broken_one_is_passed_over() {
    let (_dir, host) = root(|dir| {
        let base = dir.join("sys/bus/pci/devices");
        for (address, vendor, device) in [
            ("0000:00:02.0", "0x8086", "0x1234"),
            ("0000:17:00.0", "0x10de", "0x2330"),
            ("0000:18:00.0", "0x10de", ""),
        ] {
            std::fs::create_dir_all(base.join(address)).unwrap();
            std::fs::write(base.join(address).join("vendor"), format!("{vendor}\n")).unwrap();
            std::fs::write(base.join(address).join("class"), "0x030200\n").unwrap();
            if !device.is_empty() {
                std::fs::write(base.join(address).join("device"), format!("{device}\n")).unwrap();
            }
        }
    });
    assert_eq!(host.ask(&Question::Pci(0x10de)), Ok("0000:17:00.0 0x2330 0x030200".into()));
}

#[test]
fn a_register_is_read_where_the_region_has_one() {
    let (_dir, host) = root(|dir| {
        let device = dir.join("sys/bus/pci/devices/0000:17:00.0");
        std::fs::create_dir_all(&device).unwrap();
        let mut bytes = vec![0; 0x3000];
        bytes[0x2004..0x2008].copy_from_slice(&0xff_u32.to_le_bytes());
        std::fs::write(device.join("resource0"), bytes).unwrap();
    });
    let ask = |offset| host.ask(&Question::Register("0000:17:00.0".into(), offset));
    assert_eq!(ask(0x2004), Ok("0xff".into()));
    for outside in [0x2ffd, 0x3000, 0x1182cc, u32::MAX] {
        assert!(matches!(ask(outside), Err(Miss::Failed(_))), "{outside:#x}");
    }
    assert_eq!(host.ask(&Question::Register("0000:18:00.0".into(), 0)), Err(Miss::Absent));
}

#[test]
fn machine_specific_registers_are_compared_over_all_processors() {
    let (dir, host) = root(|dir| {
        for (cpu, value) in [("0", 3u64), ("1", 3), ("microcode", 9)] {
            std::fs::create_dir_all(dir.join("dev/cpu").join(cpu)).unwrap();
            let mut bytes = vec![0; 0x982];
            bytes.extend(value.to_le_bytes());
            std::fs::write(dir.join("dev/cpu").join(cpu).join("msr"), bytes).unwrap();
        }
    });
    let real: &dyn Host = &host;
    assert_eq!(real.msr(0x982), Ok(3));
    std::fs::write(dir.path().join("dev/cpu/1/msr"), [0; 0x98a]).unwrap();
    assert!(matches!(real.msr(0x982), Err(Miss::Failed(why)) if why.contains("differs")));
    assert!(real.msr(0x1401).is_err());
}

#[test]
fn something_that_listens_is_reached_and_nothing_else() {
    let (dir, host) = root(|_| ());
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let path = dir.path().join("socket").display().to_string();
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let reach = |endpoint| host.ask(&Question::Reach(endpoint));
    assert_eq!(reach(Endpoint::Tcp("127.0.0.1".into(), port)), Ok("listening".into()));
    assert_eq!(reach(Endpoint::Unix(path.clone())), Ok("listening".into()));
    drop((tcp, unix));
    assert!(reach(Endpoint::Unix(path)).is_err());
    assert!(reach(Endpoint::Unix("x".repeat(300))).is_err());
    assert!(reach(Endpoint::Vsock(1, 4_000_000_000)).is_err());
}

#[test]
fn a_host_file_with_a_fault_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |text: &str| {
        let path = dir.path().join("h.toml");
        std::fs::write(&path, text).unwrap();
        Recorded::read(&path).unwrap_err().to_string()
    };
    assert!(refused("schema = 2\nabout = \"\"\n[answers]").contains("expected 1"));
    assert!(refused("schema = 1\nabout = \"\"\nspeed = 1\n[answers]").contains("speed"));
    assert!(refused("schema = 1\nabout = \"\"\nbase = \"../x\"\n[answers]").contains("same folder"));
    assert!(refused("schema = 1\nabout = \"\"\nbase = \"h.toml\"\n[answers]").contains("deep"));
    assert!(refused("schema = 1\nabout = \"\"\n[answers]\nclock = 7").contains("h.toml"));
    assert!(Recorded::read(Path::new("no-such")).unwrap_err().to_string().contains("--record"));
}

proptest! {
    #[test]
    fn no_text_as_a_host_file_makes_anything_panic(text in "\\PC{0,200}") {
        let _ = Recorded::parse(&text);
        let _ = Recorded::parse(&format!("schema = 1\nabout = \"\"\n[answers]\n{text}"));
    }

    #[test]
    fn a_recording_is_read_back_as_it_was_written(text in "\\PC{0,80}", name in "[a-z]{0,6}") {
        struct Says(String);
        impl Host for Says {
            fn ask(&self, question: &Question) -> Answer {
                // A host of that name would have it left out of the question as well.
                let name = matches!(question, Question::File(path) if path.contains("hostname"));
                if name { Err(Miss::Absent) } else { Ok(self.0.clone()) }
            }
        }
        let recorder = Recorder::new(Says(text));
        let question = Question::File(format!("/{name}"));
        let _ = recorder.ask(&question);
        let (host, _) = Recorded::parse(&recorder.document("x").unwrap()).unwrap();
        prop_assert!(host.ask(&question).is_ok());
    }
}
