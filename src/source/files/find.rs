//! Which files there are, in which order, and by which name they are known.
//!
//! Invariants: the order is that of the configured paths and within a folder that of the names, so it is the same on every worker and every run;
//! a topic's name holds no part of a path.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::split::Shape;
use crate::config::{OutcomeInputs, SourceSpec};
use crate::source::{PathKey, SourceError};

/// Folders may be nested this deep; deeper is a loop of links.
const FOLDERS_MAX: usize = 64;

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    /// As written, or as found below a folder as written; `-` is standard input.
    pub(super) path: PathBuf,
    /// How messages call it: the path if somebody wrote it, else the topic. What is found below a folder may be named after a patient.
    pub(super) shown: String,
    /// The topic that stands for it.
    pub(super) topic: String,
    pub(super) packing: Packing,
    pub(super) shape: Shape,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// All inputs of a flow, and how many files below the folders were passed over because of their names. Those of outcomes come last; there may be none yet,
/// and a file that is one of them is nothing else.
pub(super) fn find_all(spec: &SourceSpec, key: PathKey<'_>) -> Result<(Vec<Input>, usize), SourceError> {
    let (mut inputs, mut skipped) = find(&spec.paths, key)?;
    if let Some(OutcomeInputs::Paths(paths)) = &spec.outcomes {
        let mut of_outcomes = Vec::new();
        skipped += gather(paths, key, &mut of_outcomes)?;
        distinct(&mut of_outcomes)?;
        let place = |input: &Input| fs::canonicalize(&input.path).ok();
        let places: BTreeSet<PathBuf> = of_outcomes.iter().filter_map(place).collect();
        inputs.retain(|input| place(input).is_none_or(|place| !places.contains(&place)));
        inputs.extend(of_outcomes.into_iter().map(|input| {
            let topic = input.topic.replacen("file-", super::OUTCOMES_TOPIC, 1);
            let shown = if input.shown == input.topic { topic.clone() } else { input.shown };
            Input { topic, shown, ..input }
        }));
    }
    Ok((inputs, skipped))
}

/// All inputs below paths, and how many files were passed over.
pub(super) fn find(paths: &[PathBuf], key: PathKey<'_>) -> Result<(Vec<Input>, usize), SourceError> {
    if paths.is_empty() {
        return Err(SourceError::Configuration(
            "source.paths is empty; name files, folders, or - for standard input, for example --set 'source.paths=[\"observations.ndjson\"]'".into(),
        ));
    }
    let mut inputs = Vec::new();
    let skipped = gather(paths, key, &mut inputs)?;
    distinct(&mut inputs)?;
    if inputs.is_empty() {
        return Err(SourceError::Configuration(format!(
            "found nothing to read in {paths:?}; {skipped} files have other names than .json, .ndjson, .jsonl (.gz, .zst)"
        )));
    }
    Ok((inputs, skipped))
}

/// The same file may be named twice, by itself and by its folder; it is read once.
fn distinct(inputs: &mut Vec<Input>) -> Result<(), SourceError> {
    let mut seen = BTreeMap::new();
    inputs.retain(|input| seen.insert(input.path.clone(), input.topic.clone()).is_none());
    let mut topics: Vec<&String> = seen.values().collect();
    topics.sort_unstable();
    topics.dedup();
    if topics.len() < seen.len() {
        return Err(SourceError::Configuration(
            "two paths have the same hash under this key; read them in two runs".into(),
        ));
    }
    Ok(())
}

/// Takes what is at paths; returns how many files were passed over.
fn gather(paths: &[PathBuf], key: PathKey<'_>, inputs: &mut Vec<Input>) -> Result<usize, SourceError> {
    let mut skipped = 0;
    for path in paths {
        if path == Path::new("-") {
            let (packing, shape) = (Packing::Plain, Shape::Either);
            inputs.push(Input {
                path: path.clone(),
                shown: "-".into(),
                topic: super::STDIN_TOPIC.into(),
                packing,
                shape,
            });
            continue;
        }
        let what = fs::metadata(path).map_err(|why| unreadable(path, &why))?;
        if what.is_dir() {
            walk((path, path), 0, key, inputs, &mut skipped)?;
        } else if !what.is_file() {
            return Err(SourceError::Configuration(format!(
                "{path:?} is neither a file nor a folder; what comes through a pipe is read as standard input: source.paths=[\"-\"]"
            )));
        } else {
            let named = input(path, key).map(|input| Input { shown: format!("{path:?}"), ..input });
            inputs.push(named.ok_or_else(|| {
                SourceError::Configuration(format!(
                    "cannot tell what {path:?} holds; its name must end in .json, .ndjson or .jsonl, with .gz or .zst behind it if compressed"
                ))
            })?);
        }
    }
    Ok(skipped)
}

/// Takes what is below `folder`, which is `root` or below it; only `root` was written by somebody and is named in errors.
fn walk(
    (root, folder): (&Path, &Path),
    depth: usize,
    key: PathKey<'_>,
    inputs: &mut Vec<Input>,
    skipped: &mut usize,
) -> Result<(), SourceError> {
    if depth >= FOLDERS_MAX {
        return Err(SourceError::Configuration(format!(
            "folders are nested more than {FOLDERS_MAX} deep below {root:?}"
        )));
    }
    let listing = fs::read_dir(folder).map_err(|why| hidden(root, &why))?;
    let mut paths = Vec::new();
    for entry in listing {
        paths.push(entry.map_err(|why| hidden(root, &why))?.path());
    }
    paths.sort_unstable();
    for path in paths {
        let what = fs::metadata(&path).map_err(|why| hidden(root, &why))?;
        if what.is_dir() {
            walk((root, &path), depth + 1, key, inputs, skipped)?;
        } else if let Some(input) = input(&path, key).filter(|_| what.is_file()) {
            inputs.push(input);
        } else {
            *skipped += 1;
        }
    }
    Ok(())
}

/// What a file's name says of it; `None` for other names.
fn input(path: &Path, key: PathKey<'_>) -> Option<Input> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (name, packing) = if let Some(name) = name.strip_suffix(".gz") {
        (name, Packing::Gzip)
    } else if let Some(name) = name.strip_suffix(".zst") {
        (name, Packing::Zstd)
    } else {
        (name.as_str(), Packing::Plain)
    };
    let shape = match name.rsplit_once('.')?.1 {
        "json" => Shape::Either,
        "ndjson" | "jsonl" => Shape::Lines,
        _ => return None,
    };
    let topic = hex("file-", &key(path.to_str()?));
    Some(Input { path: path.to_owned(), shown: topic.clone(), topic, packing, shape })
}

/// A text, and bytes as hexadecimal digits behind it.
pub(super) fn hex(before: &str, bytes: &[u8]) -> String {
    let mut text = before.to_owned();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Told to whoever wrote the path, on their terminal.
fn unreadable(path: &Path, why: &std::io::Error) -> SourceError {
    SourceError::Configuration(format!("could not read {path:?}: {why}"))
}

/// Something below a folder that somebody wrote.
fn hidden(root: &Path, why: &std::io::Error) -> SourceError {
    SourceError::Configuration(format!("could not read everything below {root:?}: {why}"))
}

/// An input that is there and cannot be opened.
pub(super) fn closed(input: &Input, why: &std::io::Error) -> SourceError {
    SourceError::Configuration(format!(
        "could not read {}: {why}; explain --files tells which file that is",
        input.shown
    ))
}

#[cfg(test)]
mod tests {
    //! Proves which names are taken, in which order, and that topics give nothing away.
    use super::*;

    fn key(path: &str) -> [u8; 6] {
        let sum = path.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        sum.to_le_bytes()[..6].try_into().unwrap()
    }

    #[test]
    fn folders_are_read_recursively_in_order_and_other_files_are_counted() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("b")).unwrap();
        for name in ["c.NDJSON", "a.json", "b/x.jsonl.gz", "b/a.ndjson.zst", "b/readme.txt", "noext", "log.gz"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let (inputs, skipped) = find(&[root.path().join("c.NDJSON"), root.path().to_owned()], &key).unwrap();
        let names: Vec<_> =
            inputs.iter().map(|input| input.path.strip_prefix(root.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["c.NDJSON", "a.json", "b/a.ndjson.zst", "b/x.jsonl.gz"]);
        assert_eq!(skipped, 3);
        assert_eq!(inputs[3].packing, Packing::Gzip);
        assert!(inputs.iter().all(|input| input.topic.len() == 17 && input.topic.starts_with("file-")), "{inputs:?}");
    }

    #[test]
    fn what_cannot_be_read_is_named_as_it_was_written() {
        let root = tempfile::tempdir().unwrap();
        let error = |path: &Path| find(&[path.to_owned()], &key).unwrap_err().to_string();
        assert!(error(Path::new("no/such.ndjson")).starts_with("could not read \"no/such.ndjson\": No such file"));
        fs::write(root.path().join("a.csv"), "").unwrap();
        assert!(error(&root.path().join("a.csv")).contains(".ndjson"));
        assert!(error(root.path()).contains("1 files have other names"));
        assert!(find(&[], &key).is_err());
    }
}
