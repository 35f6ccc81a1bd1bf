//! That every store keeps the contract of [`Store`]; and that the one in a folder keeps it through losses of power and full disks.

use super::power_loss::Twin;
use super::*;

/// What holds for a new, empty store.
fn keeps_the_contract(store: &dyn Store) {
    assert_eq!(store.list("").unwrap(), [""; 0]);
    assert_eq!(store.get("log/1").unwrap(), None);
    store.delete("log/1").unwrap();
    assert!(store.create("log/1", b"one").unwrap());
    assert!(!store.create("log/1", b"other").unwrap());
    assert_eq!(store.get("log/1").unwrap().unwrap(), b"one");
    assert!(store.create("log/10", b"").unwrap());
    assert!(store.create("log/02", b"two").unwrap());
    assert!(store.create("state/a-b.c_d", &[7; 100_000]).unwrap());
    assert_eq!(store.get("log/10").unwrap().unwrap(), b"");
    assert_eq!(store.get("state/a-b.c_d").unwrap().unwrap(), [7; 100_000]);
    assert_eq!(store.list("log/").unwrap(), ["log/02", "log/1", "log/10"]);
    assert_eq!(store.list("log/1").unwrap(), ["log/1", "log/10"]);
    assert_eq!(store.list("lo").unwrap(), ["log/02", "log/1", "log/10"]);
    assert_eq!(store.list("").unwrap().len(), 4);
    assert_eq!(store.list("none/").unwrap(), [""; 0]);
    store.delete("log/1").unwrap();
    assert_eq!(store.get("log/1").unwrap(), None);
    assert_eq!(store.list("log/").unwrap(), ["log/02", "log/10"]);
    assert!(store.create("log/1", b"again").unwrap());
    let long = "n".repeat(NAME_BYTES_MAX);
    assert!(store.create(&long, b"").unwrap());
    for name in ["", "/", "/a", "a/", "a//b", "a/../b", ".a", "a/.b", "a b", "ä", &format!("{long}n")] {
        let error = store.create(name, b"").unwrap_err();
        assert!(!error.may_be_retried(), "{name:?}: {error}");
    }
}

fn folder() -> (tempfile::TempDir, SharedStore) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some/where/state").display().to_string();
    let store = open(&StateSpec { path, ..StateSpec::default() }).unwrap();
    (folder, store)
}

#[test]
fn memory_keeps_the_contract() {
    keeps_the_contract(memory().as_ref());
}

#[test]
fn a_folder_keeps_the_contract() {
    let (_folder, store) = folder();
    keeps_the_contract(store.as_ref());
}

#[test]
fn the_twin_of_a_folder_keeps_the_contract() {
    keeps_the_contract(Twin::new().open().unwrap().as_ref());
}

#[test]
fn of_many_that_race_for_a_name_one_wins() {
    let (_folder, store) = folder();
    for round in 0..20 {
        let name = format!("log/{round}");
        let race = |store: SharedStore, name: String, racer: u8| {
            std::thread::spawn(move || store.create(&name, &[racer; 64]).unwrap().then_some(racer))
        };
        let racers: Vec<_> = (0..8).map(|racer| race(store.clone(), name.clone(), racer)).collect();
        let winners: Vec<u8> = racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(store.get(&name).unwrap().unwrap(), [winners[0]; 64]);
    }
}

#[test]
fn what_a_crash_left_is_swept_and_nothing_else() {
    let (folder, store) = folder();
    store.create("log/1", b"one").unwrap();
    let root = folder.path().join("some/where/state");
    std::fs::write(root.join("log/.2.00ff.tmp"), "torn").unwrap();
    std::fs::write(root.join("log/.hidden"), "not ours").unwrap();
    assert_eq!(store.list("").unwrap(), ["log/1"]);
    open(&StateSpec { path: root.display().to_string(), ..StateSpec::default() }).unwrap();
    assert!(!root.join("log/.2.00ff.tmp").exists());
    assert!(root.join("log/.hidden").exists());
    assert_eq!(store.get("log/1").unwrap().unwrap(), b"one");
}

#[test]
fn a_place_that_cannot_be_used_is_refused_with_a_hint() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().join("state").display().to_string();
    let Err(error) = open(&StateSpec { path, ..StateSpec::default() }) else { panic!("a file is no folder") };
    assert!(!error.may_be_retried());
    assert!(error.to_string().contains("a file is in the way"), "{error}");
    let state = StateSpec {
        path: "s3://bucket".into(),
        access_key_file: Some("no/such/file".into()),
        secret_key_file: Some("no/such/file".into()),
        ..StateSpec::default()
    };
    let Err(error) = open(&state) else { panic!("there is no key") };
    assert!(error.to_string().contains("state.access_key_file"), "{error}");
}

#[test]
fn a_store_that_is_not_there_may_be_tried_again_and_its_message_tells_no_secret() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "word-that-must-not-appear\n").unwrap();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for scheme in ["http", "https"] {
        let state = StateSpec {
            path: "s3://bucket/prefix".into(),
            endpoint: Some(format!("{scheme}://{unused}")),
            access_key_file: Some(secret.path().into()),
            secret_key_file: Some(secret.path().into()),
            ..StateSpec::default()
        };
        let error = open(&state).unwrap().get("log/1").unwrap_err();
        assert!(error.may_be_retried(), "{error}");
        assert!(error.to_string().contains("refused") && error.to_string().contains("log/1"), "{error}");
        assert!(!format!("{error}{error:?}").contains("must-not-appear"), "{error}");
    }
}

#[test]
fn places_are_read_as_they_are_written() {
    let bucket = |bucket: &str, prefix: &str| Ok(Place::Bucket { bucket: bucket.into(), prefix: prefix.into() });
    assert_eq!(Place::parse("a/b"), Ok(Place::Folder("a/b".into())));
    assert_eq!(Place::parse("s3://b"), bucket("b", ""));
    assert_eq!(Place::parse("s3://b/"), bucket("b", ""));
    assert_eq!(Place::parse("s3://b/a/c/"), bucket("b", "a/c"));
    for path in ["", "s3://", "s3://B", "s3://b//a", "s3://b/.a", "s3:///a", "gs://b", "file:///a"] {
        assert!(Place::parse(path).is_err(), "{path}");
    }
}

/// What a run of creations and deletions acknowledged before the power failed.
#[derive(Default)]
struct Acknowledged {
    created: Vec<(String, Vec<u8>)>,
    deleted: Vec<String>,
}

/// Creates and deletes; ends at the first failure.
fn work(twin: &Twin, done: &mut Acknowledged) -> Result<(), StoreError> {
    let store = twin.open()?;
    for number in 0..4_u8 {
        for folder in ["log", "state"] {
            let (name, bytes) = (format!("{folder}/{number}"), vec![number + 1; 40]);
            assert!(store.create(&name, &bytes)?);
            done.created.push((name, bytes));
        }
        if number == 2 {
            done.deleted.push("log/0".into());
            store.delete("log/0")?;
        }
    }
    Ok(())
}

#[test]
fn after_a_loss_of_power_objects_are_whole_and_those_that_were_acknowledged_are_there() {
    let whole = Twin::new();
    work(&whole, &mut Acknowledged::default()).unwrap();
    for cut in 0..=whole.operations() {
        for seed in 0..8 {
            let (twin, mut done) = (Twin::new(), Acknowledged::default());
            twin.cut_after(cut);
            let result = work(&twin, &mut done);
            assert_eq!(result.is_ok(), cut == whole.operations());
            let after = twin.power_comes_back(seed);
            let store = after.open().unwrap();
            assert!(!after.files().iter().any(|file| file.ends_with(".tmp")), "swept");
            for (name, bytes) in &done.created {
                let found = store.get(name).unwrap();
                let may_be_gone = done.deleted.contains(name);
                assert!(
                    found.as_ref() == Some(bytes) || found.is_none() && may_be_gone,
                    "cut {cut} seed {seed}: {name}"
                );
            }
            for name in store.list("").unwrap() {
                let number: u8 = name.rsplit('/').next().unwrap().parse().unwrap();
                assert_eq!(store.get(&name).unwrap().unwrap(), vec![number + 1; 40], "cut {cut} seed {seed}: {name}");
            }
        }
    }
}

#[test]
fn who_finds_a_name_taken_may_rely_on_it_after_a_loss_of_power() {
    let whole = Twin::new();
    work(&whole, &mut Acknowledged::default()).unwrap();
    for cut in 0..=whole.operations() {
        let (twin, mut done) = (Twin::new(), Acknowledged::default());
        twin.cut_after(cut);
        let _ = work(&twin, &mut done);
        // The process died, the machine did not. The next one comes to the same name.
        twin.cut_after(usize::MAX);
        let store = twin.open().unwrap();
        let next = format!("log/{}", done.created.len() / 2);
        store.create(&next, &[9; 40]).unwrap();
        for seed in 0..8 {
            assert!(twin.power_comes_back(seed).open().unwrap().get(&next).unwrap().is_some(), "cut {cut} seed {seed}");
        }
    }
}

#[test]
fn a_full_disk_leaves_no_part_of_an_object() {
    let bytes = [5; 60];
    for space in 0..60 {
        let twin = Twin::new();
        let store = twin.open().unwrap();
        store.create("log/1", &bytes).unwrap();
        twin.space(Some(space));
        let error = store.create("log/2", &bytes).unwrap_err();
        assert!(error.may_be_retried() && error.to_string().contains("free some space"), "{error}");
        assert_eq!(twin.files(), ["/state/log/1"], "neither an object nor a temporary");
        twin.space(None);
        assert!(store.create("log/2", &bytes).unwrap());
        assert_eq!(store.get("log/2").unwrap().unwrap(), bytes);
    }
}
