//! Finds disks by the serial that the virtio-blk device states, and their partitions, through sysfs. There is no udev.
//!
//! A serial is the host's word, like everything about a disk; two disks with the same one are refused rather than
//! guessed between.

use crate::gpt::{self, Partition};
use crate::{REBUILD, VerityError, io};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);
const NO_DISK: &str = "attach the disk as virtio-blk with this serial";

/// Where sysfs and devtmpfs are mounted; another place in tests.
#[derive(Debug, Clone)]
pub struct Places {
    /// `/sys/block`.
    pub sys_block: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Places { sys_block: "/sys/block".into(), dev: "/dev".into() }
    }
}

/// A block device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A whole disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// How error messages call it, with its serial.
    pub label: String,
    /// Its number.
    pub device: Device,
    /// Its size in 512-byte sectors.
    pub sectors: u64,
    node: PathBuf,
    sys: PathBuf,
}

impl Disk {
    /// The disk with this serial, once the kernel shows it; an error when `limit` has passed or two disks claim it.
    pub fn wait(places: &Places, serial: &str, limit: Duration) -> Result<Self, VerityError> {
        let start = Instant::now();
        loop {
            let seen = serials(places)?;
            let mut matching = seen.iter().filter(|(_, s)| s == serial);
            match (matching.next(), matching.next()) {
                (Some((name, _)), None) => return Disk::open_sys(places, name, serial),
                (Some((a, _)), Some((b, _))) => {
                    return Err(VerityError::Wrong {
                        input: format!("disk `{serial}`"),
                        field: "serial",
                        expected: "one disk that has it".into(),
                        found: format!("{a} and {b}"),
                        next: NO_DISK,
                    });
                }
                (None, _) if start.elapsed() > limit => {
                    let seen: Vec<String> =
                        seen.into_iter().map(|(name, s)| format!("{name} `{s}`")).collect();
                    return Err(VerityError::Missing {
                        what: format!("disk with serial `{serial}`"),
                        millis: limit.as_millis(),
                        seen: seen.join(", "),
                        next: NO_DISK,
                    });
                }
                (None, _) => std::thread::sleep(POLL),
            }
        }
    }

    /// Opens the whole disk for reading.
    pub fn open(&self) -> Result<File, VerityError> {
        File::open(&self.node).map_err(io("open disk", &self.node))
    }

    /// Reads and checks the partition table.
    pub fn partitions(&self) -> Result<Vec<Partition>, VerityError> {
        gpt::read(&self.label, &mut self.open()?, self.sectors)
    }

    /// The kernel's number for a partition, once it is there, checked to mean the same sectors.
    pub fn partition_device(&self, partition: &Partition, limit: Duration) -> Result<Device, VerityError> {
        let start = Instant::now();
        loop {
            let known = self.known_partitions()?;
            let is_wanted =
                |p: &&PathBuf| number(&p.join("partition")).is_ok_and(|n| n == partition.number.into());
            if let Some(path) = known.iter().find(is_wanted) {
                let found = (number(&path.join("start"))?, number(&path.join("size"))?);
                if found != (partition.first, partition.sectors) {
                    return Err(VerityError::Wrong {
                        input: format!("{}, partition {}", self.label, partition.number),
                        field: "start and length in sectors",
                        expected: format!("{} + {} as in the GPT", partition.first, partition.sectors),
                        found: format!("{} + {} as the kernel read it", found.0, found.1),
                        next: REBUILD,
                    });
                }
                return device_number(&path.join("dev"));
            }
            if start.elapsed() > limit {
                return Err(VerityError::Missing {
                    what: format!("{}, partition {}", self.label, partition.number),
                    millis: limit.as_millis(),
                    seen: format!("{} partitions", known.len()),
                    next: REBUILD,
                });
            }
            std::thread::sleep(POLL);
        }
    }

    fn known_partitions(&self) -> Result<Vec<PathBuf>, VerityError> {
        let entries = fs::read_dir(&self.sys).map_err(io("list partitions in", &self.sys))?;
        Ok(entries.flatten().map(|e| e.path()).filter(|p| p.join("partition").exists()).collect())
    }

    fn open_sys(places: &Places, name: &str, serial: &str) -> Result<Self, VerityError> {
        let sys = places.sys_block.join(name);
        Ok(Disk {
            label: format!("disk `{serial}` ({name})"),
            device: device_number(&sys.join("dev"))?,
            sectors: number(&sys.join("size"))?,
            node: places.dev.join(name),
            sys,
        })
    }
}

/// Name and serial of every disk that states one.
fn serials(places: &Places) -> Result<Vec<(String, String)>, VerityError> {
    let entries = match fs::read_dir(&places.sys_block) {
        Ok(entries) => entries,
        // Without any block driver the class may not exist yet.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io("list disks in", &places.sys_block)(e)),
    };
    let mut found: Vec<(String, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let serial = fs::read_to_string(entry.path().join("serial")).ok()?;
            Some((entry.file_name().into_string().ok()?, serial.trim_matches(['\0', '\n', ' ']).to_owned()))
        })
        .collect();
    found.sort();
    Ok(found)
}

fn number(path: &Path) -> Result<u64, VerityError> {
    let text = fs::read_to_string(path).map_err(io("read", path))?;
    text.trim().parse().map_err(|_| not_a_number(path, "a number", &text))
}

fn device_number(path: &Path) -> Result<Device, VerityError> {
    let text = fs::read_to_string(path).map_err(io("read", path))?;
    let pair = text.trim().split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (major, minor) = pair.ok_or_else(|| not_a_number(path, "major:minor", &text))?;
    Ok(Device { major, minor })
}

fn not_a_number(path: &Path, expected: &str, text: &str) -> VerityError {
    VerityError::Wrong {
        input: path.display().to_string(),
        field: "content",
        expected: expected.into(),
        found: format!("`{}`", text.trim()),
        next: "report it: the kernel's sysfs is not as documented",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Guid;

    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(disks: &[(&str, &str)]) -> (Self, Places) {
            let dir = tempfile::tempdir().unwrap();
            let places = Places { sys_block: dir.path().join("block"), dev: dir.path().join("dev") };
            for (name, serial) in disks {
                let sys = places.sys_block.join(name);
                fs::create_dir_all(&sys).unwrap();
                fs::write(sys.join("serial"), serial).unwrap();
                fs::write(sys.join("dev"), "254:16\n").unwrap();
                fs::write(sys.join("size"), "2048\n").unwrap();
            }
            (Fake(dir), places)
        }

        fn partition(&self, number: u32, start: u64, size: u64) {
            let sys = self.0.path().join(format!("block/vdb/vdb{number}"));
            fs::create_dir_all(&sys).unwrap();
            for (file, value) in [("partition", number.into()), ("start", start), ("size", size)] {
                fs::write(sys.join(file), format!("{value}\n")).unwrap();
            }
            fs::write(sys.join("dev"), format!("254:{}\n", 16 + number)).unwrap();
        }
    }

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn a_disk_is_found_by_its_serial() {
        let (_fake, places) = Fake::new(&[("vda", "other"), ("vdb", "chrysalis-root")]);
        let disk = Disk::wait(&places, "chrysalis-root", SOON).unwrap();
        assert_eq!((disk.device, disk.sectors), (Device { major: 254, minor: 16 }, 2048));
        assert_eq!(disk.label, "disk `chrysalis-root` (vdb)");
    }

    #[test]
    fn an_absent_disk_is_reported_with_those_that_are_there() {
        let (_fake, places) = Fake::new(&[("vda", "other")]);
        let text = Disk::wait(&places, "chrysalis-root", SOON).unwrap_err().to_string();
        assert!(text.contains("chrysalis-root") && text.contains("vda `other`"), "{text}");
    }

    #[test]
    fn two_disks_with_one_serial_are_refused() {
        let (_fake, places) = Fake::new(&[("vda", "twin"), ("vdb", "twin")]);
        assert!(matches!(Disk::wait(&places, "twin", SOON), Err(VerityError::Wrong { field: "serial", .. })));
    }

    #[test]
    fn a_partition_must_mean_the_same_sectors_to_the_kernel() {
        let (fake, places) = Fake::new(&[("vdb", "d")]);
        let disk = Disk::wait(&places, "d", SOON).unwrap();
        let wanted = Partition { number: 2, id: Guid([0; 16]), first: 40, sectors: 8 };
        assert!(matches!(disk.partition_device(&wanted, SOON), Err(VerityError::Missing { .. })));
        fake.partition(2, 40, 8);
        assert_eq!(disk.partition_device(&wanted, SOON).unwrap(), Device { major: 254, minor: 18 });
        let moved = Partition { first: 48, ..wanted };
        assert!(matches!(disk.partition_device(&moved, SOON), Err(VerityError::Wrong { .. })));
    }
}
