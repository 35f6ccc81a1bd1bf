//! That a damaged log is refused with the name of what is damaged, and never read differently; and that entries stay readable.

use super::*;

/// Puts other bytes under a name.
fn replace(store: &SharedStore, name: &str, bytes: &[u8]) {
    store.delete(name).unwrap();
    assert!(store.create(name, bytes).unwrap());
}

#[test]
fn a_hole_is_refused_by_name() {
    let store = memory();
    let (mut log, _) = take_over(&store).unwrap();
    (1..6).for_each(|epoch| log.append(&claims([epoch])).unwrap());
    for number in 1..6 {
        let name = name(number);
        let bytes = store.get(&name).unwrap().unwrap();
        store.delete(&name).unwrap();
        let error = take_over(&store).err().unwrap();
        assert!(matches!(&error, LogError::Corrupt { name: named, .. } if *named == name), "{error}");
        assert!(error.to_string().contains("is missing") && error.to_string().contains("restore it"), "{error}");
        store.create(&name, &bytes).unwrap();
    }
    assert_eq!(take_over(&store).unwrap().1.claims.len(), 5);
}

#[test]
fn an_entry_under_another_number_or_of_another_writer_is_refused() {
    let store = memory();
    let (mut log, _) = take_over(&store).unwrap();
    (1..4).for_each(|epoch| log.append(&claims([epoch])).unwrap());
    let second = store.get(&name(2)).unwrap().unwrap();
    let third = store.get(&name(3)).unwrap().unwrap();
    replace(&store, &name(3), &second);
    let error = take_over(&store).err().unwrap();
    assert!(error.to_string().contains("holds entry 2"), "{error}");
    let mut foreign = Envelope::decode("", &third).unwrap();
    foreign.writer = Writer("somebody".into());
    replace(&store, &name(3), &foreign.encode().unwrap());
    let error = take_over(&store).err().unwrap();
    assert!(error.to_string().contains("was not written by generation 1"), "{error}");
}

/// An entry of each kind, as number 7 of generation 3.
fn envelopes() -> [(&'static str, Envelope); 3] {
    let begin = Begin { entry: 4, seal: 2, epoch: 1_023, swept: 3 };
    let of = |entry| Envelope { number: 7, generation: 3, writer: Writer("00ff".repeat(8)), begin, entry };
    [
        ("seal", of(Entry::Seal(Seal { generation: 3, ..seal() }))),
        ("claims", of(claims([1_025, 1_026]))),
        ("checkpoint", of(checkpoint(2_047, 3, Some(1_023)))),
    ]
}

#[test]
fn entries_stay_readable() {
    for (kind, envelope) in envelopes() {
        let path = format!("tests/fixtures/state/{kind}.v1.entry");
        let bytes = envelope.encode().unwrap();
        if std::env::var_os("UPDATE_EXPECT").is_some() && !std::path::Path::new(&path).exists() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let kept = std::fs::read(&path).unwrap();
        assert_eq!(Envelope::decode(kind, &kept).unwrap(), envelope, "{path} must be readable by every later version");
        assert!(
            kept == bytes,
            "{path} is written differently now: raise VERSION, keep the file, add one of the new version"
        );
    }
}

#[test]
fn an_entry_with_any_bit_flipped_or_cut_anywhere_is_refused() {
    for (kind, envelope) in envelopes() {
        let bytes = envelope.encode().unwrap();
        for at in 0..bytes.len() {
            assert!(
                matches!(Envelope::decode(kind, &bytes[..at]), Err(LogError::Corrupt { .. })),
                "{kind} cut at {at}"
            );
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Envelope::decode(kind, &damaged).is_err(), "{kind}: bit {bit} of byte {at}");
            }
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(Envelope::decode(kind, &longer).is_err());
    }
}

#[test]
fn an_entry_of_another_version_is_refused_by_its_number() {
    let mut bytes = envelopes()[0].1.encode().unwrap();
    bytes[8] = 2;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[20..]);
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    let error = Envelope::decode("log/7", &bytes).unwrap_err();
    assert!(matches!(&error, LogError::Refused(text) if text.contains("version 2")), "{error}");
}

#[test]
fn a_log_with_a_damaged_entry_is_refused_by_name() {
    let store = memory();
    let (mut log, _) = take_over(&store).unwrap();
    log.append(&claims([1, 2])).unwrap();
    save(&store, &mut log, 2, None).unwrap();
    for number in 1..=3 {
        let (name, bytes) = (name(number), store.get(&name(number)).unwrap().unwrap());
        let mut damaged = bytes.clone();
        damaged[25] ^= 1;
        for damaged in [damaged, bytes[..bytes.len() - 1].to_vec(), Vec::new()] {
            replace(&store, &name, &damaged);
            let error = take_over(&store).err().unwrap();
            assert!(matches!(&error, LogError::Corrupt { name: named, .. } if *named == name), "{error}");
        }
        replace(&store, &name, &bytes);
    }
    take_over(&store).unwrap();
}

#[test]
fn an_entry_that_is_too_long_is_refused_before_it_is_written() {
    let store = memory();
    let (mut log, _) = take_over(&store).unwrap();
    let mut long = claim(1);
    long.cuts = vec![(partition(0), i64::MAX); ENTRY_BYTES_MAX / 40];
    let error = log.append(&Entry::Claims(vec![long])).unwrap_err();
    assert!(matches!(&error, LogError::Refused(text) if text.contains("at most")), "{error}");
    log.append(&claims([1])).unwrap();
}

#[test]
fn a_checkpoint_with_which_the_log_begins_must_be_there() {
    let store = memory();
    take_over(&store).unwrap();
    let seal = store.get(&name(1)).unwrap().unwrap();
    let mut first = Envelope::decode("", &seal).unwrap();
    first.begin.epoch = 7;
    replace(&store, &name(1), &first.encode().unwrap());
    let error = take_over(&store).err().unwrap();
    assert!(error.to_string().contains("checkpoint 7 is kept, and it is not there"), "{error}");
    first.begin.entry = 2;
    replace(&store, &name(1), &first.encode().unwrap());
    let error = take_over(&store).err().unwrap();
    assert!(error.to_string().contains("begins at 2, after it"), "{error}");
}
