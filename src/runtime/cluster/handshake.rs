//! How two processes find out that they belong together.
//!
//! ```text
//! caller  ── magic, version, nonce a ──────────────>  answerer
//!         <── magic, version, nonce b ──────────────
//!         ── HMAC(secret, "caller", a, b) ─────────>  checked; if wrong: one byte, and the end
//!         <── 1, HMAC(secret, "answerer", a, b) ────
//!         ── hello ────────────────────────────────>
//!         <── hello ────────────────────────────────  each compares
//! ```
//!
//! Invariants:
//!
//! 1. Both prove the secret before either reads anything of a length that the other chose. Nonces are fresh, and the two proofs differ: none can be replayed
//!    or handed back.
//! 2. A refusal says nothing of the secret.
//!
//! Limits: [`HELLO_BYTES_MAX`] a hello; the whole of it within the time that the caller of [`call`] or [`answer`] gives. It authenticates, and does not encrypt.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What every connection begins with: name and version of this handshake.
const MAGIC: [u8; 8] = *b"WNDKSL\x00\x01";

/// A hello is not longer.
pub(super) const HELLO_BYTES_MAX: usize = 64 << 10;

/// A secret is not shorter.
const SECRET_BYTES_MIN: usize = 16;

/// What a process was started with, by name. All processes must say the same.
pub type Word = BTreeMap<String, String>;

/// What all processes of a cluster know.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Reads it from a file; white space around it does not count.
    ///
    /// # Errors
    /// A sentence with a hint, without a part of the secret.
    pub fn read(path: &Path) -> Result<Secret, String> {
        let hint = "make one with: (umask 077; openssl rand -hex 32 > FILE)";
        let text = std::fs::read(path).map(Zeroizing::new);
        let text = text.map_err(|error| format!("could not read the cluster secret {path:?}: {error}; {hint}"))?;
        let secret = text.trim_ascii();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "could not use the cluster secret {path:?}: it has fewer than {SECRET_BYTES_MIN} characters; {hint}"
            ));
        }
        Ok(Secret(Zeroizing::new(secret.to_vec())))
    }

    /// For processes of one machine, which need none.
    pub fn none() -> Secret {
        Secret(Zeroizing::new(Vec::new()))
    }

    #[cfg(test)]
    pub(super) fn of(text: &str) -> Secret {
        Secret(Zeroizing::new(text.as_bytes().to_vec()))
    }

    fn proof(&self, role: &[u8], caller: &[u8; 32], answerer: &[u8; 32]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.chain_update(MAGIC).chain_update(role).chain_update(caller).chain_update(answerer)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    Data,
    Side,
}

/// Who is there, and what it was started with. What an answerer says of the purpose does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) process: u32,
    pub(super) purpose: Purpose,
    pub(super) word: Word,
}

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("nobody is there")]
    Unreachable,
    #[error("it has another cluster secret")]
    Secret,
    #[error("it is no process of a windkessel cluster of this version")]
    Noise,
    #[error("the handshake broke off: {0}")]
    Broken(#[from] io::Error),
}

/// The caller's side.
pub(super) fn call(stream: &mut TcpStream, secret: &Secret, own: &Hello, within: Duration) -> Result<Hello, Refusal> {
    let mut timed = Timed::new(stream, within);
    let nonce = nonce()?;
    timed.write_all(&[&MAGIC[..], &nonce].concat())?;
    let theirs = read_nonce(&mut timed)?;
    timed.write_all(&secret.proof(b"caller", &nonce, &theirs).finalize().into_bytes())?;
    let [accepted] = read::<1>(&mut timed)?;
    if accepted != 1 {
        return Err(Refusal::Secret);
    }
    let proof = read::<32>(&mut timed)?;
    secret.proof(b"answerer", &nonce, &theirs).verify_slice(&proof).map_err(|_| Refusal::Secret)?;
    write_hello(&mut timed, own)?;
    let hello = read_hello(&mut timed)?;
    timed.finish()?;
    Ok(hello)
}

/// The side of the one who is called.
pub(super) fn answer(stream: &mut TcpStream, secret: &Secret, own: &Hello, within: Duration) -> Result<Hello, Refusal> {
    let mut timed = Timed::new(stream, within);
    let theirs = read_nonce(&mut timed)?;
    let nonce = nonce()?;
    timed.write_all(&[&MAGIC[..], &nonce].concat())?;
    let proof = read::<32>(&mut timed)?;
    if secret.proof(b"caller", &theirs, &nonce).verify_slice(&proof).is_err() {
        timed.write_all(&[0])?;
        return Err(Refusal::Secret);
    }
    let own_proof = secret.proof(b"answerer", &theirs, &nonce).finalize().into_bytes();
    timed.write_all(&[&[1], &own_proof[..]].concat())?;
    let hello = read_hello(&mut timed)?;
    write_hello(&mut timed, own)?;
    timed.finish()?;
    Ok(hello)
}

fn nonce() -> Result<[u8; 32], Refusal> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| Refusal::Broken(io::Error::other(error.to_string())))?;
    Ok(nonce)
}

fn read_nonce(from: &mut impl Read) -> Result<[u8; 32], Refusal> {
    if read::<{ MAGIC.len() }>(from)? != MAGIC {
        return Err(Refusal::Noise);
    }
    Ok(read::<32>(from)?)
}

fn read<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_hello(to: &mut impl Write, hello: &Hello) -> Result<(), Refusal> {
    let bytes = postcard::to_allocvec(hello).map_err(|_| Refusal::Noise)?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= HELLO_BYTES_MAX);
    let length = length.ok_or(Refusal::Noise)?;
    Ok(to.write_all(&[&length.to_be_bytes()[..], &bytes].concat())?)
}

fn read_hello(from: &mut impl Read) -> Result<Hello, Refusal> {
    let length = u32::from_be_bytes(read::<4>(from)?) as usize;
    if length > HELLO_BYTES_MAX {
        return Err(Refusal::Noise);
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(|_| Refusal::Noise)
}

/// A connection that has so much time for everything together: a caller who sends a byte now and then does not last longer either.
struct Timed<'a> {
    stream: &'a mut TcpStream,
    until: Instant,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a mut TcpStream, within: Duration) -> Self {
        Timed { stream, until: Instant::now() + within }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    /// Lifts the limits again.
    fn finish(self) -> io::Result<()> {
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(None)
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(into)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
