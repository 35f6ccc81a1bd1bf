//! `windkessel train`: a model from labelled rows or synthetic patients.
//!
//! The edge around [`score::train`](crate::score::train): reads rows, writes the model's file, prints its card. Synthetic readings come
//! from the caller, for they pass through the same stages as any other reading and this file knows none of them.
//!
//! The file appears whole or not at all: it is written beside its place and renamed.
#![expect(clippy::print_stdout, reason = "the card is what the verb answers")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use comfy_table::Table;

use super::synthetic::{self, Cohort};
use crate::score::labelled::{self, CsvRows, LabelledReading, RowError};
use crate::score::logistic::{Card, Counts, Logistic};
use crate::score::train::{Origin, TrainError, TrainSettings, train};

/// The longest line of an input file, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Train a model and write it to a file that `model.file` of a flow can name.
///
/// Without --input it trains on synthetic patients: such a model shows that everything works and has no clinical use.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What kind of model.
    #[arg(long, value_enum, default_value_t = Kind::Logistic)]
    pub kind: Kind,
    /// Where the model is written.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Labelled rows, .ndjson (or .jsonl) or .csv, with columns `patient`, `label` and any of the features; `patient` should be a pseudonym.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["patients", "observations"])]
    pub input: Option<PathBuf>,
    /// Number of synthetic patients.
    #[arg(long, default_value_t = 1_000)]
    pub patients: u32,
    /// Number of synthetic observations.
    #[arg(long, default_value_t = 200_000)]
    pub observations: u64,
    /// Chooses the synthetic patients and, in every case, who is held out.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Overwrite the output if it is there.
    #[arg(long)]
    pub force: bool,
}

/// A kind of model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Logistic regression with a ridge.
    Logistic,
}

/// `train` could not do what it was asked. Never holds a value of a row.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The output is there already.
    #[error("could not write {0:?}: it is there already; --force overwrites it")]
    OutputExists(PathBuf),
    /// The input has another ending.
    #[error("could not read {0:?}: its name must end in .ndjson, .jsonl or .csv, which says how it is written")]
    InputKind(PathBuf),
    /// The input has a row that cannot be understood.
    #[error("could not read {path:?}: line {line}: {error}")]
    Row {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong.
        error: RowError,
    },
    /// The input has a line that cannot be a row.
    #[error("could not read {path:?}: line {line} {problem}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The rows do not make a model.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The file system failed.
    #[error("could not {action} {path:?}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Trains, writes the model and prints its card.
pub fn run(args: &Args) -> Result<(), Failure> {
    // Asked before the work as well as after it: training takes a while.
    refuse_to_overwrite(args)?;
    let Kind::Logistic = args.kind;
    let cohort = Cohort { seed: args.seed, patients: args.patients, observations: args.observations };
    let (model, card) = match &args.input {
        Some(path) => {
            let rows = read_rows(path)?;
            train(rows.into_iter(), &TrainSettings::new(Origin::Labelled, args.seed))?
        }
        None => train(synthetic::labelled(&cohort), &TrainSettings::new(Origin::Synthetic, args.seed))?,
    };
    refuse_to_overwrite(args)?;
    write(&args.output, model.bytes())?;
    println!("{}", card_table(&model, &card));
    println!("wrote {}; name it as model.file in a flow", args.output.display());
    Ok(())
}

/// Trains on synthetic patients and writes the model, without a word.
pub(super) fn make(path: &Path, cohort: &Cohort) -> Result<(), Failure> {
    let (model, _) = train(synthetic::labelled(cohort), &TrainSettings::new(Origin::Synthetic, cohort.seed))?;
    write(path, model.bytes())
}

fn refuse_to_overwrite(args: &Args) -> Result<(), Failure> {
    if args.force || !args.output.exists() { Ok(()) } else { Err(Failure::OutputExists(args.output.clone())) }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    super::write_whole(path, bytes).map_err(|source| Failure::Io { action: "write", path: path.to_owned(), source })
}

// ---------------------------------------------------------------- rows

/// How an input file is written.
enum Format {
    Ndjson,
    /// Its line of names, once it was read.
    Csv(Option<CsvRows>),
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "ndjson" | "jsonl" => Some(Format::Ndjson),
            "csv" => Some(Format::Csv(None)),
            _ => None,
        }
    }

    /// The row on a line; none on a CSV file's line of names.
    fn row(&mut self, line: &str) -> Result<Option<LabelledReading>, RowError> {
        match self {
            Format::Ndjson => labelled::from_json(line).map(Some),
            Format::Csv(Some(names)) => names.row(line).map(Some),
            Format::Csv(names) => {
                *names = Some(CsvRows::new(line)?);
                Ok(None)
            }
        }
    }
}

/// All rows of a file. Blank lines are passed by.
fn read_rows(path: &Path) -> Result<Vec<LabelledReading>, Failure> {
    let mut format = Format::of(path).ok_or_else(|| Failure::InputKind(path.to_owned()))?;
    let io = |source| Failure::Io { action: "read", path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut rows = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes).map_err(io)? == 0 {
            break;
        }
        let wrong = |problem| Failure::Line { path: path.to_owned(), line, problem };
        if bytes.len() as u64 > LINE_BYTES_MAX {
            return Err(wrong("is longer than 64 KiB; write one row a line"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8"))?;
        if text.trim().is_empty() {
            continue;
        }
        let row = format.row(text).map_err(|error| Failure::Row { path: path.to_owned(), line, error })?;
        rows.extend(row);
    }
    Ok(rows)
}

// ---------------------------------------------------------------- the card

/// The card as a table.
fn card_table(model: &Logistic, card: &Card) -> Table {
    let measured = |value: Option<f64>| value.map_or("not measurable".to_owned(), |value| format!("{value:.3}"));
    let counts = |counts: Counts| {
        let Counts { rows, positives, patients } = counts;
        format!("{rows} rows of {patients} patients, {positives} positive")
    };
    let mut table = Table::new();
    table.set_header(["model card", model.name()]);
    for (name, value) in [
        ("trained on", card.data.clone()),
        ("clinical use", card.clinical_use.clone()),
        ("training", counts(card.training)),
        ("held out", counts(card.held_out)),
        ("left out, a pressure missing", format!("{} rows", card.rows_without_pressure)),
        ("seed", card.seed.to_string()),
        ("ridge", card.ridge.to_string()),
        ("AUROC, held out", measured(card.auroc)),
        ("Brier score, held out", measured(card.brier)),
        ("calibration slope (1 is ideal)", measured(card.calibration_slope)),
        ("calibration intercept (0 is ideal)", measured(card.calibration_intercept)),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Command::try_parse_from([&["train"], line].concat()).unwrap().args
    }

    /// Two hundred rows of fifty patients as CSV and NDJSON.
    fn rows(separator: &str) -> String {
        (0..200)
            .map(|index| {
                let (patient, systolic) = (index % 50, 100 + index * 37 % 80);
                let label = u8::from(systolic + index * 13 % 40 > 150);
                if separator == "," {
                    format!("{patient},{label},{systolic},80\n")
                } else {
                    format!("{{\"patient\":{patient},\"label\":{label},\"systolic\":{systolic},\"diastolic\":80}}\n")
                }
            })
            .collect()
    }

    #[test]
    fn both_formats_give_the_same_model_and_nothing_is_overwritten_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("rows.csv"), format!("patient,label,systolic,diastolic\r\n\n{}", rows(","))).unwrap();
        std::fs::write(path("rows.ndjson"), rows("json")).unwrap();
        let train = |input: &str, output: &str, more: &[&str]| {
            let (input, output) = (path(input), path(output));
            let line = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
            run(&args(&[&line, more].concat()))
        };
        train("rows.csv", "a.json", &[]).unwrap();
        train("rows.ndjson", "b.json", &[]).unwrap();
        let model = std::fs::read(path("a.json")).unwrap();
        assert_eq!(model, std::fs::read(path("b.json")).unwrap());
        assert_eq!(Logistic::load(&model).unwrap().card().clinical_use, "not established");

        let refused = train("rows.csv", "a.json", &["--seed", "2"]).unwrap_err().to_string();
        assert!(refused.ends_with("it is there already; --force overwrites it"), "{refused}");
        assert_eq!(model, std::fs::read(path("a.json")).unwrap());
        train("rows.csv", "a.json", &["--seed", "2", "--force"]).unwrap();
        assert_ne!(model, std::fs::read(path("a.json")).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "nothing is left beside the files");
    }

    #[test]
    fn a_model_of_synthetic_patients_says_that_it_has_no_clinical_use() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("model.json");
        let args = args(&["-o", output.to_str().unwrap(), "--patients", "40", "--observations", "8000"]);
        run(&args).unwrap();
        let model = Logistic::load(&std::fs::read(&output).unwrap()).unwrap();
        assert_eq!(model.card().clinical_use, "none");
        let table = card_table(&model, model.card()).to_string();
        assert!(table.contains("synthetic patients") && table.contains(model.name()), "{table}");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_place_and_without_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            read_rows(&path).unwrap_err().to_string()
        };
        let error = refused("rows.csv", b"patient,label,systolic\n1,0,120\n1,0,secret\n");
        assert!(error.ends_with("line 3: column \"systolic\" is not a number"), "{error}");
        let error = refused("rows.ndjson", b"{\"patient\": 1, \"label\": 0}\n\xff\n");
        assert!(error.ends_with("line 2 is not UTF-8"), "{error}");
        let limit = LINE_BYTES_MAX as usize;
        let blank = |bytes: usize| [vec![b' '; bytes - 1], vec![b'\n']].concat();
        assert!(
            refused("long.ndjson", &blank(limit + 1)).ends_with("line 1 is longer than 64 KiB; write one row a line")
        );
        std::fs::write(folder.path().join("fits.ndjson"), blank(limit)).unwrap();
        assert_eq!(read_rows(&folder.path().join("fits.ndjson")).unwrap().len(), 0);
        assert!(refused("rows.txt", b"").contains("must end in .ndjson, .jsonl or .csv"));
        let missing = read_rows(&folder.path().join("missing.csv")).unwrap_err().to_string();
        assert!(missing.starts_with("could not read "), "{missing}");
    }

    #[test]
    fn an_input_excludes_synthetic_patients() {
        let line = ["train", "--output", "m", "--input", "r.csv", "--patients", "3"];
        assert!(Command::try_parse_from(line).is_err());
    }
}
