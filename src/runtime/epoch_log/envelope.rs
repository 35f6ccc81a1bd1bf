//! An entry as it is written: who wrote it as which number, and where the log began.
//!
//! ```text
//! "WKENTRY\n"   8   magic
//! version       4   little-endian, VERSION
//! length        4   of what follows the checksum
//! crc32c        4   over everything else
//! JSON              Envelope
//! ```
//!
//! JSON, so that `tail -c +21 log/… | jq` shows what a run has done. Another version is refused by its number. A version stays readable:
//! `tests/fixtures/state` holds an entry of each kind.

use serde::{Deserialize, Serialize};

use super::{Entry, LogError, corrupt};
use crate::time::Epoch;

/// Longest entry, in bytes. A checkpoint of a hundred workers is below 1 MiB.
pub const ENTRY_BYTES_MAX: usize = 16 << 20;

const MAGIC: &[u8; 8] = b"WKENTRY\n";
const VERSION: u32 = 1;
const HEAD: usize = 20;

/// Where the log begins.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    /// The first entry.
    pub(super) entry: u64,
    /// The seal in force there; it is kept although it may lie before.
    pub(super) seal: u64,
    /// Checkpoints of lower epochs are given up, and claims up to here.
    pub(super) epoch: Epoch,
    /// Below this one, everything but seals was removed.
    pub(super) swept: u64,
}

impl Default for Begin {
    /// Of a log from which nothing was removed.
    fn default() -> Self {
        Begin { entry: 1, seal: 1, epoch: 0, swept: 1 }
    }
}

/// Who writes: 128 random bits as hexadecimal digits. Two successors that race have the same generation until one has sealed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Writer(pub(super) String);

impl Writer {
    pub(super) fn random() -> Result<Writer, LogError> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits)
            .map_err(|error| LogError::Refused(format!("the system gives no random numbers: {error}")))?;
        Ok(Writer(format!("{:032x}", u128::from_be_bytes(bits))))
    }
}

/// An entry and what is said about it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    pub(super) number: u64,
    pub(super) generation: u64,
    pub(super) writer: Writer,
    pub(super) begin: Begin,
    pub(super) entry: Entry,
}

impl Envelope {
    pub(super) fn encode(&self) -> Result<Vec<u8>, LogError> {
        let json = serde_json::to_vec(self).expect("numbers, texts and lists can be written as JSON");
        if json.len() > ENTRY_BYTES_MAX - HEAD {
            return Err(LogError::Refused(format!(
                "an entry of the log would have {} bytes, at most {ENTRY_BYTES_MAX} are possible: claim fewer epochs at once",
                json.len() + HEAD
            )));
        }
        let mut bytes = Vec::with_capacity(HEAD + json.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(&bytes), &json).to_le_bytes());
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }

    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Envelope, LogError> {
        let Some((head, json)) = bytes.split_at_checked(HEAD) else { return Err(corrupt(name, "is cut off")) };
        if !head.starts_with(MAGIC) {
            return Err(corrupt(name, "is no entry of a log"));
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&head[..16]), json);
        if number(12) as usize != json.len() {
            return Err(corrupt(name, "has a wrong length"));
        }
        if number(16) != checksum {
            return Err(corrupt(name, "has a wrong checksum"));
        }
        if number(8) != VERSION {
            return Err(LogError::Refused(format!(
                "{name} in state.path has format version {}, this engine reads {VERSION}: use the engine that wrote it",
                number(8)
            )));
        }
        serde_json::from_slice(json).map_err(|error| corrupt(name, &format!("cannot be read: {error}")))
    }
}
