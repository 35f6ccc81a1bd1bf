//! The `decode` stage: bytes become identified observations, or a rule says why not.
//!
//! ```text
//! Records ── document ──┬─ observation ── judge ──┬─> Observations  (readings, patients, deletions)
//!   bytes    envelope   ├─ patient, condition     ├─> Rejections    (a rule and a position, never a value)
//!                       │                         ├─> Flaws         (of inputs that end here, counted by pane)
//!            Bundle     └─ bundle                 ├─> Tally          (ignored, rejected)
//!                                                 └─> Ticks          (how far each partition has come)
//! ```
//!
//! An Observation that is like earlier ones is read by `templates` in place of `observation`, to the same result. Records of `audit.outcomes` are read
//! by `outcome` and by nothing else; their partitions have no event time, so that they neither hold windows open nor close them.
//!
//! **Invariants**
//!
//! 1. Every input ends exactly once: as an entry of [`Observations`] that `patient` will count, or as one `ignored` or `rejected` here.
//! 2. The output is a pure function of the records of each partition, in order: no clock, no randomness, no matter how they are batched.
//! 3. No input makes it panic, recurse without bound, or hold more than the batch it was given.
//! 4. A bare Observation allocates nothing once the buffers have grown to the size of the batches.
//!
//! It does not convert values a second time, pair separate systolic and diastolic Observations, resolve versions, or look at rules of
//! alarm: those are `patient`'s and `score`'s. It does not read narrative, and never guesses a signal from text.

mod bundle;
mod condition;
mod datetime;
mod document;
mod draft;
mod flaws;
mod grammar;
mod json;
mod judge;
mod leniency;
mod observation;
mod outcome;
mod patient;
mod progress;
mod quantity;
mod reference;
pub mod rule;
mod saved;
mod templates;
#[cfg(test)]
mod tests;
mod verdict;

pub use leniency::{Leniency, LeniencyCounts};

use crate::comorbidities::ComorbidityTable;
use crate::config::{Choice, DecodeSpec, MissingTime, MissingUnit, OutcomeInputs, OutcomesSpec};
use crate::graph::Plan;
use crate::identified::{
    Arena, ConditionUpdate, Deletion, Entry, Id, LabelUpdate, Mark, Observation, Observations, PatientUpdate, Payload,
    Record, Records, Slice,
};
use crate::runtime::checkpoint::Desk;
use crate::runtime::driver::{self, Stream};
use crate::runtime::metrics::Metrics;
use crate::signals::{CodeIndex, SignalId, SignalTable};
use crate::source::{self, Topics};
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::flaws::{Flawed, Flaws};
use crate::vocabulary::{
    Comorbidities, Facts, Outcome, Partition, Position, Rejection, Tally, Tick, Timeliness, Version,
};
use document::Document;
use progress::Progress;
use reference::{IdSource, Scratch};
use templates::Templates;
use verdict::{Broken, Diagnosed, Found, Item, Stop};

/// What leaves the stage.
pub struct Streams<'s> {
    /// What goes on, identified.
    pub observations: Stream<'s, Observations>,
    /// What broke a rule.
    pub rejections: Stream<'s, Vec<Rejection>>,
    /// Flaws of what ends here.
    pub flawed: Stream<'s, Vec<Flawed>>,
    /// How far partitions have come.
    pub ticks: Stream<'s, Tick>,
}

/// Records in; everything that they came to out.
pub fn render<'s>(records: Stream<'s, Records>, plan: &Plan, desk: &Desk) -> Streams<'s> {
    let metrics = plan.metrics.clone();
    let decoder = Decoder::new(plan.flow.decode.clone()).with_topics(plan.topics.clone());
    let seat = desk.seat("decode", decoder);
    let (topics, mut idle) = (plan.topics.clone(), 0);
    let (observations, ended, ticks) = driver::fork(records, "decode", seat, move |decoder, _epoch, records, out| {
        let mut decoded = Decoded::default();
        decoder.decode(records, &mut decoded);
        tell(&metrics, &mut decoded);
        show(&metrics, &topics, &decoded.ticks);
        // A sum over the workers.
        let idle_now = decoder.progress.idle();
        metrics.source_idle.add(idle_now - std::mem::replace(&mut idle, idle_now));
        if !decoded.observations.entries.is_empty() {
            out.first.push(decoded.observations);
        }
        if !decoded.rejections.is_empty() || !decoded.flawed.is_empty() {
            out.second.push((decoded.rejections, decoded.flawed));
        }
        out.third.extend(decoded.ticks);
    });
    let (rejections, flawed) = driver::split(ended, "decode::split", |(of_batch, flaws), rejections, flawed| {
        rejections.extend(Some(of_batch).filter(|of_batch: &Vec<Rejection>| !of_batch.is_empty()));
        flawed.extend(Some(flaws).filter(|flaws: &Vec<Flawed>| !flaws.is_empty()));
    });
    Streams { observations, rejections, flawed, ticks }
}

/// Adds a batch's counts to the metrics.
fn tell(metrics: &Metrics, decoded: &mut Decoded) {
    metrics.decode_resources.inc_by(decoded.resources);
    metrics.add(&mut decoded.tally);
    for (leniency, count) in decoded.leniencies.drain() {
        metrics.leniencies.with_label_values(&[leniency]).inc_by(count);
    }
    for (disposition, count) in [("reopened", decoded.late.reopened), ("late", decoded.late.late)] {
        metrics.late_readings.with_label_values(&[disposition]).inc_by(count);
    }
}

/// Shows how far partitions have come; before the first reading and after the end there is nothing to show.
fn show(metrics: &Metrics, topics: &Topics, ticks: &[Tick]) {
    for tick in ticks.iter().filter(|tick| tick.watermark > EventTime::MIN && tick.watermark < EventTime::MAX) {
        let labels = [topics.name(tick.partition.topic), &tick.partition.number.to_string()];
        metrics.source_watermark.with_label_values(&labels).set(tick.watermark.micros() as f64 / 1e6);
    }
}

/// What the stage is set to: the checked form of `[decode]`, with what it needs of `[patient]`.
#[derive(Clone, Debug)]
pub struct Settings {
    table: SignalTable,
    signals: Vec<SignalId>,
    index: CodeIndex,
    /// `None` for `auto`; else the pointer's tokens.
    unwrap: Option<Pointer>,
    unit_missing: MissingUnit,
    panel_generic: Choice,
    status_uncertain: Choice,
    effective_missing: MissingTime,
    effective_partial: Choice,
    subject_identifier: Choice,
    position_specific: Choice,
    repeats_allowed: bool,
    clock_ahead: EventSpan,
    disorder: EventSpan,
    lateness: EventSpan,
    numbering: Numbering,
    outcomes: Option<Outcomes>,
    /// What conditions count as, if the flow takes them.
    comorbidities: Option<ComorbidityTable>,
    /// The length of a pane in which flaws are counted, if they are.
    pane: Option<EventSpan>,
}

/// What the decoder must know of `[audit.outcomes]`.
#[derive(Clone, Debug)]
struct Outcomes {
    /// The outcome that is taken.
    name: String,
    inputs: OutcomeInputs,
}

/// A JSON pointer's tokens, unescaped.
type Pointer = Box<[Box<[u8]>]>;

/// How resources get their position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    /// The record's offset, and the resource's ordinal in the record (Kafka).
    ByRecord,
    /// The resource's ordinal in the partition; entry 0 (files).
    ByResource,
}

impl Settings {
    /// Checks `[decode]`. `disorder` and `lateness` are `[patient]`'s; `files` says that positions count resources rather than records.
    /// Reads `decode.signals_file` and `decode.comorbidities_file`, if they are given.
    pub fn new(decode: &DecodeSpec, disorder: EventSpan, lateness: EventSpan, files: bool) -> Result<Settings, String> {
        let table = SignalTable::load(decode.signals_file.as_deref())?;
        let signals = signals(&table, &decode.signals)?;
        Ok(Settings {
            index: CodeIndex::new(&table, &signals),
            signals,
            table,
            unwrap: pointer(&decode.unwrap)?,
            unit_missing: decode.unit_missing,
            panel_generic: decode.panel_generic,
            status_uncertain: decode.status_uncertain,
            effective_missing: decode.effective_missing,
            effective_partial: decode.effective_partial,
            subject_identifier: decode.subject_identifier,
            position_specific: decode.position_specific,
            repeats_allowed: decode.duplicate_keys == Choice::Accept,
            clock_ahead: decode.clock_ahead,
            disorder,
            lateness,
            numbering: if files { Numbering::ByResource } else { Numbering::ByRecord },
            outcomes: None,
            comorbidities: comorbidities(decode)?,
            pane: None,
        })
    }

    /// Whether conditions are taken.
    pub fn takes_conditions(&self) -> bool {
        self.comorbidities.is_some()
    }

    /// The table of comorbidities in force, if conditions are taken.
    pub fn comorbidities(&self) -> Option<&ComorbidityTable> {
        self.comorbidities.as_ref()
    }

    /// The same, with the outcomes that the flow takes, if it takes any. The section must have been checked.
    pub fn with_outcomes(self, spec: &OutcomesSpec) -> Settings {
        let outcomes = spec.inputs().map(|inputs| Outcomes { name: spec.outcome.clone(), inputs });
        Settings { outcomes, ..self }
    }

    /// The same, with flaws counted in panes of this (positive) length.
    pub fn with_flaws(self, pane: EventSpan) -> Settings {
        Settings { pane: Some(pane), ..self }
    }

    /// The table of signals that the flow's names and columns come from.
    pub fn table(&self) -> &SignalTable {
        &self.table
    }

    /// The flow's signals, in the order of their columns.
    pub fn signals(&self) -> &[SignalId] {
        &self.signals
    }
}

/// The table in force, if the flow takes conditions.
fn comorbidities(decode: &DecodeSpec) -> Result<Option<ComorbidityTable>, String> {
    match (&decode.comorbidities_file, decode.conditions) {
        (Some(path), false) => Err(format!(
            "decode.comorbidities_file is {path:?}, but decode.conditions is false, and so no Condition is looked at; set it to true, or leave the file out"
        )),
        (file, true) => ComorbidityTable::load(file.as_deref()).map(Some),
        (None, false) => Ok(None),
    }
}

fn signals(table: &SignalTable, names: &[String]) -> Result<Vec<SignalId>, String> {
    let known = || table.iter().map(|(_, signal)| signal.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut ids = Vec::new();
    for name in names {
        let id = table.id(name).ok_or_else(|| {
            format!("decode.signals names {name:?}, which is not in the table of signals; known are {}", known())
        })?;
        if ids.contains(&id) {
            return Err(format!("decode.signals names {name:?} twice"));
        }
        ids.push(id);
    }
    if ids.is_empty() {
        return Err(format!("decode.signals is empty; name at least one of {}", known()));
    }
    Ok(ids)
}

/// Splits a JSON pointer (RFC 6901) into its tokens; `auto` is none.
fn pointer(text: &str) -> Result<Option<Pointer>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let wrong = || format!("decode.unwrap must be \"auto\" or a JSON pointer such as \"/payload/after\", got {text:?}");
    let tokens = match text.strip_prefix('/') {
        Some(path) => path.split('/').collect(),
        None if text.is_empty() => Vec::new(),
        None => return Err(wrong()),
    };
    let mut unescaped = Vec::new();
    for token in tokens {
        let mut escapes = token.match_indices('~').map(|(at, _)| token.as_bytes().get(at + 1));
        if !escapes.all(|next| matches!(next, Some(b'0' | b'1'))) {
            return Err(wrong());
        }
        // In this order: "~01" is "~1", not "/".
        unescaped.push(token.replace("~1", "/").replace("~0", "~").into_bytes().into());
    }
    Ok(Some(unescaped.into()))
}

/// Everything that a batch of records came to.
#[derive(Debug, Default)]
pub struct Decoded {
    /// What goes on, identified.
    pub observations: Observations,
    /// What broke a rule, in record order.
    pub rejections: Vec<Rejection>,
    /// Flaws of inputs that end here, if they are counted.
    pub flawed: Vec<Flawed>,
    /// Partitions whose watermark or standing changed, ascending.
    pub ticks: Vec<Tick>,
    /// Inputs: resources, and records that could not be taken for one. Where each of them ends is counted elsewhere, and must add up to this.
    pub resources: u64,
    /// Inputs that end here: `ignored` and `rejected`, by reason. All others are counted by `patient`.
    pub tally: Tally,
    /// Deviations that were overlooked.
    pub leniencies: LeniencyCounts,
    /// Readings behind their partition's watermark.
    pub late: LateCounts,
}

/// Readings behind the watermark, withdrawals not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LateCounts {
    /// Within `patient.lateness`: they reopen their windows.
    pub reopened: u64,
    /// Further behind.
    pub late: u64,
}

const TOO_LARGE: Broken = Broken::new(rule::RECORD_TOO_LARGE, "source.record_bytes_max");
const UNREADABLE: Broken = Broken::new(rule::UNREADABLE, "the source could not read on");

fn reject(Broken { rule, detail, index, .. }: Broken, position: Position, out: &mut Decoded) {
    out.tally.add(Outcome::Rejected, rule);
    out.rejections.push(Rejection { rule, detail, index, position });
}

/// The stage. One a worker; it keeps how far each partition has come, and buffers.
pub struct Decoder {
    settings: Settings,
    progress: Progress,
    topics: Topics,
    /// Whether a topic, by its number, has outcomes; none of those behind the end.
    of_outcomes: Vec<bool>,
    scratch: Scratch,
    items: Vec<Item>,
    templates: Templates,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        let progress = Progress::new(settings.disorder, settings.lateness);
        Decoder {
            settings,
            progress,
            topics: Topics::default(),
            of_outcomes: Vec::new(),
            scratch: Scratch::default(),
            items: Vec::new(),
            templates: Templates::new(),
        }
    }

    /// The same, of these topics. Their names say where the state of a partition belongs: a decoder that is saved or loaded must know them.
    pub fn with_topics(self, topics: Topics) -> Self {
        let outcomes = self.settings.outcomes.as_ref();
        let of_outcomes = outcomes.map_or_else(Vec::new, |outcomes| {
            topics.names().map(|name| source::has_outcomes(&outcomes.inputs, name)).collect()
        });
        Decoder { topics, of_outcomes, ..self }
    }

    /// Decodes a batch.
    ///
    /// Entries, rejections, ticks and counts are added to `out`, whose `observations` must be empty: its arena becomes the batch's.
    pub fn decode(&mut self, records: Records, out: &mut Decoded) {
        assert!(out.observations.entries.is_empty(), "entries of two batches cannot share an arena");
        let Records { arena, records, marks } = records;
        out.observations.arena = arena;
        out.observations.entries.reserve(records.len());
        for record in &records {
            self.record(record, out);
        }
        for mark in marks {
            let (Mark::Opened(partition) | Mark::Idle(partition) | Mark::Ended(partition)) = mark;
            if !self.has_outcomes(partition) {
                self.progress.mark(mark);
            }
        }
        self.progress.ticks(&mut out.ticks);
    }

    fn has_outcomes(&self, partition: Partition) -> bool {
        self.of_outcomes.get(partition.topic.0 as usize).copied().unwrap_or(false)
    }

    fn record(&mut self, record: &Record, out: &mut Decoded) {
        if self.has_outcomes(record.position.partition) {
            return self.outcome(record, out);
        }
        self.progress.wake(record.position.partition);
        self.items.clear();
        self.scratch.ids.clear();
        let place = match record.payload {
            Payload::Bytes(slice) => self.read(record, slice, &mut out.observations.arena),
            Payload::Tombstone => self.unread(Item::Tombstone, out),
            Payload::TooLarge => self.unread(Item::Rejected(TOO_LARGE), out),
            Payload::Unreadable => self.unread(Item::Rejected(UNREADABLE), out),
        };
        let mut items = std::mem::take(&mut self.items);
        let mut entry = 0;
        for item in items.drain(..) {
            self.settle(item, record, place, &mut entry, out);
        }
        self.items = items;
    }

    /// A record without bytes: one item, no ids.
    fn unread(&mut self, item: Item, out: &mut Decoded) -> Slice {
        self.items.push(item);
        out.observations.arena.push(&[])
    }

    /// Reads a payload into `items`. Returns the slice of the arena that the ids in them are ranges of.
    fn read(&mut self, record: &Record, slice: Slice, arena: &mut Arena) -> Slice {
        let received_at = record.received_at;
        let Decoder { settings, scratch, items, templates, .. } = self;
        let mut document = Document { settings, received_at, scratch, items, templates };
        if document.read(arena.bytes(slice), false) == document::Outcome::Done {
            return slice;
        }
        let inner = arena.push(&document.scratch.inner);
        document.read(arena.bytes(inner), true);
        inner
    }

    /// Gives an item its position, judges its time, and hands it on.
    fn settle(&mut self, item: Item, record: &Record, place: Slice, entry: &mut u32, out: &mut Decoded) {
        let counted = !matches!(item, Item::Patient { counted: false, .. });
        out.resources += u64::from(counted);
        let position = self.position(record, counted, entry);
        match item {
            Item::Observation(found) => self.observation(found, record, place, position, out),
            Item::Patient { patient, demographics, counted } => {
                if let Some(patient) = patient {
                    let patient = self.id(patient, place, &mut out.observations.arena);
                    let update = PatientUpdate { patient, position, demographics };
                    out.observations.entries.push(Entry::Patient(update));
                }
                if counted {
                    out.tally.add(Outcome::Ignored, rule::PATIENT);
                }
            }
            Item::Condition(diagnosed) => self.condition(diagnosed, record, place, position, out),
            Item::Deletion { patient, id, version } => {
                let arena = &mut out.observations.arena;
                let patient = patient.map(|patient| self.id(patient, place, arena));
                let id = self.id(id, place, arena);
                let watermark = self.progress.watermark(position.partition);
                let received_at = record.received_at;
                let deletion = Deletion { patient, id, position, received_at, version, watermark };
                out.observations.entries.push(Entry::Deletion(deletion));
            }
            Item::Tombstone => self.tombstone(record, position, out),
            Item::Ignored(reason) => out.tally.add(Outcome::Ignored, reason),
            Item::Absent { reason, measured } => {
                out.tally.add(Outcome::Ignored, reason);
                self.count(flaws::ABSENT, measured, record, out);
            }
            Item::Rejected(broken) => {
                self.count(flaws::of_rule(broken.rule), broken.measured, record, out);
                reject(broken, position, out);
            }
        }
    }

    /// Counts the flaws of an input that ends here.
    fn count(&mut self, flaws: Flaws, measured: Option<EventTime>, record: &Record, out: &mut Decoded) {
        let Some(pane) = self.settings.pane else { return };
        let partition = record.position.partition;
        let when = flaws::When { measured, latest: self.progress.latest(partition), received: record.received_at };
        flaws::count(&mut out.flawed, partition.topic, flaws, when, pane);
    }

    /// A record of `audit.outcomes`: one input, at the record's own position.
    fn outcome(&mut self, record: &Record, out: &mut Decoded) {
        out.resources += 1;
        self.scratch.ids.clear();
        let Record { position, received_at, key, .. } = *record;
        let slice = match record.payload {
            Payload::Bytes(slice) => slice,
            Payload::Tombstone => return self.outcome_deleted(key, position, out),
            Payload::TooLarge => return reject(TOO_LARGE, position, out),
            Payload::Unreadable => return reject(UNREADABLE, position, out),
        };
        let bytes = out.observations.arena.bytes(slice);
        let reported = match outcome::read(bytes, &self.settings, received_at, &mut self.scratch) {
            Ok(reported) => reported,
            Err(Stop::Ignored(reason)) => return out.tally.add(Outcome::Ignored, reason),
            Err(Stop::Rejected(broken)) => return reject(broken, position, out),
        };
        out.leniencies.add(reported.leniencies);
        let arena = &mut out.observations.arena;
        let patient = Some(self.id(reported.patient, slice, arena));
        let deletable = reported.id.zip(key).is_some_and(|(id, key)| self.is_key(id, slice, key, arena));
        let id = reported.id.map(|id| self.id(id, slice, arena));
        let outcome::Reported { happened, at, version, .. } = reported;
        let label = LabelUpdate { patient, id, position, happened, at, version, deletable };
        out.observations.entries.push(Entry::Label(label));
    }

    /// A null payload: the key is the id of what was deleted.
    fn outcome_deleted(&mut self, key: Option<Slice>, position: Position, out: &mut Decoded) {
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            return out.tally.add(Outcome::Ignored, rule::TOMBSTONE);
        };
        out.observations.entries.push(Entry::Label(LabelUpdate {
            patient: None,
            id: Some(Id::new(key)),
            position,
            happened: None,
            at: EventTime::MIN,
            version: Version::Unversioned,
            deletable: false,
        }));
    }

    /// The next position. What is not counted shares the position of what it comes with.
    fn position(&mut self, record: &Record, counted: bool, entry: &mut u32) -> Position {
        let Position { partition, offset, .. } = record.position;
        let step = u32::from(counted);
        match self.settings.numbering {
            Numbering::ByRecord => {
                let position = Position { partition, offset, entry: *entry };
                *entry += step;
                position
            }
            Numbering::ByResource => {
                let ordinal = self.progress.ordinal(partition);
                let position = Position { partition, offset: *ordinal, entry: 0 };
                *ordinal += i64::from(step);
                position
            }
        }
    }

    fn observation(&mut self, found: Found, record: &Record, place: Slice, position: Position, out: &mut Decoded) {
        let partition = position.partition;
        let at = found.at.unwrap_or_else(|| self.progress.watermark(partition));
        let timeliness = self.progress.timeliness(partition, at);
        if !found.status.withdraws() {
            self.progress.advance(partition, at);
            match timeliness {
                Timeliness::OnTime => {}
                Timeliness::Late => out.late.reopened += 1,
                Timeliness::TooLate => out.late.late += 1,
            }
        }
        out.leniencies.add(found.leniencies);
        let arena = &mut out.observations.arena;
        let patient = self.id(found.patient, place, arena);
        let id = found.id.map(|id| self.id(id, place, arena));
        // The search is cheap, and mostly says no; a tombstone's key is read by the same function.
        let names = |key: &[u8]| {
            memchr::memmem::find(key, b"Observation/").is_some() && bundle::key_of(b"Observation", key).is_some()
        };
        let deletable = record.key.is_some_and(|key| names(arena.bytes(key)));
        let facts = Facts {
            position,
            received_at: record.received_at,
            at,
            precision: found.precision,
            timeliness,
            version: found.version,
            status: found.status,
            signals: found.signals,
            taken: found.taken,
            not_recomputed: false,
            summary: found.summary,
            leniencies: found.leniencies,
        };
        out.observations.entries.push(Entry::Observation(Observation { patient, id, facts, deletable }));
    }

    /// A Condition: it makes no row, so this is where it is counted.
    fn condition(
        &mut self,
        diagnosed: Diagnosed,
        record: &Record,
        place: Slice,
        position: Position,
        out: &mut Decoded,
    ) {
        let Diagnosed { patient, id, comorbidities, withdraws, version, leniencies } = diagnosed;
        out.leniencies.add(leniencies);
        out.tally.add(Outcome::Ignored, rule::CONDITION);
        let arena = &mut out.observations.arena;
        let patient = patient.map(|patient| self.id(patient, place, arena));
        let id = id.map(|id| self.id(id, place, arena));
        let deletable = record.key.is_some_and(|key| bundle::key_of(b"Condition", arena.bytes(key)).is_some());
        let update = ConditionUpdate { patient, id, position, comorbidities, withdraws, version, deletable };
        out.observations.entries.push(Entry::Condition(update));
    }

    /// A null payload: the key may name the Observation or Condition that was deleted.
    fn tombstone(&mut self, record: &Record, position: Position, out: &mut Decoded) {
        let arena = &out.observations.arena;
        let named = |kind: &[u8]| {
            let key = record.key?;
            let (start, end) = bundle::key_of(kind, arena.bytes(key))?;
            let version = reference::version(arena.bytes(key)).map(Version::Number).unwrap_or_default();
            Some((Id::new(key.part(start..end)), version))
        };
        if let Some((id, version)) = named(b"Observation") {
            let received_at = record.received_at;
            let watermark = self.progress.watermark(position.partition);
            let deletion = Deletion { patient: None, id, position, received_at, version, watermark };
            out.observations.entries.push(Entry::Deletion(deletion));
            return;
        }
        let Some((id, version)) = named(b"Condition").filter(|_| self.settings.comorbidities.is_some()) else {
            out.tally.add(Outcome::Ignored, rule::TOMBSTONE);
            return;
        };
        out.tally.add(Outcome::Ignored, rule::CONDITION);
        out.observations.entries.push(Entry::Condition(ConditionUpdate {
            patient: None,
            id: Some(id),
            position,
            comorbidities: Comorbidities::NONE,
            withdraws: true,
            version,
            deletable: false,
        }));
    }

    /// Whether a record's key is the id of what it holds.
    fn is_key(&self, id: IdSource, place: Slice, key: Slice, arena: &Arena) -> bool {
        let id = match id {
            IdSource::Record { start, len } => arena.bytes(place.part(start..start + len)),
            IdSource::Scratch { start, len } => &self.scratch.ids[start..start + len],
        };
        id == arena.bytes(key)
    }

    /// An id as a slice of the arena.
    fn id(&self, source: IdSource, place: Slice, arena: &mut Arena) -> Id {
        Id::new(match source {
            IdSource::Record { start, len } => place.part(start..start + len),
            IdSource::Scratch { start, len } => arena.push(&self.scratch.ids[start..start + len]),
        })
    }
}
