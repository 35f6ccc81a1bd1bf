//! Where durable things are kept: whole objects under names, in a folder, in a bucket, or in memory.
//!
//! ```text
//! state.path = "folder"        ─> local    folder/log/00000000000000000007
//! state.path = "s3://b/prefix" ─> s3       s3://b/prefix/log/00000000000000000007
//! demo, check, tests           ─> memory
//! ```
//!
//! Invariants, of every [`Store`]:
//!
//! 1. An object is whole or not there: no crash, full disk or lost connection leaves a part of one under its name.
//! 2. An object never changes. [`Store::create`] of a taken name changes nothing; of several racing for a name, one wins.
//! 3. When `create` has answered, with either answer, the object is there after a loss of power.
//!    When it has failed as [unavailable](StoreErrorKind::Unavailable), the object may be there or not, or yet come.
//! 4. A deletion may be undone by a loss of power; whoever deletes says elsewhere, before, that it is not needed.
//!
//! Limits: a name has at most [`NAME_BYTES_MAX`] bytes of `[A-Za-z0-9._-]` and `/`, no part of it begins with a full stop. An object is
//! handed over in one piece and must fit into memory; S3 takes 5 GiB. Nothing is retried for long in here: the caller knows how long it can wait.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::StateSpec;

mod local;
mod memory;
#[cfg(test)]
pub(crate) mod power_loss;
mod s3;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// Longest name of an object, in bytes; what file systems allow in one part of a path is more than enough.
pub const NAME_BYTES_MAX: usize = 200;

/// A store that is shared between threads.
pub type SharedStore = Arc<dyn Store>;

/// Whole objects under names. Calls block.
pub trait Store: Send + Sync {
    /// Creates an object whole and durable; `Ok(false)` if the name is taken (nothing changed).
    ///
    /// # Errors
    /// After an unavailable one, it is not known whether the object is there: call again, and compare if the name is taken then.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError>;

    /// The bytes of an object; `None` if it is not there.
    ///
    /// # Errors
    /// If the store does not answer, or refuses to.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Names that begin with `prefix`, ascending. What others create meanwhile may be among them or not.
    ///
    /// # Errors
    /// If the store does not answer, or refuses to.
    fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Removes an object; `Ok` if it is not there.
    ///
    /// # Errors
    /// If the store does not answer, or refuses to.
    fn delete(&self, name: &str) -> Result<(), StoreError>;
}

/// Opens the store that a flow names.
///
/// # Errors
/// If the place cannot be used as it is written, or does not let itself be opened. A bucket is not contacted yet.
pub fn open(spec: &StateSpec) -> Result<SharedStore, StoreError> {
    let refused = |why| StoreError::refused("open", "the store", &spec.path, why, "state.path names the place");
    match Place::parse(&spec.path).map_err(refused)? {
        Place::Folder(folder) => Ok(Arc::new(local::Local::open(folder, Arc::new(local::Disk))?)),
        Place::Bucket { bucket, prefix } => Ok(Arc::new(s3::S3::open(spec, &bucket, &prefix)?)),
    }
}

/// A store that ends with the process.
pub fn memory() -> SharedStore {
    Arc::new(memory::Memory::default())
}

/// What `state.path` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder of a file system with hard links.
    Folder(PathBuf),
    /// `s3://bucket/prefix`; the prefix is without slashes at its ends, and may be empty.
    Bucket {
        /// The bucket.
        bucket: String,
        /// What the names of all objects begin with.
        prefix: String,
    },
}

impl Place {
    /// Reads `state.path`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(path: &str) -> Result<Place, String> {
        if path.is_empty() {
            return Err("the path is empty".into());
        }
        let Some((scheme, rest)) = path.split_once("://") else { return Ok(Place::Folder(path.into())) };
        if scheme != "s3" {
            return Err(format!("{scheme}:// is not known; write a folder or s3://bucket/prefix"));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
        if bucket.is_empty() || !bucket.chars().all(plain) {
            return Err(format!("{bucket:?} is no name of a bucket: lower-case letters, digits, . and -"));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() {
            check_name(prefix)?;
        }
        Ok(Place::Bucket { bucket: bucket.into(), prefix: prefix.into() })
    }
}

/// Names that every store takes.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    if name.len() <= NAME_BYTES_MAX && name.split('/').all(part) {
        return Ok(());
    }
    Err(format!("a name is at most {NAME_BYTES_MAX} letters, digits, \".\", \"_\", \"-\" in parts between \"/\""))
}

/// Why a store did not do what it should: one sentence with the object and a hint, never a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not {action} {object} in {place:?}: {why} ({hint})")]
pub struct StoreError {
    /// May it be tried again?
    pub kind: StoreErrorKind,
    action: &'static str,
    object: String,
    place: String,
    why: String,
    hint: String,
}

/// Whether it makes sense to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store does not answer, or is full, at the moment. What was attempted may have happened.
    Unavailable,
    /// It will not work until somebody changes something.
    Refused,
}

impl StoreError {
    /// True if it may be tried again.
    pub fn may_be_retried(&self) -> bool {
        self.kind == StoreErrorKind::Unavailable
    }

    fn refused(action: &'static str, object: &str, place: &str, why: String, hint: &str) -> Self {
        let kind = StoreErrorKind::Refused;
        StoreError { kind, action, object: object.into(), place: place.into(), why, hint: hint.into() }
    }

    fn unavailable(action: &'static str, object: &str, place: &str, why: String, hint: &str) -> Self {
        StoreError { kind: StoreErrorKind::Unavailable, ..Self::refused(action, object, place, why, hint) }
    }

    /// What a store says that a process cannot use any more.
    #[cfg(test)]
    pub(crate) fn gone(name: &str) -> Self {
        Self::refused("reach", name, "a test", "the process is dead".into(), "start another")
    }

    /// What a time-out gives.
    #[cfg(test)]
    pub(crate) fn time_out(name: &str) -> Self {
        Self::unavailable("create", name, "a test", "no answer".into(), "try again")
    }
}
