//! Whether a file is the one that an earlier run has read under its name, and by which topic it is known if not.
//!
//! | what is found under a path of which something was read | what it is |
//! |---|---|
//! | the same bytes | the same file: read on where the earlier run left it, which may be its end |
//! | NDJSON, not compressed, with lines behind the same bytes | the same file, which has grown: read on |
//! | anything else | another file: read from its beginning, as a topic of its own (`file-….2`) |
//! | standard input | always another one: what has gone through a pipe does not come again (`stdin.2`) |
//!
//! A file's *print* is its length and a keyed hash of it, or of [`BLOCKS`] blocks spread evenly over a longer one. Each start makes one of every file, which the
//! log's seal holds, and compares it with what the start before made. So an offset is never used for another file than the one it was counted in.
//!
//! Not noticed: a change that keeps the length and lies between the blocks; a print that is equal by chance (1 in 2⁴⁸). What was replaced after a run had
//! begun and before it came to read it is taken for another file at the next start: it is read once more, and its observations are duplicates.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use super::STDIN_TOPIC;
use super::find::{Input, Packing, closed, find_all, hex};
use super::split::Shape;
use crate::config::SourceSpec;
use crate::source::{Earlier, Found, PathKey, SourceError, Topics};

/// So many blocks are looked at.
const BLOCKS: u64 = 16;
/// Of so many bytes each. A file that is not longer than all of them is looked at whole.
const BLOCK_BYTES: u64 = 4 << 10;

/// The topics by which the files that are there now are known, and their prints.
pub(in crate::source) fn identify(
    spec: &SourceSpec,
    key: PathKey<'_>,
    earlier: &Earlier<'_>,
) -> Result<Found, SourceError> {
    let known = Topics::continuing(earlier.topics, []);
    let (mut names, mut prints) = (Vec::new(), BTreeMap::new());
    for input in find_all(spec, key)?.0 {
        let newest = known.newest(&input.topic);
        let mut topic = newest.map_or(&*input.topic, |topic| known.name(topic)).to_owned();
        if newest.is_some_and(|newest| earlier.read.contains(&newest)) {
            let then = earlier.prints.get(&topic);
            if !is_same(&input, then.map(String::as_str), key).map_err(|why| closed(&input, &why))? {
                topic = after(&input.topic, &topic);
                tell(&input, &topic);
            }
        }
        if input.topic != STDIN_TOPIC {
            let print = Print::of(&input, key).map_err(|why| closed(&input, &why))?;
            prints.insert(topic.clone(), print.to_string());
        }
        names.push(topic);
    }
    Ok(Found { names: Topics::new(names), prints })
}

/// Never silently: somebody may have meant to add to it.
fn tell(input: &Input, topic: &str) {
    match input.topic == STDIN_TOPIC {
        true => {
            tracing::info!(target: "source", topic, "standard input is never resumed: all that comes is read, as something new");
        }
        false => {
            let shown = &input.shown;
            tracing::warn!(target: "source", topic, "{shown} is not the file that an earlier run has read: it is read from its beginning, as a new one");
        }
    }
}

/// Which of the files of one path a topic stands for, from 1; `None` if it stands for none.
pub(in crate::source) fn ordinal(first: &str, topic: &str) -> Option<u32> {
    match topic.strip_prefix(first)? {
        "" => Some(1),
        rest => rest.strip_prefix('.')?.parse().ok().filter(|ordinal| *ordinal > 1),
    }
}

/// The topic of the next file of a path.
fn after(first: &str, topic: &str) -> String {
    format!("{first}.{}", ordinal(first, topic).unwrap_or(1) + 1)
}

/// True if what was read of a file is there, and what is behind it is more of the same. A state without a print is of a release that made none.
fn is_same(input: &Input, then: Option<&str>, key: PathKey<'_>) -> io::Result<bool> {
    if input.topic == STDIN_TOPIC {
        return Ok(false);
    }
    let Some(then) = then.and_then(Print::parse) else { return Ok(true) };
    let file = File::open(&input.path)?;
    let bytes = file.metadata()?.len();
    if bytes < then.bytes || Print::of_beginning(&file, then.bytes, key)? != then {
        return Ok(false);
    }
    let may_grow = input.packing == Packing::Plain && input.shape == Shape::Lines;
    Ok(bytes == then.bytes || (may_grow && is_line_start(&file, then.bytes)?))
}

/// True if what is at `at` does not go on with a line that was there already.
fn is_line_start(file: &File, at: u64) -> io::Result<bool> {
    let Some(before) = at.checked_sub(1) else { return Ok(true) };
    let mut two = [0; 2];
    file.read_exact_at(&mut two, before)?;
    Ok(two[0] == b'\n' || matches!(two[1], b'\n' | b'\r'))
}

/// What tells a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    bytes: u64,
    hash: [u8; 6],
}

impl Print {
    fn of(input: &Input, key: PathKey<'_>) -> io::Result<Print> {
        let file = File::open(&input.path)?;
        Print::of_beginning(&file, file.metadata()?.len(), key)
    }

    /// As if the file ended after so many bytes, which it has.
    fn of_beginning(file: &File, bytes: u64, key: PathKey<'_>) -> io::Result<Print> {
        let mut digest = Sha256::new().chain_update(bytes.to_le_bytes());
        let mut block = [0; BLOCK_BYTES as usize];
        for (at, length) in blocks(bytes) {
            let block = &mut block[..length];
            file.read_exact_at(block, at)?;
            digest.update(&*block);
        }
        // Keyed: the log is no place to try guesses of what a file holds.
        let hash = key(&hex("print/", &digest.finalize()));
        Ok(Print { bytes, hash })
    }

    fn parse(text: &str) -> Option<Print> {
        let (bytes, digits) = text.split_once(':')?;
        let mut hash = [0; 6];
        let pair = |at: usize| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok();
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = pair(at)?;
        }
        Some(Print { bytes: bytes.parse().ok()?, hash }).filter(|_| digits.len() == 12)
    }
}

impl std::fmt::Display for Print {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&format!("{}:", self.bytes), &self.hash))
    }
}

/// Where to look at a file of so many bytes, and at how many: from its first byte to its last.
fn blocks(bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    let count = bytes.div_ceil(BLOCK_BYTES).min(BLOCKS);
    (0..count).map(move |number| {
        let at = match bytes <= BLOCKS * BLOCK_BYTES {
            true => number * BLOCK_BYTES,
            // In 128 bits, because a file may be long.
            false => (u128::from(number) * u128::from(bytes - BLOCK_BYTES) / u128::from(BLOCKS - 1)) as u64,
        };
        (at, (bytes - at).min(BLOCK_BYTES) as usize)
    })
}

#[cfg(test)]
mod tests {
    //! Proves which changes of a file make it another one, and what it is called then.
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    use rand::{Rng, RngExt, SeedableRng};

    use super::super::find::find;
    use super::*;
    use crate::vocabulary::TopicId;

    fn key(text: &str) -> [u8; 6] {
        let sum = crc32c::crc32c(text.as_bytes()).to_le_bytes();
        [sum[0], sum[1], sum[2], sum[3], 0, 0]
    }

    /// One file, as start after start finds it.
    struct Starts {
        root: tempfile::TempDir,
        path: PathBuf,
        topics: Vec<String>,
        prints: BTreeMap<String, String>,
    }

    impl Starts {
        fn of(name: &str) -> Starts {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(name);
            Starts { root, path, topics: Vec::new(), prints: BTreeMap::new() }
        }

        /// A start that reads something; says which file of the path it takes it for.
        fn start(&mut self, content: &[u8]) -> u32 {
            fs::write(&self.path, content).unwrap();
            self.look(true)
        }

        fn look(&mut self, reads: bool) -> u32 {
            let spec = SourceSpec { paths: vec![self.root.path().to_owned()], ..SourceSpec::default() };
            let read: BTreeSet<TopicId> = (0..self.topics.len() as u32).map(TopicId).collect();
            let earlier = Earlier { topics: &self.topics, read: &read, prints: &self.prints };
            let found = identify(&spec, &key, &earlier).unwrap();
            let first = find(&spec.paths, &key).unwrap().0[0].topic.clone();
            let name = found.names.names().next().unwrap().to_owned();
            let ordinal = ordinal(&first, &name).unwrap();
            if reads {
                self.topics = Topics::continuing(&self.topics, [name]).names().map(str::to_owned).collect();
                self.prints.extend(found.prints);
            }
            ordinal
        }
    }

    fn check(name: &str, contents: &[&[u8]], expected: &[u32]) {
        let mut starts = Starts::of(name);
        let found: Vec<u32> = contents.iter().map(|content| starts.start(content)).collect();
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn lines_that_were_added_are_more_of_the_same_file_and_anything_else_is_another() {
        check("a.ndjson", &[b"1\n2\n", b"1\n2\n", b"1\n2\n3\n", b"1\n2\n3\n4"], &[1, 1, 1, 1]);
        check("a.ndjson", &[b"1\n2", b"1\n2\n3", b"1\n2\n3\r\n4\n"], &[1, 1, 1]);
        check("a.ndjson", &[b"1\n2", b"1\n23\n"], &[1, 2]);
        check("a.ndjson", &[b"1\n2\n", b"1\n3\n", b"1\n3\n", b"1\n2\n"], &[1, 2, 2, 3]);
        check("a.ndjson", &[b"1\n2\n", b"1\n", b""], &[1, 2, 3]);
        check("a.ndjson", &[b"", b"1\n"], &[1, 1]);
    }

    #[test]
    fn what_is_one_document_or_compressed_does_not_grow() {
        check("a.json", &[b"{\n}\n", b"{\n}\n", b"{\n}\n{}"], &[1, 1, 2]);
        check("a.ndjson.gz", &[b"as if\n", b"as if\n", b"as if\nand more\n"], &[1, 1, 2]);
    }

    #[test]
    fn one_of_which_nothing_was_read_keeps_its_name() {
        let mut starts = Starts::of("a.ndjson");
        fs::write(&starts.path, "1\n").unwrap();
        assert_eq!(starts.look(false), 1);
        assert_eq!(starts.start(b"2\n"), 1);
    }

    #[test]
    fn a_state_without_prints_goes_on() {
        let mut starts = Starts::of("a.ndjson");
        starts.start(b"1\n");
        starts.prints.clear();
        assert_eq!(starts.start(b"2\n"), 1);
        assert_eq!(starts.start(b"3\n"), 2);
    }

    #[test]
    fn standard_input_is_another_one_once_something_was_read() {
        let spec = SourceSpec { paths: vec!["-".into()], ..SourceSpec::default() };
        let names = |topics: &[&str], read: &[u32]| {
            let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
            let read: BTreeSet<TopicId> = read.iter().copied().map(TopicId).collect();
            let earlier = Earlier { topics: &topics, read: &read, prints: &BTreeMap::new() };
            identify(&spec, &key, &earlier).unwrap().names.names().next().unwrap().to_owned()
        };
        assert_eq!(names(&[], &[]), "stdin");
        assert_eq!(names(&["stdin"], &[]), "stdin");
        assert_eq!(names(&["file-x", "stdin"], &[1]), "stdin.2");
        assert_eq!(names(&["stdin", "stdin.2", "stdin.10"], &[0, 1]), "stdin.10");
        assert_eq!(names(&["stdin", "stdin.2", "stdin.10"], &[0, 1, 2]), "stdin.11");
    }

    #[test]
    fn a_changed_byte_makes_another_print_wherever_a_block_is() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        let whole = BLOCKS * BLOCK_BYTES;
        for bytes in [1, BLOCK_BYTES, whole - 1, whole, whole + 1, 3 * whole + 17, 50 * whole] {
            let mut content = vec![0; bytes as usize];
            random.fill_bytes(&mut content);
            let looked_at: Vec<(u64, usize)> = blocks(bytes).collect();
            assert_eq!(looked_at[0].0, 0);
            assert_eq!(looked_at.last().map(|(at, length)| at + *length as u64), Some(bytes), "to its end");
            let covered: usize = looked_at.iter().map(|(_, length)| length).sum();
            assert_eq!(covered as u64, bytes.min(whole), "{bytes} bytes");
            let print = |content: &[u8]| {
                fs::write(&path, content).unwrap();
                Print::of_beginning(&File::open(&path).unwrap(), bytes, &key).unwrap()
            };
            let before = print(&content);
            assert_eq!(Print::parse(&before.to_string()), Some(before));
            for (at, length) in looked_at {
                let place = at as usize + random.random_range(0..length);
                let flipped = 1 << random.random_range(0..8);
                content[place] ^= flipped;
                assert_ne!(print(&content), before, "byte {place} of {bytes}");
                content[place] ^= flipped;
            }
            assert_eq!(print(&content), before);
        }
    }
}
