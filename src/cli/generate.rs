//! `windkessel generate`: synthetic patients to Kafka or into a file.
//!
//! The same seed and options give the same bytes, whenever and wherever they are written; only `--start now` looks at the clock.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;

use super::now;
use crate::runtime::stop::Stop;
use crate::source::SourceError;
use crate::source::generator::profile::{KINDS_MAX, Profile, Wrapping};
use crate::source::generator::{Content, Generator, Head};
use crate::source::kafka::client::{Quiet, configuration, creation_error};
use crate::source::pace::Pace;
use crate::source::produce::Producer;
use crate::time::{EventSpan, EventTime};

/// How long a broker may take to answer, seconds.
const BROKER_WAIT_SECONDS: u64 = 15;

/// The progress line is redrawn after so many messages.
const SHOW_EVERY: u64 = 1_024;

/// Writes realistic FHIR R4 patients and blood pressures, to Kafka or to NDJSON.
///
/// Athletes, elderly, hypertensives, white-coat and pregnant patients, with a rhythm of day and night, rare crises, and the faults that real
/// devices have: late delivery, outliers, missing units, corrections, duplicates (`--clean` leaves those out). Nothing in it is about a real person.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write to Kafka: bootstrap servers, host:port[,host:port]
    #[arg(long, value_name = "HOSTS", required_unless_present = "output", conflicts_with = "output")]
    pub brokers: Option<String>,
    /// Write NDJSON to this file (compressed if it ends in .gz or .zst), or to standard output for -
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Kafka: topic; it is created if it does not exist. The key is the patient's id
    #[arg(long, default_value = "bp-obs")]
    pub topic: String,
    /// Kafka: partitions of a topic that is created
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Kafka: replicas of a topic that is created
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=15))]
    pub replicas: i32,
    /// Kafka: compression
    #[arg(long, value_enum, default_value_t = Compression::Lz4)]
    pub compression: Compression,
    /// Kafka: any further librdkafka setting
    #[arg(long = "client", value_name = "KEY=VALUE", value_parser = pair)]
    pub client: Vec<(String, String)>,
    /// Kafka: a librdkafka setting whose value is in a file, such as sasl.password=/run/secrets/kafka
    #[arg(long = "client-file", value_name = "KEY=FILE", value_parser = pair)]
    pub client_files: Vec<(String, String)>,
    /// Observations a second; 0 means as fast as possible
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub rate: u64,
    /// Observations altogether, corrections and duplicates counted; 0 means until it is stopped
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub observations: u64,
    /// Patients
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub patients: u32,
    /// Seed: the same seed gives the same patients and readings
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What is around a resource
    #[arg(long, value_enum, default_value_t = Wrapping::Bare)]
    pub format: Wrapping,
    /// Leave out everything that is wrong with real data
    #[arg(long)]
    pub clean: bool,
    /// Leave out everything that is wrong with real data but late delivery
    #[arg(long, conflicts_with = "clean")]
    pub late_only: bool,
    /// Say what patients suffer from as well, in Condition resources (for `decode.conditions`); only where resources are messages of their own
    #[arg(long)]
    pub conditions: bool,
    /// How often a patient is measured, on average: a whole number and a unit
    #[arg(long, value_name = "SPAN", default_value = "15m", value_parser = interval)]
    pub every: EventSpan,
    /// In how many ways observations are written, as by gateways of several makers; the second half as often as the first, and so on
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(KINDS_MAX)))]
    pub kinds: u32,
    /// Percentage of observations that are written as hardly any other is
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub unlike: u32,
    /// When the first reading is taken: RFC 3339, or `now` (with --rate measured as it is sent; else so that the last one is taken now)
    #[arg(long, value_name = "TIME", default_value = "2026-01-05T00:00:00Z", value_parser = beginning)]
    pub start: Beginning,
}

/// When the first reading is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Then.
    At(EventTime),
    /// By the machine's clock.
    Now,
}

/// Codecs that every broker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "Kafka's own names")]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] SourceError),
    /// The file.
    #[error("could not write to {path:?}: {source}")]
    File {
        /// As written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Options(&'static str),
}

/// Writes until the last observation or the first Ctrl-C, in which case what was begun is finished and the answer is `Ok`.
///
/// # Errors
/// See [`GenerateError`].
pub fn run(args: &Args) -> Result<(), GenerateError> {
    let profile = profile(args, now)?;
    let generator = Generator::new(&profile, args.seed, args.patients, args.observations);
    let stop = Stop::default();
    stop_on_interrupt(&stop);
    let shown = progress(args.observations);
    let written = match (&args.output, &args.brokers) {
        (Some(path), _) => to_file(generator, path, args.rate, &stop, &shown)
            .map_err(|source| GenerateError::File { path: path.clone(), source })?,
        (None, Some(brokers)) => to_kafka(generator, brokers, args, &stop, &shown)?,
        (None, None) => return Err(GenerateError::Options("name --brokers or --output")),
    };
    shown.finish();
    tracing::info!(target: "generate", messages = written, stopped = stop.drain(), "written");
    Ok(())
}

/// The population that the options describe.
fn profile(args: &Args, now: impl Fn() -> EventTime) -> Result<Profile, GenerateError> {
    let base = match (args.clean, args.late_only) {
        (true, _) => Profile::clean(),
        (_, true) => Profile::late_only(),
        _ => Profile::default(),
    };
    if args.conditions && args.format != Wrapping::Bare {
        return Err(GenerateError::Options(
            "--conditions needs --format bare: an envelope has no room for a Condition",
        ));
    }
    let mut profile = Profile {
        wrapping: args.format,
        conditions: args.conditions,
        every: args.every,
        kinds: args.kinds,
        unlike: f64::from(args.unlike) / 100.0,
        ..base
    };
    match args.start {
        Beginning::At(start) => profile.start = start,
        // As many readings a second as are sent a second: event time then runs with the clock.
        Beginning::Now if args.rate > 0 => {
            profile.start = now();
            let every_us = i128::from(args.patients) * 1_000_000 / i128::from(args.rate);
            profile.every = EventSpan::from_micros(i64::try_from(every_us).unwrap_or(i64::MAX).max(1));
        }
        Beginning::Now if args.observations > 0 => {
            let span_us =
                i128::from(args.observations) * i128::from(profile.every.micros()) / i128::from(args.patients);
            profile.start = now() - EventSpan::from_micros(i64::try_from(span_us).unwrap_or(i64::MAX));
        }
        Beginning::Now => {
            return Err(GenerateError::Options(
                "--start now needs --rate or a number of --observations; without either, event time would run away from the clock",
            ));
        }
    }
    Ok(profile)
}

// ---------------------------------------------------------------- Kafka

fn to_kafka(
    mut generator: Generator,
    brokers: &str,
    args: &Args,
    stop: &Stop,
    shown: &ProgressBar,
) -> Result<u64, GenerateError> {
    let client = args.client.iter().cloned().collect();
    let files = args.client_files.iter().map(|(key, path)| (key.clone(), PathBuf::from(path))).collect();
    let mut settings = configuration(brokers, &client, &files)?;
    ensure_topic(&settings, brokers, args)?;
    let codec = args.compression.to_possible_value().map(|value| value.get_name().to_owned());
    settings.set("compression.type", codec.unwrap_or_default());
    let mut producer = Producer::new(settings, &args.topic)?;
    let pace = Pace::new(args.rate);
    let (mut payload, mut done) = (Vec::new(), Done::default());
    while producer.wait(&pace, done.observations, stop) {
        let Some(head) = generator.next_into(&mut payload) else { break };
        producer.send(None, Some(&head.key), &payload, stop)?;
        done.add(&head, shown);
    }
    done.show(shown);
    Ok(producer.finish(stop)?)
}

/// Creates the topic if it is not there.
fn ensure_topic(settings: &ClientConfig, brokers: &str, args: &Args) -> Result<(), SourceError> {
    let unreachable = |why: String| {
        SourceError::Unavailable(format!(
            "could not reach Kafka at {brokers}: {why}; check --brokers and that the broker is up"
        ))
    };
    let wait = std::time::Duration::from_secs(BROKER_WAIT_SECONDS);
    // A consumer does not create the topics that it asks about; a producer would, with the broker's number of partitions.
    let admin: AdminClient<Quiet> = settings.create_with_context(Quiet).map_err(|why| creation_error(&why))?;
    let metadata = admin.inner().fetch_metadata(None, wait).map_err(|why| unreachable(why.to_string()))?;
    if metadata.topics().iter().any(|topic| topic.name() == args.topic && !topic.partitions().is_empty()) {
        return Ok(());
    }
    let topic = NewTopic::new(&args.topic, args.partitions, TopicReplication::Fixed(args.replicas));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|why| unreachable(why.to_string()))?;
    let options = AdminOptions::new().request_timeout(Some(wait));
    let answers =
        runtime.block_on(admin.create_topics([&topic], &options)).map_err(|why| unreachable(why.to_string()))?;
    match answers.into_iter().next() {
        None | Some(Ok(_) | Err((_, rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, why))) => Err(SourceError::Unavailable(format!("could not create topic {:?}: {why}", args.topic))),
    }
}

// ---------------------------------------------------------------- files

fn to_file(mut generator: Generator, path: &Path, rate: u64, stop: &Stop, shown: &ProgressBar) -> io::Result<u64> {
    let mut out = Out::create(path)?;
    let pace = Pace::new(rate);
    let (mut payload, mut done) = (Vec::new(), Done::default());
    while pace.wait(done.observations, stop, &mut || {}) {
        let Some(head) = generator.next_into(&mut payload) else { break };
        payload.push(b'\n');
        match out.write_all(&payload) {
            Ok(()) => done.add(&head, shown),
            // `… | head` has seen enough.
            Err(why) if why.kind() == ErrorKind::BrokenPipe => return Ok(done.messages),
            Err(why) => return Err(why),
        }
    }
    done.show(shown);
    out.finish()?;
    Ok(done.messages)
}

/// A file being written.
enum Out {
    Plain(Box<dyn Write>),
    Gzip(flate2::write::GzEncoder<Box<dyn Write>>),
    Zstd(zstd::Encoder<'static, Box<dyn Write>>),
}

impl Out {
    fn create(path: &Path) -> io::Result<Self> {
        const BUFFER_BYTES: usize = 256 << 10;
        if path == Path::new("-") {
            return Ok(Out::Plain(Box::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()))));
        }
        let file: Box<dyn Write> = Box::new(BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?));
        Ok(match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Out::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::fast())),
            Some("zst") => Out::Zstd(zstd::Encoder::new(file, 1)?),
            _ => Out::Plain(file),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Out::Plain(out) => out.write_all(bytes),
            Out::Gzip(out) => out.write_all(bytes),
            Out::Zstd(out) => out.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        let mut rest = match self {
            Out::Plain(out) => out,
            Out::Gzip(out) => out.finish()?,
            Out::Zstd(out) => out.finish()?,
        };
        match rest.flush() {
            Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

// ---------------------------------------------------------------- the terminal

#[derive(Default)]
struct Done {
    messages: u64,
    observations: u64,
}

impl Done {
    fn add(&mut self, head: &Head, shown: &ProgressBar) {
        self.messages += 1;
        self.observations += u64::from(head.content == Content::Observation);
        if self.messages.is_multiple_of(SHOW_EVERY) {
            self.show(shown);
        }
    }

    fn show(&self, shown: &ProgressBar) {
        shown.set_position(self.observations);
    }
}

/// A line on standard error, hidden if that is no terminal.
fn progress(observations: u64) -> ProgressBar {
    if observations == 0 {
        return ProgressBar::new_spinner().with_style(style("{human_pos} observations, {per_sec}, {elapsed}"));
    }
    ProgressBar::new(observations)
        .with_style(style("{wide_bar} {human_pos}/{human_len} observations, {per_sec}, {eta} left"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are valid")
}

/// Asks for a stop at the first Ctrl-C, and to give up at the second. Without signals it just goes on to the end.
fn stop_on_interrupt(stop: &Stop) {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                stop.ask();
            }
        });
    });
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn interval(text: &str) -> Result<EventSpan, String> {
    let span: EventSpan = text.parse()?;
    if span == EventSpan::ZERO || span == EventSpan::UNBOUNDED {
        return Err("write a length of time that is neither nothing nor unbounded".into());
    }
    Ok(span)
}

fn beginning(text: &str) -> Result<Beginning, String> {
    if text == "now" {
        return Ok(Beginning::Now);
    }
    let at: jiff::Timestamp = text.parse().map_err(|_| "write a time such as 2026-01-05T00:00:00Z, or now")?;
    Ok(Beginning::At(EventTime::from_micros(at.as_microsecond())))
}

#[cfg(test)]
mod tests {
    //! Proves that what is written to a file is what the generator made, compressed or not, and how `--start` is understood.
    use std::io::Read;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(std::iter::once("generate").chain(line.split_whitespace())).map(|line| line.args)
    }

    #[test]
    fn a_file_holds_one_message_a_line_whatever_its_compression() {
        let folder = tempfile::tempdir().unwrap();
        let mut texts = Vec::new();
        for name in ["a.ndjson", "b.ndjson.gz", "c.ndjson.zst"] {
            let path = folder.path().join(name);
            run(&args(&format!("--observations 500 --patients 20 --seed 4 -o {}", path.display())).unwrap()).unwrap();
            let file = File::open(&path).unwrap();
            let mut text = String::new();
            let _ = match path.extension().unwrap().to_str().unwrap() {
                "gz" => flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap(),
                "zst" => zstd::Decoder::new(file).unwrap().read_to_string(&mut text).unwrap(),
                _ => { file }.read_to_string(&mut text).unwrap(),
            };
            texts.push(text);
        }
        assert_eq!(texts[0].lines().count(), 520);
        assert!(texts[0].ends_with("}\n") && texts[1] == texts[0] && texts[2] == texts[0]);
        let expected = Generator::new(&Profile::default(), 4, 20, 500).next().unwrap().payload;
        assert_eq!(texts[0].lines().next().unwrap().as_bytes(), expected);
    }

    #[test]
    fn now_means_as_it_is_sent_or_ending_now() {
        let clock = || EventTime::from_micros(1_000_000_000_000);
        let of = |line: &str| profile(&args(&format!("-o - {line}")).unwrap(), clock);
        let sent = of("--start now --rate 50 --patients 100").unwrap();
        assert_eq!((sent.start, sent.every), (clock(), EventSpan::from_seconds(2)));
        let ending = of("--start now --observations 1000 --patients 100").unwrap();
        assert_eq!(ending.start, clock() - EventSpan::from_seconds(9_000));
        assert!(of("--start now --observations 0").is_err());
        assert_eq!(of("").unwrap(), Profile::default());
        assert_eq!(of("--clean --format bundle").unwrap().wrapping, Wrapping::Bundle);
    }

    #[test]
    fn dirt_interval_and_shapes_are_those_of_the_options() {
        let of = |line: &str| profile(&args(&format!("-o - {line}")).unwrap(), now).unwrap();
        assert_eq!(of("--clean"), Profile::clean());
        assert_eq!(of("--conditions"), Profile { conditions: true, ..Profile::default() });
        let enveloped = args("-o - --conditions --format envelope").unwrap();
        assert!(profile(&enveloped, now).unwrap_err().to_string().contains("--format bare"));
        assert_eq!(of("--late-only"), Profile { late_seconds: 0.01, late_minutes: 0.002, ..Profile::clean() });
        let (every, kinds, unlike) = (EventSpan::from_seconds(60), 16, 0.05);
        assert_eq!(of("--every 1m --kinds 16 --unlike 5"), Profile { every, kinds, unlike, ..Profile::default() });
        for wrong in ["--clean --late-only", "--every 0s", "--every unbounded", "--kinds 65", "--unlike 101"] {
            assert!(args(&format!("-o - {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_destination_must_be_named_and_only_one() {
        assert!(args("").is_err() && args("--brokers a:1 -o x").is_err());
        assert!(args("--brokers a:1 --start yesterday").is_err());
        assert!(args("--brokers a:1 --client x").is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = run(&args("-o no/such/folder/x.ndjson").unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("could not write to \"no/such/folder/x.ndjson\": "), "{error}");
    }
}
