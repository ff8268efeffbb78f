//! Metadata that are malformed, forged, expired, rolled back or mixed up are refused with the reason.

mod support;

use measure::Digest256;
use release::publish::{Holders, RootPlan};
use release::{Expiry, ReleaseError, Role, Trusted};
use serde_json::json;
use support::*;

const TIMESTAMP_PATH: &str = "metadata/timestamp.json";

fn change_timestamp(publisher: &mut Publisher, seeds: &[u8], change: impl FnOnce(&mut serde_json::Value)) {
    let bytes = resigned(&publisher.get(TIMESTAMP_PATH), seeds, change);
    publisher.put(TIMESTAMP_PATH, bytes);
}

#[test]
fn a_right_publication_is_trusted() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let trusted = refresh(&publisher, T0).unwrap();
    assert_eq!(trusted.versions(), [1, 2, 2, 2]);
    assert_eq!(trusted.newest_issued(), Some(T0));
    assert_eq!(trusted.targets().unwrap().len(), 6);
}

#[test]
fn another_first_root_is_refused() {
    let publisher = Publisher::new();
    let wrong = Trusted::new(Digest256([1; 32]), &publisher.root).unwrap_err();
    assert!(matches!(wrong, ReleaseError::Mismatch { field: "SHA-256", .. }));
    // Right hash, but too few signatures of its own.
    let lone = resigned(&publisher.root, &ROOT[..1], |_| {});
    let error = Trusted::new(Digest256::of(&lone), &lone).unwrap_err();
    assert!(matches!(error, ReleaseError::Signatures { threshold: 2, valid: 1, .. }), "{error}");
}

#[test]
fn malformed_oversized_and_duplicate_keyed_metadata_are_refused() {
    let mut publisher = Publisher::new();
    let right = String::from_utf8(publisher.get(TIMESTAMP_PATH)).unwrap();
    let twice = right.replacen("\"signed\":{", "\"signed\":{\"version\":9,", 1);
    for (bytes, wanted) in [
        (String::new(), "EOF"),
        ("{}".into(), "missing"),
        (right[..right.len() - 2].into(), "EOF"),
        (twice, "`version` stands there twice"),
        (right.replace("\"version\":1", "\"version\":1.0"), "floating point"),
        (format!("{right}{}", " ".repeat(20_000)), "more than 16384 bytes"),
        ("[".repeat(10_000), "recursion"),
    ] {
        publisher.put(TIMESTAMP_PATH, bytes.into_bytes());
        let error = refused(&publisher);
        assert!(error.to_string().contains(wanted) && error.is_peer_fault(), "{wanted}: {error}");
    }
}

#[test]
fn a_wrong_signature_or_a_key_of_another_role_is_refused() {
    let mut publisher = Publisher::new();
    for seeds in [&[SNAPSHOT][..], &[99], &[], &ROOT] {
        change_timestamp(&mut publisher, seeds, |_| {});
        let error = refused(&publisher);
        assert!(matches!(error, ReleaseError::Signatures { valid: 0, .. }), "{seeds:?}: {error}");
    }
    change_timestamp(&mut publisher, &[TIMESTAMP], |_| {});
    let mut text = String::from_utf8(publisher.get(TIMESTAMP_PATH)).unwrap();
    text = text.replace("\"version\":1", "\"version\":2");
    publisher.put(TIMESTAMP_PATH, text.into_bytes());
    assert!(refused(&publisher).to_string().contains("wrong signature"));
}

#[test]
fn a_threshold_is_not_met_by_one_key_twice() {
    let publisher = Publisher::new();
    let mut whole: serde_json::Value = serde_json::from_slice(&publisher.root).unwrap();
    let first = whole["signatures"][0].clone();
    whole["signatures"] = json!([first, first]);
    let doubled = serde_json::to_vec(&whole).unwrap();
    let error = Trusted::new(Digest256::of(&doubled), &doubled).unwrap_err();
    assert!(matches!(&error, ReleaseError::Signatures { valid: 1, .. }), "{error}");
    assert!(error.to_string().contains("signed twice, counts once"), "{error}");
    // The same key under a second id: an id is the hash of the key, so there is none.
    let bytes = resigned(&publisher.root, &ROOT, |signed| {
        let (id, key) = signed["keys"].as_object().unwrap().iter().next().unwrap();
        let (other, key) = (id.replace(|c: char| c.is_ascii_digit(), "0"), key.clone());
        signed["keys"][&other] = key;
        signed["roles"]["root"]["keyids"].as_array_mut().unwrap().push(other.into());
    });
    assert!(
        Trusted::new(Digest256::of(&bytes), &bytes).unwrap_err().to_string().contains("the key's own id")
    );
}

#[test]
fn a_threshold_beyond_the_keys_or_of_none_is_refused() {
    let publisher = Publisher::new();
    for threshold in [0, 4] {
        let bytes = resigned(&publisher.root, &ROOT, |signed| {
            signed["roles"]["root"]["threshold"] = threshold.into();
        });
        let error = Trusted::new(Digest256::of(&bytes), &bytes).unwrap_err();
        assert!(error.to_string().contains("threshold of root"), "{error}");
    }
}

#[test]
fn expired_metadata_are_refused_role_by_role() {
    let mut publisher = Publisher::new();
    for (lives, what) in [
        ([90 * DAY, 14 * DAY, DAY], "timestamp.json"),
        ([90 * DAY, DAY, 14 * DAY], "3.snapshot.json"),
        ([DAY, 90 * DAY, 90 * DAY], "4.targets.json"),
    ] {
        publisher.lives = Lives(lives);
        publisher.publish(Vec::new());
        assert!(refresh(&publisher, T0 + DAY - 1).is_ok());
        match refresh(&publisher, T0 + DAY).unwrap_err() {
            ReleaseError::Expired { what: found, expired, .. } => {
                assert_eq!((found.as_str(), expired), (what, T0 + DAY))
            }
            other => panic!("{other}"),
        }
    }
    publisher.lives = Lives([1000 * DAY; 3]);
    publisher.publish(Vec::new());
    let error = refresh(&publisher, T0 + 366 * DAY).unwrap_err();
    assert!(error.to_string().starts_with("1.root.json: expired"), "{error}");
}

#[test]
fn metadata_without_an_end_or_issued_after_it_are_refused() {
    let mut publisher = Publisher::new();
    change_timestamp(&mut publisher, &[TIMESTAMP], |signed| signed["expires"] = "never".into());
    assert!(refused(&publisher).to_string().contains("YYYY-MM-DD"));
    change_timestamp(&mut publisher, &[TIMESTAMP], |signed| {
        signed["expires"] = "2027-02-01T00:00:00Z".into();
        signed["issued"] = "2099-01-01T00:00:00Z".into();
    });
    assert!(refused(&publisher).to_string().contains("no later than expires"));
}

#[test]
fn what_was_seen_never_goes_back() {
    let mut publisher = Publisher::new();
    let old = publisher.files();
    publisher.release([0, 1, 0], &REBUILDERS);
    let mut trusted = refresh(&publisher, T0).unwrap();
    let new = publisher.files();
    let mut back = |files| {
        publisher.set_files(files);
        trusted.refresh(&mut publisher.mirror.clone(), T0, Expiry::Enforce).unwrap_err()
    };
    assert!(matches!(back(old.clone()), ReleaseError::Rollback { found: 1, seen: 2, .. }));
    // A new timestamp, signed by a stolen key, that names the old snapshot.
    let forged = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut files = new.clone();
        let bytes = resigned(&files[TIMESTAMP_PATH], &[TIMESTAMP], change);
        files.insert(TIMESTAMP_PATH.into(), bytes);
        files
    };
    let old_timestamp: serde_json::Value = serde_json::from_slice(&old[TIMESTAMP_PATH]).unwrap();
    let error = back(forged(&|signed| {
        signed["version"] = 3.into();
        signed["meta"] = old_timestamp["signed"]["meta"].clone();
    }));
    assert!(error.to_string().contains("version of snapshot.json 1 is older than 2"), "{error}");
    // Another timestamp under the version that was seen.
    let error = back(forged(&|signed| signed["expires"] = "2027-03-01T00:00:00Z".into()));
    assert!(error.to_string().contains("the same version"), "{error}");
    publisher.set_files(new);
    trusted.refresh(&mut publisher.mirror.clone(), T0, Expiry::Enforce).unwrap();
}

#[test]
fn targets_that_go_back_in_a_new_snapshot_are_refused() {
    let mut publisher = Publisher::new();
    let old_targets = publisher.get("metadata/1.targets.json");
    publisher.release([0, 1, 0], &REBUILDERS);
    let mut trusted = refresh(&publisher, T0).unwrap();
    let reference = |version: u64, bytes: &[u8]| json!({"version": version, "length": bytes.len(), "hashes": {"sha256": Digest256::of(bytes)}});
    let snapshot = resigned(&publisher.get("metadata/2.snapshot.json"), &[SNAPSHOT], |signed| {
        signed["version"] = 3.into();
        signed["meta"]["targets.json"] = reference(1, &old_targets);
    });
    let meta = reference(3, &snapshot);
    publisher.put("metadata/3.snapshot.json", snapshot);
    change_timestamp(&mut publisher, &[TIMESTAMP], |signed| {
        signed["version"] = 3.into();
        signed["meta"]["snapshot.json"] = meta;
    });
    let error = trusted.refresh(&mut publisher.mirror.clone(), T0, Expiry::Enforce).unwrap_err();
    assert!(error.to_string().contains("version of targets.json 1 is older than 2"), "{error}");
}

#[test]
fn files_of_another_publication_or_version_are_refused() {
    let mut publisher = Publisher::new();
    publisher.release([0, 1, 0], &REBUILDERS);
    let right = publisher.files();
    let mut other = Publisher::new();
    other.lives = Lives([80 * DAY, 13 * DAY, DAY / 2]);
    other.release([0, 2, 0], &REBUILDERS);
    for path in ["metadata/2.snapshot.json", "metadata/2.targets.json"] {
        let mut mixed = right.clone();
        mixed.insert(path.into(), other.get(path));
        publisher.set_files(mixed);
        let error = refused(&publisher);
        let told = matches!(error, ReleaseError::Mismatch { .. } | ReleaseError::Mirror(_));
        assert!(told, "{path}: {error}");
        let mut mixed = right.clone();
        mixed.insert(path.into(), right[&path.replace("/2", "/1")].clone());
        publisher.set_files(mixed);
        assert!(matches!(refused(&publisher), ReleaseError::Mismatch { .. }), "{path}");
        let mut hole = right.clone();
        hole.remove(path);
        publisher.set_files(hole);
        assert!(matches!(refused(&publisher), ReleaseError::Missing { .. }), "{path}");
    }
    // A role's file, rightly signed by its key, in the place of another's.
    publisher.set_files(right.clone());
    change_timestamp(&mut publisher, &[TIMESTAMP], |signed| signed["_type"] = "snapshot".into());
    assert!(refused(&publisher).to_string().contains("_type is snapshot"));
}

#[test]
fn target_names_that_are_paths_are_refused() {
    for name in ["../../etc/passwd", "a/b", "%2e%2e", "C:\\x", ".ssh", "-rf"] {
        let mut publisher = Publisher::new();
        let targets = resigned(&publisher.get("metadata/1.targets.json"), &[TARGETS], |signed| {
            signed["targets"][name] = json!({"length": 1, "hashes": {"sha256": "00".repeat(32)}});
        });
        let reference = |bytes: &[u8]| json!({"version": 1, "length": bytes.len(), "hashes": {"sha256": Digest256::of(bytes)}});
        let snapshot = resigned(&publisher.get("metadata/1.snapshot.json"), &[SNAPSHOT], |signed| {
            signed["meta"]["targets.json"] = reference(&targets);
        });
        let meta = reference(&snapshot);
        publisher.put("metadata/1.targets.json", targets);
        publisher.put("metadata/1.snapshot.json", snapshot);
        change_timestamp(&mut publisher, &[TIMESTAMP], |signed| signed["meta"]["snapshot.json"] = meta);
        let error = refused(&publisher);
        assert!(matches!(error, ReleaseError::Name { .. }), "{name}: {error}");
    }
}

#[test]
fn names_beyond_ascii_and_keys_that_are_the_same_once_read_are_refused() {
    let mut publisher = Publisher::new();
    let right = String::from_utf8(publisher.get(TIMESTAMP_PATH)).unwrap();
    for (name, wanted) in [
        ("snapsh\u{f6}t.json", "ASCII"),
        ("snapshot\u{202e}.json", "ASCII"),
        ("snapshot.json\\u0000", "ASCII"),
        ("snapsh\\u006ft\\u200b.json", "ASCII"),
        ("snapshot.json\":{},\"snapsh\\u006ft.json", "stands there twice"),
    ] {
        publisher.put(TIMESTAMP_PATH, right.replacen("snapshot.json", name, 1).into_bytes());
        let error = refused(&publisher);
        assert!(
            matches!(&error, ReleaseError::Syntax { why, .. } if why.contains(wanted)),
            "{name}: {error}"
        );
    }
}

/// The next root, with this role given to these keys, signed by these.
fn rotate(publisher: &mut Publisher, role: Role, to: &[u8], signers: &[u8]) {
    let mut plan = RootPlan::after(&publisher.trusted(), publisher.now, publisher.now + 365 * DAY);
    let threshold = plan.holders[&role].threshold;
    plan.holders.insert(role, Holders { keys: public(to), threshold });
    let path = format!("metadata/{}.root.json", plan.version);
    let bytes = signed(plan.unsigned().unwrap(), signers);
    publisher.put(&path, bytes);
}

#[test]
fn a_chain_of_roots_is_followed_and_old_keys_lose_their_word() {
    let mut publisher = Publisher::new();
    rotate(&mut publisher, Role::Root, &[4, 5, 6], &[1, 2, 4, 5]);
    rotate(&mut publisher, Role::Timestamp, &[13], &[5, 6]);
    assert!(matches!(refused(&publisher), ReleaseError::Signatures { .. }), "the old timestamp still counts");
    publisher.online[1] = 13;
    publisher.publish(Vec::new());
    assert_eq!(refresh(&publisher, T0).unwrap().versions()[0], 3);
}

#[test]
fn a_root_without_the_old_or_the_new_keys_is_refused() {
    for signers in [&[4, 5][..], &[1, 2], &[1, 4, 5], &[1, 2, 4]] {
        let mut publisher = Publisher::new();
        rotate(&mut publisher, Role::Root, &[4, 5, 6], signers);
        assert!(matches!(refused(&publisher), ReleaseError::Signatures { threshold: 2, .. }), "{signers:?}");
    }
}

#[test]
fn a_root_of_another_version_than_its_name_is_refused() {
    let mut publisher = Publisher::new();
    rotate(&mut publisher, Role::Root, &ROOT, &ROOT);
    let two = publisher.get("metadata/2.root.json");
    let three = resigned(&two, &ROOT, |signed| signed["version"] = 3.into());
    publisher.put("metadata/2.root.json", three);
    assert!(matches!(refused(&publisher), ReleaseError::Mismatch { field: "version", .. }));
}

#[test]
fn new_online_keys_undo_what_a_stolen_one_signed_ahead() {
    let mut publisher = Publisher::new();
    let right = publisher.get(TIMESTAMP_PATH);
    change_timestamp(&mut publisher, &[TIMESTAMP], |signed| {
        signed["version"] = 1_000_000.into();
        signed["expires"] = "2090-01-02T00:00:00Z".into();
        signed["issued"] = "2090-01-01T00:00:00Z".into();
    });
    let mut trusted = refresh(&publisher, T0).unwrap();
    assert!(trusted.newest_issued() > Some(T0 + 1000 * DAY));
    publisher.put(TIMESTAMP_PATH, right);
    let mut again =
        |publisher: &Publisher| trusted.refresh(&mut publisher.mirror.clone(), T0, Expiry::Enforce);
    assert!(matches!(again(&publisher), Err(ReleaseError::Rollback { .. })));
    rotate(&mut publisher, Role::Timestamp, &[13], &ROOT);
    publisher.online[1] = 13;
    publisher.publish(Vec::new());
    again(&publisher).unwrap();
    assert_eq!(trusted.newest_issued(), Some(T0));
}

#[test]
fn keys_of_other_algorithms_are_left_alone() {
    let publisher = Publisher::new();
    let bytes = resigned(&publisher.root, &ROOT, |signed| {
        let key = json!({"keytype": "rsa", "keyval": {"public": "x"}, "scheme": "rsassa-pss-sha256"});
        let id = Digest256::of(&serde_json::to_vec(&key).unwrap()).to_string();
        signed["keys"][&id] = key;
        signed["roles"]["targets"]["keyids"].as_array_mut().unwrap().push(id.into());
    });
    assert!(Trusted::new(Digest256::of(&bytes), &bytes).is_ok());
}
