//! State files: what one worker's machine of one stage saved at a checkpoint, as one object.
//!
//! ```text
//! "WKSTATE\n"    8   magic
//! version        4   little-endian, VERSION
//! length         4   of the head
//! crc32c         4   over all of this and the head
//! head               postcard: stage, epoch, salt and key id if encrypted, and of each block route, lengths, crc32c of its stored bytes
//! blocks             in the order of the head, any number of a route; each zstd, then AES-256-GCM if there is a key
//! ```
//!
//! Invariants:
//!
//! 1. What is handed over is what was saved, or nothing is: the whole object has the length and checksum that the log says, the head its own,
//!    each block its own.
//! 2. With a key, a block can be read only as this block of this stage, epoch and route. Each file has a key of its own, derived (HKDF-SHA-256) from
//!    the given one and 32 random bytes: a nonce can then be the block's number, and the number of files under one key has no limit (a random nonce
//!    would allow 2^32 blocks, which is a year of checkpoints).
//! 3. A worker decompresses what it owns and nothing else.
//!
//! Pseudonymous data of patients is in here, and without a key it is readable. Stage, epoch, routes and lengths are so with a key as well.
//! Limits: the head is below 4 GiB, which is 10^8 blocks; a block, compressed or not, must fit into memory twice. Another version is refused by its number;
//! `tests/fixtures/state` holds a file of each kind that must stay readable.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

use crate::config::StateSpec;
use crate::runtime::epoch_log::{LogError, StatePart};
use crate::runtime::secret;
use crate::runtime::survive::Route;
use crate::time::Epoch;

#[cfg(test)]
mod tests;

/// What names of state files begin with.
pub(super) const FOLDER: &str = "state/";

const MAGIC: &[u8; 8] = b"WKSTATE\n";
const VERSION: u32 = 1;
/// Bytes before the head.
const FRONT: usize = 20;
/// zstd's level, one of the fast ones: state is written every few seconds and read once in a while, and most of it is pseudonyms, which nothing compresses.
/// Of a million patients, files are 6 % larger than at level 1, and a whole run takes 3 % less CPU time.
const LEVEL: i32 = -2;
/// What derived keys are for (RFC 5869's `info`).
const PURPOSE: &[u8] = b"windkessel state file 1";

/// The secret that state is encrypted with: 32 bytes. Wiped on drop; what is derived from it is not.
#[derive(Clone)]
pub struct StateKey(Zeroizing<[u8; 32]>);

impl StateKey {
    /// Reads the key file that `state.encryption_key_file` names, if it names one.
    ///
    /// # Errors
    /// A sentence with a hint; it never holds a part of the key.
    pub fn read(spec: &StateSpec) -> Result<Option<StateKey>, String> {
        let Some(path) = &spec.encryption_key_file else { return Ok(None) };
        let hint = "make one with: (umask 077; openssl rand -hex 32 > FILE)";
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text =
            text.map_err(|error| format!("could not read state.encryption_key_file {path:?}: {error}; {hint}"))?;
        let key = Self::from_hex(&text);
        key.map(Some).map_err(|why| format!("could not use state.encryption_key_file {path:?}: {why}; {hint}"))
    }

    /// From 64 hexadecimal characters, white space around them ignored.
    ///
    /// # Errors
    /// If they are anything else.
    pub fn from_hex(text: &str) -> Result<StateKey, &'static str> {
        secret::from_hex(text).map(StateKey)
    }

    /// Which key this is: the first 8 hex digits of SHA-256 over a fixed prefix and the key.
    pub fn id(&self) -> String {
        let digest = Sha256::new().chain_update(b"windkessel state key id\0").chain_update(self.0.as_ref()).finalize();
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The key of one file.
    fn of(&self, salt: &[u8; 32]) -> LessSafeKey {
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.0.as_ref());
        let key = derived.expand(&[PURPOSE], &AES_256_GCM).expect("32 bytes are within what HKDF-SHA-256 gives");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

impl std::fmt::Debug for StateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateKey(…)")
    }
}

/// What is said about a file before its blocks.
#[derive(Serialize, Deserialize)]
struct Head {
    stage: String,
    epoch: Epoch,
    encryption: Option<Encryption>,
    blocks: Vec<Block>,
}

/// How the blocks are encrypted.
#[derive(Serialize, Deserialize)]
struct Encryption {
    key_id: String,
    salt: [u8; 32],
}

/// One block. They follow one another without gaps.
#[derive(Serialize, Deserialize)]
struct Block {
    route: Route,
    stored: u64,
    raw: u64,
    /// Of the stored bytes: of the saved ones it would tell something about what is encrypted.
    crc32c: u32,
}

/// The object's name: `state/<epoch>-g<generation>-w<worker>-<stage>`.
pub fn name(epoch: Epoch, generation: u64, worker: usize, stage: &str) -> String {
    format!("{FOLDER}{epoch:020}-g{generation}-w{worker}-{stage}")
}

/// Epoch and generation of a name; `None` if it is no state file's.
pub(super) fn parse(name: &str) -> Option<(Epoch, u64)> {
    let mut parts = name.strip_prefix(FOLDER)?.splitn(4, '-');
    let epoch = parts.next().filter(|epoch| epoch.len() == 20)?.parse().ok()?;
    let generation = parts.next()?.strip_prefix('g')?.parse().ok()?;
    parts.next()?.strip_prefix('w')?.parse::<usize>().ok()?;
    parts.next().map(|_| (epoch, generation))
}

/// A state file in the making. With a key, its bytes differ from time to time.
pub struct Encoder {
    stage: &'static str,
    epoch: Epoch,
    sealed: Option<(Encryption, LessSafeKey)>,
    index: Vec<Block>,
    /// The blocks as they will be stored, end to end.
    stored: Vec<u8>,
}

impl Encoder {
    /// Without blocks. It is made in the memory of an earlier file, whose bytes are not needed any more, or in none: fresh pages cost more than
    /// compressing does.
    pub fn new(stage: &'static str, epoch: Epoch, cipher: Option<&StateKey>, earlier: Vec<u8>) -> Self {
        let sealed = cipher.map(|key| {
            let mut salt = [0; 32];
            getrandom::fill(&mut salt).expect("a system that runs gives random numbers");
            (Encryption { key_id: key.id(), salt }, key.of(&salt))
        });
        let mut stored = earlier;
        stored.clear();
        Encoder { stage, epoch, sealed, index: Vec::new(), stored }
    }

    /// Adds a block; those of a route in the order in which they are to be read.
    pub fn add(&mut self, route: Route, raw: &[u8], packer: &mut Packer) {
        let number = self.index.len();
        let block = packer.pack(raw);
        if let Some((_, key)) = &self.sealed {
            let aad = Aad::from(context(self.stage, self.epoch, number, route));
            key.seal_in_place_append_tag(nonce(number), aad, block).expect("a block is below 64 GiB");
        }
        let (stored, raw, crc32c) = (block.len() as u64, raw.len() as u64, crc32c::crc32c(block));
        self.index.push(Block { route, stored, raw, crc32c });
        self.stored.extend_from_slice(block);
    }

    /// The bytes of the file.
    pub fn finish(self) -> Vec<u8> {
        let Encoder { stage, epoch, sealed, index, mut stored } = self;
        let encryption = sealed.map(|(encryption, _)| encryption);
        let head = front(&Head { stage: stage.to_owned(), epoch, encryption, blocks: index });
        stored.splice(0..0, head);
        stored
    }
}

/// Compresses blocks, with one context for all: making one costs more than a small block.
pub struct Packer {
    compressor: Compressor<'static>,
    packed: Vec<u8>,
}

impl Packer {
    /// # Errors
    /// There is no memory for it.
    pub fn new() -> std::io::Result<Self> {
        Ok(Packer { compressor: Compressor::new(LEVEL)?, packed: Vec::new() })
    }

    fn pack(&mut self, raw: &[u8]) -> &mut Vec<u8> {
        self.packed.clear();
        self.packed.reserve(compress_bound(raw.len()));
        self.compressor.compress_to_buffer(raw, &mut self.packed).expect("there is room for what is compressed");
        &mut self.packed
    }
}

/// What stands before the blocks.
fn front(head: &Head) -> Vec<u8> {
    let head = postcard::to_allocvec(head).expect("texts, numbers and lists can be written");
    let length = u32::try_from(head.len()).expect("a head is below 4 GiB");
    let mut bytes = Vec::with_capacity(FRONT + head.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), &head);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes
}

/// What the log keeps of a state file.
pub fn part(name: &str, bytes: &[u8]) -> StatePart {
    StatePart { name: name.to_owned(), bytes: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) }
}

/// Verifies a state file and hands over the blocks that are wanted, each with how many bytes of such blocks follow it; the others are not decompressed.
///
/// # Errors
/// [`LogError::Corrupt`] if it is not what the log says, or `take` refuses a block: an earlier checkpoint may do.
/// [`LogError::Refused`] if another version of the engine or another key is needed: an earlier checkpoint will not do.
/// What `take` was given until then must not be used.
pub fn decode(
    name: &str,
    bytes: &[u8],
    part: &StatePart,
    cipher: Option<&StateKey>,
    wants: impl Fn(Route) -> bool,
    mut take: impl FnMut(Route, &[u8], u64) -> Result<(), String>,
) -> Result<(), LogError> {
    if part.name != name || part.bytes != bytes.len() as u64 {
        return Err(corrupt(name, &format!("has {} bytes, the log says {} of {}", bytes.len(), part.bytes, part.name)));
    }
    if part.crc32c != crc32c::crc32c(bytes) {
        return Err(corrupt(name, "has another checksum than the log says"));
    }
    let (head, mut rest) = open(name, bytes)?;
    let key = head.encryption.as_ref().map(|encryption| key_for(name, encryption, cipher)).transpose()?;
    let mut decompressor = Decompressor::new().map_err(|error| corrupt(name, &error.to_string()))?;
    let wanted = head.blocks.iter().filter(|block| wants(block.route));
    // What a head says is not proved yet: it may be anything.
    let mut following = wanted.fold(0, |sum: u64, block| sum.saturating_add(block.raw));
    for (number, block) in head.blocks.iter().enumerate() {
        let stored = usize::try_from(block.stored).ok().and_then(|length| rest.split_at_checked(length));
        let (stored, after) = stored.ok_or_else(|| corrupt(name, "is cut off"))?;
        rest = after;
        if wants(block.route) {
            let aad = Aad::from(context(&head.stage, head.epoch, number, block.route));
            let raw = unpack(&mut decompressor, block, stored, key.as_ref().map(|key| (key, nonce(number), aad)));
            following = following.saturating_sub(block.raw);
            let taken = raw.and_then(|raw| take(block.route, &raw, following));
            taken.map_err(|why| corrupt(name, &format!("has a damaged block of route {}: {why}", block.route)))?;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(corrupt(name, "is longer than its head says")) }
}

/// Reads the head; what is after it are the blocks.
fn open<'a>(name: &str, bytes: &'a [u8]) -> Result<(Head, &'a [u8]), LogError> {
    let Some((front, rest)) = bytes.split_at_checked(FRONT) else { return Err(corrupt(name, "is cut off")) };
    if !front.starts_with(MAGIC) {
        return Err(corrupt(name, "is no state file"));
    }
    let number = |at: usize| u32::from_le_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]);
    let split = rest.split_at_checked(number(12) as usize);
    let (head, blocks) = split.ok_or_else(|| corrupt(name, "is cut off"))?;
    if number(16) != crc32c::crc32c_append(crc32c::crc32c(&front[..16]), head) {
        return Err(corrupt(name, "has a head with a wrong checksum"));
    }
    if number(8) != VERSION {
        return Err(LogError::Refused(format!(
            "{name} in state.path has format version {}, this engine reads {VERSION}: use the engine that wrote it",
            number(8)
        )));
    }
    let head: Head = postcard::from_bytes(head).map_err(|_| corrupt(name, "has a head that cannot be read"))?;
    let named = self::parse(name).is_some_and(|(epoch, _)| epoch == head.epoch);
    if !named || !name.ends_with(&format!("-{}", head.stage)) {
        return Err(corrupt(name, &format!("holds epoch {} of {}", head.epoch, head.stage)));
    }
    Ok((head, blocks))
}

fn key_for(name: &str, encryption: &Encryption, cipher: Option<&StateKey>) -> Result<LessSafeKey, LogError> {
    let refused = |ours: &str| {
        let key_id = &encryption.key_id;
        LogError::Refused(format!(
            "{name} in state.path is encrypted with key {key_id}, {ours}: state.encryption_key_file must hold that key"
        ))
    };
    let key = cipher.ok_or_else(|| refused("and the flow names none"))?;
    if key.id() != encryption.key_id {
        return Err(refused(&format!("and the flow names key {}", key.id())));
    }
    Ok(key.of(&encryption.salt))
}

/// The saved bytes of a block.
fn unpack(
    decompressor: &mut Decompressor<'_>,
    block: &Block,
    stored: &[u8],
    key: Option<(&LessSafeKey, Nonce, Aad<Vec<u8>>)>,
) -> Result<Vec<u8>, String> {
    if crc32c::crc32c(stored) != block.crc32c {
        return Err("a wrong checksum".into());
    }
    let length = usize::try_from(block.raw).map_err(|_| "it does not fit into memory")?;
    let mut opened = Vec::new();
    let compressed = match key {
        None => stored,
        Some((key, nonce, aad)) => {
            opened.extend_from_slice(stored);
            &*key.open_in_place(nonce, aad, &mut opened).map_err(|_| "it was not sealed with this key as this block")?
        }
    };
    let raw = decompressor.decompress(compressed, length).map_err(|error| error.to_string())?;
    if raw.len() == length { Ok(raw) } else { Err("a wrong length".into()) }
}

/// Unique in a file, and a file has its own key.
fn nonce(number: usize) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// What a block is sealed as.
fn context(stage: &str, epoch: Epoch, number: usize, route: Route) -> Vec<u8> {
    let numbers = [u64::from(VERSION), epoch, number as u64, route];
    let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
    numbers.chain(stage.bytes()).collect()
}

fn corrupt(name: &str, why: &str) -> LogError {
    LogError::Corrupt { name: name.into(), why: why.into() }
}
