//! That a state file gives back what was saved or nothing, with and without a key.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::runtime::survive::Blocks;

const STAGE: &str = "patient";
const EPOCH: Epoch = 2_047;

fn file_name() -> String {
    name(EPOCH, 3, 1, STAGE)
}

fn key(digit: char) -> StateKey {
    StateKey::from_hex(&digit.to_string().repeat(64)).unwrap()
}

/// Some blocks, which do and do not compress.
fn blocks(seed: u64) -> (Blocks, BTreeMap<Route, Vec<u8>>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut blocks, mut plain) = (Blocks::default(), BTreeMap::new());
    for _ in 0..random.random_range(0..6) {
        let (route, byte) = (random.random_range(0..u64::from(u8::MAX)), random.random::<u64>());
        let length = random.random_range(0..40);
        let entry: Vec<u64> =
            (0..length).map(|_| if seed.is_multiple_of(2) { byte } else { random.random() }).collect();
        blocks.push(route, &entry);
        let block: &mut Vec<u8> = plain.entry(route).or_default();
        block.extend(postcard::to_allocvec(&entry).unwrap());
    }
    (blocks, plain)
}

/// The bytes of a file with these blocks.
fn encode(stage: &'static str, epoch: Epoch, blocks: &Blocks, cipher: Option<&StateKey>) -> Vec<u8> {
    let (mut encoder, mut packer) = (Encoder::new(stage, epoch, cipher, b"earlier".to_vec()), Packer::new().unwrap());
    blocks.iter().for_each(|(route, block)| encoder.add(route, block, &mut packer));
    encoder.finish()
}

fn small() -> Blocks {
    let mut blocks = Blocks::default();
    blocks.push(7, &(1_u64, "one"));
    blocks.push(260, &(2_u64, "two, two, two, two, two, two, two"));
    blocks.push(7, &(3_u64, "three"));
    blocks
}

/// All blocks for which `wants` holds.
fn read(
    bytes: &[u8],
    part: &StatePart,
    key: Option<&StateKey>,
    wants: impl Fn(Route) -> bool,
) -> Result<BTreeMap<Route, Vec<u8>>, LogError> {
    let (mut found, mut left) = (BTreeMap::<Route, Vec<u8>>::new(), None);
    decode(&file_name(), bytes, part, key, wants, |route, block, following| {
        assert!(left.is_none_or(|left| left == block.len() as u64 + following), "what follows is what was said");
        left = Some(following);
        found.entry(route).or_default().extend(block);
        Ok(())
    })?;
    assert!(left.is_none_or(|left| left == 0));
    Ok(found)
}

#[test]
fn blocks_come_back_to_who_wants_them() {
    for seed in 0..200 {
        let (blocks, plain) = blocks(seed);
        for key in [None, Some(&key('7'))] {
            let bytes = encode(STAGE, EPOCH, &blocks, key);
            let part = part(&file_name(), &bytes);
            assert_eq!(read(&bytes, &part, key, |_| true).unwrap(), plain, "seed {seed}");
            for worker in 0..3 {
                let ours: BTreeMap<_, _> = plain.clone().into_iter().filter(|(route, _)| route % 3 == worker).collect();
                assert_eq!(read(&bytes, &part, key, |route| route % 3 == worker).unwrap(), ours, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_file_with_any_bit_flipped_or_cut_anywhere_is_refused_whatever_the_log_says() {
    for key in [None, Some(&key('7'))] {
        let bytes = encode(STAGE, EPOCH, &small(), key);
        let logged = part(&file_name(), &bytes);
        let refused = |damaged: &[u8], place: &str| {
            assert!(read(damaged, &logged, key, |_| true).is_err(), "{place}");
            // Even if the log had the checksum of the damaged file.
            assert!(read(damaged, &part(&file_name(), damaged), key, |_| true).is_err(), "{place}, logged as it is");
        };
        for at in 0..bytes.len() {
            refused(&bytes[..at], &format!("cut at {at}"));
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                refused(&damaged, &format!("bit {bit} of byte {at}"));
            }
        }
        refused(&[bytes.as_slice(), &[0]].concat(), "longer");
    }
}

#[test]
fn a_block_that_is_not_wanted_is_not_looked_at() {
    let mut bytes = encode(STAGE, EPOCH, &small(), None);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let logged = part(&file_name(), &bytes);
    assert!(read(&bytes, &logged, None, |route| route == 7).unwrap().contains_key(&7));
    let error = read(&bytes, &logged, None, |route| route == 260).unwrap_err();
    assert!(error.to_string().contains("a damaged block of route 260"), "{error}");
}

#[test]
fn a_file_of_another_name_stage_or_epoch_is_refused() {
    let bytes = encode(STAGE, EPOCH, &small(), None);
    for other in [name(EPOCH, 3, 1, "audit"), name(EPOCH + 1, 3, 1, STAGE), "state/x".into()] {
        let error = decode(&other, &bytes, &part(&other, &bytes), None, |_| true, |_, _, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("holds epoch 2047 of patient"), "{error}");
    }
    let logged = part("state/other", &bytes);
    assert!(matches!(read(&bytes, &logged, None, |_| true), Err(LogError::Corrupt { .. })));
}

#[test]
fn what_the_machine_refuses_is_corrupt() {
    let bytes = encode(STAGE, EPOCH, &small(), None);
    let logged = part(&file_name(), &bytes);
    let error =
        decode(&file_name(), &bytes, &logged, None, |_| true, |_, _, _| Err("another version".into())).unwrap_err();
    assert!(
        matches!(&error, LogError::Corrupt { name, why } if *name == file_name() && why.contains("another version"))
    );
}

#[test]
fn without_the_key_nothing_is_read() {
    let bytes = encode(STAGE, EPOCH, &small(), Some(&key('7')));
    assert!(!String::from_utf8_lossy(&bytes).contains("three"));
    let logged = part(&file_name(), &bytes);
    for (other, says) in [(None, "names none"), (Some(key('8')), "names key")] {
        let error = read(&bytes, &logged, other.as_ref(), |_| true).unwrap_err();
        assert!(matches!(&error, LogError::Refused(text) if text.contains(says)), "{error}");
    }
    // A key for what is not encrypted does no harm: it may be named for what comes.
    let plain = encode(STAGE, EPOCH, &small(), None);
    read(&plain, &part(&file_name(), &plain), Some(&key('7')), |_| true).unwrap();
}

/// Something done to a file's head and blocks.
type Change = fn(&mut Head, &mut Vec<Vec<u8>>);

#[test]
fn an_encrypted_block_is_read_only_where_it_was_written() {
    let key = key('7');
    let (head, stored) = taken_apart(&key);
    let attempts: [(&str, Change); 5] = [
        ("as it is", |_, _| {}),
        ("another route", |head, _| head.blocks[0].route += 1),
        ("another place", |head, stored| {
            head.blocks.swap(0, 1);
            stored.swap(0, 1);
        }),
        ("another file's key", |head, _| head.encryption.as_mut().unwrap().salt[0] ^= 1),
        ("another content", |head, stored| {
            stored[0][0] ^= 1;
            head.blocks[0].crc32c = crc32c::crc32c(&stored[0]);
        }),
    ];
    for (what, change) in attempts {
        let (mut head, mut stored) =
            (postcard::from_bytes(&postcard::to_allocvec(&head).unwrap()).unwrap(), stored.clone());
        change(&mut head, &mut stored);
        let bytes = [front(&head), stored.concat()].concat();
        let read = read(&bytes, &part(&file_name(), &bytes), Some(&key), |_| true);
        assert_eq!(read.is_ok(), what == "as it is", "{what}");
    }
    // Another epoch needs another name as well, which is no part of what is sealed.
    let bytes = [front(&Head { epoch: EPOCH + 1, ..head }), stored.concat()].concat();
    let other = name(EPOCH + 1, 3, 1, STAGE);
    let error = decode(&other, &bytes, &part(&other, &bytes), Some(&key), |_| true, |_, _, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("not sealed with this key as this block"), "{error}");
}

/// Head and blocks of an encrypted file.
fn taken_apart(key: &StateKey) -> (Head, Vec<Vec<u8>>) {
    let bytes = encode(STAGE, EPOCH, &small(), Some(key));
    let (head, mut rest) = open(&file_name(), &bytes).unwrap();
    let mut stored = Vec::new();
    for block in &head.blocks {
        let (block, after) = rest.split_at(block.stored as usize);
        stored.push(block.to_vec());
        rest = after;
    }
    (head, stored)
}

#[test]
fn the_same_state_is_encrypted_differently_each_time() {
    let (one, other) = (taken_apart(&key('7')).1, taken_apart(&key('7')).1);
    assert_ne!(one[0], other[0]);
}

#[test]
fn keys_are_read_from_a_file_and_tell_nothing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let spec = StateSpec { encryption_key_file: Some(file.path().into()), ..StateSpec::default() };
    std::fs::write(file.path(), format!("{}\n", "ab".repeat(32))).unwrap();
    let key = StateKey::read(&spec).unwrap().unwrap();
    assert_eq!(key.id(), StateKey::from_hex(&"ab".repeat(32)).unwrap().id());
    assert_eq!(format!("{key:?}"), "StateKey(…)");
    std::fs::write(file.path(), "deadbeef").unwrap();
    let error = StateKey::read(&spec).unwrap_err();
    assert!(error.contains("64 hexadecimal") && !error.contains("deadbeef"), "{error}");
    assert!(StateKey::read(&StateSpec::default()).unwrap().is_none());
}

#[test]
fn names_say_epoch_and_generation() {
    assert_eq!(file_name(), "state/00000000000000002047-g3-w1-patient");
    assert_eq!(parse(&file_name()), Some((EPOCH, 3)));
    assert_eq!(parse(&name(u64::MAX, u64::MAX, 0, "a-b")), Some((u64::MAX, u64::MAX)));
    for other in
        ["log/00000000000000002047-g3-w1-patient", "state/2047-g3-w1-patient", "state/00000000000000002047-g3-w1"]
    {
        assert_eq!(parse(other), None, "{other}");
    }
}

#[test]
fn files_stay_readable() {
    let key = key('7');
    let mut expected = BTreeMap::new();
    for (route, block) in small().iter() {
        expected.insert(route, block.to_vec());
    }
    for (kind, key) in [("plain", None), ("encrypted", Some(&key))] {
        let path = format!("tests/fixtures/state/{kind}.v1.state");
        let bytes = encode(STAGE, EPOCH, &small(), key);
        if std::env::var_os("UPDATE_EXPECT").is_some() && !std::path::Path::new(&path).exists() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let kept = std::fs::read(&path).unwrap();
        let found = read(&kept, &part(&file_name(), &kept), key, |_| true).unwrap();
        assert_eq!(found, expected, "{path} must be readable by every later version");
    }
}

#[test]
fn a_file_of_another_version_is_refused_by_its_number() {
    let mut bytes = encode(STAGE, EPOCH, &small(), None);
    let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[8] = 2;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[FRONT..FRONT + length]);
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    let error = read(&bytes, &part(&file_name(), &bytes), None, |_| true).unwrap_err();
    assert!(matches!(&error, LogError::Refused(text) if text.contains("version 2")), "{error}");
}
