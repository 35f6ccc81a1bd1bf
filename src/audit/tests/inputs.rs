//! Data quality against a recount of the inputs that stand, with their flaws; and a flaw that was put in, which is found where it is.

use super::*;
use crate::audit::quality::TOPICS_MAX;
use crate::vocabulary::Position;
use crate::vocabulary::findings::{Alert, AlertState, Part, Quality, Span};
use crate::vocabulary::flaws::{Flaw, Flaws, MEASURES};

/// Patients are spread over five topics, of which two have no place of their own.
pub(super) fn position(patient: u64) -> Position {
    let topic = TopicId([0, 1, 2, 900, 901][patient as usize % 5]);
    Position { partition: Partition { topic, number: 0 }, ..Position::default() }
}

fn of(row: &Row, flaws: Flaws, count: i32) -> Flawed {
    let Facts { at, position, .. } = row.reading.facts;
    Flawed { topic: position.partition.topic, at, flaws, count }
}

/// What `patient` tells of a row that does not stand any more.
pub(super) fn taken_back(row: &Row) -> Flawed {
    of(row, Flaws::input(Flaw::Readings), -1)
}

/// Flaws of a row or of inputs beside it. They stay, even when the row is taken back: whether they should is `patient`'s to say.
pub(super) fn flaws(row: &Row) -> impl Iterator<Item = Flawed> {
    // Of the row's own random bytes: what else is in a script stays the same.
    let mut rng = ChaCha8Rng::seed_from_u64(row.reading.observation.hash64());
    let flaws = match rng.random_range(0..12) {
        0 => Some(Flaws::input(Flaw::UnitAssumed).with(Flaw::Late, true).alone()),
        1 => Some(Flaws::input(Flaw::Duplicate)),
        2 => Some(Flaws::input(Flaw::Rejected).with(Flaw::UnitMissing, true)),
        _ => None,
    };
    let flaws = flaws.filter(|_| row.reading.facts.is_input());
    let count = if rng.random_bool(0.2) { 3 } else { 1 };
    flaws.map(|flaws| of(row, flaws, count)).into_iter()
}

/// Topic, or none of its own; measure; start of the window.
type Key = (Option<TopicId>, &'static str, EventTime);

/// Inputs by topic, measure and time.
#[derive(Default)]
struct Recount(BTreeMap<(Option<TopicId>, &'static str), BTreeMap<EventTime, i64>>);

impl Recount {
    fn of(script: &[EpochOfScript]) -> Self {
        let mut recount = Recount::default();
        for of_epoch in script {
            for Row { reading, .. } in &of_epoch.rows {
                let withdraws = matches!(reading.facts.status, Status::EnteredInError | Status::Cancelled);
                if !withdraws {
                    recount.add(reading.facts.position.partition.topic, "readings", reading.facts.at, 1);
                }
            }
            for (_, Flawed { topic, at, flaws, count }) in &of_epoch.flawed {
                flaws.numbers().for_each(|number| recount.add(*topic, MEASURES[number], *at, i64::from(*count)));
            }
        }
        recount
    }

    fn add(&mut self, topic: TopicId, measure: &'static str, at: EventTime, count: i64) {
        let topic = Some(topic).filter(|topic| (topic.0 as usize) < TOPICS_MAX);
        *self.0.entry((topic, measure)).or_default().entry(at).or_default() += count;
    }

    fn sum(&self, topic: Option<TopicId>, measure: &'static str, (start, end): Span) -> u64 {
        let counted = self.0.get(&(topic, measure)).map(|counted| counted.range(start..end));
        counted.into_iter().flatten().map(|(_, count)| count).sum::<i64>() as u64
    }

    /// Reference and current counts of a window; nothing of one without inputs.
    fn row(&self, (topic, measure, start): Key) -> [(u64, u64); 2] {
        let window = spec().window;
        let back = EventSpan::from_micros(window.micros() * i64::from(spec().reference_windows));
        let of = |span| (self.sum(topic, "readings", span), self.sum(topic, measure, span));
        let current = of((start, start + window));
        if current.0 == 0 { [(0, 0); 2] } else { [of((start - back, start)), current] }
    }

    /// Windows with inputs, of every measure.
    fn keys(&self) -> BTreeSet<Key> {
        let (hop, window) = (spec().hop.unwrap(), spec().window);
        let mut keys = BTreeSet::new();
        for ((topic, _), counted) in &self.0 {
            for at in counted.keys() {
                for back in 0..window.micros() / hop.micros() {
                    let start = EventTime::from_micros(at.floor_to(hop).micros() - back * hop.micros());
                    if self.row((*topic, "readings", start))[1].0 > 0 {
                        keys.extend(MEASURES.map(|measure| (*topic, measure, start)));
                    }
                }
            }
        }
        keys
    }
}

fn qualities(rows: &[(Epoch, Finding)]) -> Vec<(Epoch, Quality)> {
    let quality = |(epoch, found): &(Epoch, Finding)| match found {
        Finding::Quality(quality) => Some((*epoch, quality.clone())),
        _ => None,
    };
    rows.iter().filter_map(quality).collect()
}

fn key(row: &Quality) -> Key {
    (row.topic, row.measure, row.current.0)
}

#[test]
fn the_last_row_of_every_topic_and_window_is_what_a_recount_gives() {
    for (seed, workers) in [(70, 1), (71, 2), (72, 4)] {
        let script = script(seed, 60);
        let recount = Recount::of(&script);
        let rows = qualities(&run_all(&script, workers, 2, EventSpan::UNBOUNDED, &Metrics::new()));
        let last: BTreeMap<Key, &Quality> = rows.iter().map(|(_, row)| (key(row), row)).collect();
        let mut flawed = 0;
        for (key, row) in &last {
            let found = [row.reference_counts, row.current_counts];
            assert_eq!(found, recount.row(*key), "seed {seed}: {key:?}");
            flawed += u64::from(key.1 != "readings" && row.current_counts.1 > 0);
        }
        assert!(recount.keys().iter().all(|key| last.contains_key(key)), "seed {seed}: no window is left out");
        assert!(flawed > 100 && rows.len() > last.len() + 100, "seed {seed}: {flawed} flaws, some of them corrections");
    }
}

#[test]
fn a_row_is_published_again_only_when_it_says_something_else() {
    let rows = qualities(&run_all(&script(73, 60), 2, 1, EventSpan::UNBOUNDED, &Metrics::new()));
    let mut known: BTreeMap<Key, (Epoch, Quality)> = BTreeMap::new();
    for (epoch, row) in rows {
        if let Some((before, was)) = known.insert(key(&row), (epoch, row.clone())) {
            assert!(before < epoch && was != row, "{row:?} in {before} and {epoch}");
        }
    }
}

const HOURS: i64 = 24 * 4;
/// From this hour on, one ward's gateway no longer sends the unit.
const ONSET: i64 = 24 * 3;
/// Up to this hour, when somebody has seen to it.
const REPAIR: i64 = ONSET + 8;

/// Inputs of two topics, 1,000 an hour each; some are late, as is usual. The gateway is that of topic 1.
fn told(seed: u64, lost: std::ops::Range<i64>) -> Vec<Flawed> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut told = Vec::new();
    for hour in 0..HOURS {
        for topic in [0, 1] {
            let at = EventTime::from_micros(hour * 60 * MINUTE);
            let mut input = |flaws, count| told.push(Flawed { topic: TopicId(topic), at, flaws, count });
            input(Flaws::input(Flaw::Readings), 1_000);
            input(Flaws::input(Flaw::Late).alone(), rng.random_range(10..30));
            input(Flaws::input(Flaw::Duplicate).alone(), rng.random_range(0..4));
            input(Flaws::input(Flaw::Rejected).with(Flaw::ValueOutOfRange, true).alone(), rng.random_range(0..6));
            if topic == 1 && lost.contains(&hour) {
                input(Flaws::input(Flaw::UnitAssumed).alone(), 400);
            }
        }
    }
    told
}

/// What is found of them: rows of `quality`, and alerts.
fn found(flawed: Vec<Flawed>) -> (Vec<Quality>, Vec<Alert>) {
    let spec = AuditSpec { reference_windows: 24, readings_min: 500, ..AuditSpec::default() };
    let mut updates = Vec::new();
    let share = Share { worker: 0, workers: 1 };
    let mut counts = Counts::new(calendar(&spec), EventSpan::UNBOUNDED, share, None);
    let batch = Assessed { scorable: Scorable { flawed, ..Scorable::default() }, ..Assessed::default() };
    counts.advance([&batch], &[tick(0, EventTime::MAX)], &mut updates);
    let (mut rows, mut alerts) = (Vec::new(), Vec::new());
    for finding in seeded::published(&updates, &spec, None) {
        match finding {
            Finding::Quality(row) => rows.push(row),
            Finding::Alert(alert) => alerts.push(alert),
            other => unreachable!("inputs have nothing else: {other:?}"),
        }
    }
    (rows, alerts)
}

fn hour(current: Span) -> i64 {
    current.0.micros() / (60 * MINUTE)
}

#[test]
fn a_flaw_that_begins_is_found_in_its_topic_by_its_name_and_nowhere_else() {
    let (found, _) = found(told(74, ONSET..HOURS));
    let moved: BTreeSet<(Option<TopicId>, &str, &str)> = found
        .iter()
        .filter(|row| !matches!(row.verdict.name(), "none" | "insufficient"))
        .map(|row| (row.topic, row.measure, row.verdict.name()))
        .collect();
    // From 0 of 1,000 to 400; a day later the reference is like it, and on the way there the difference grows small.
    let unit = |verdict| (Some(TopicId(1)), "unit_assumed", verdict);
    assert_eq!(moved, BTreeSet::from([unit("act"), unit("watch")]));
    let first = found.iter().find(|row| row.verdict.name() == "act").unwrap();
    assert_eq!(hour(first.current), ONSET);
    assert_eq!((first.reference_counts, first.current_counts), ((24_000, 0), (1_000, 400)));
}

#[test]
fn a_gateway_that_loses_its_units_raises_one_alert_about_its_topic_which_its_repair_clears() {
    let (_, alerts) = found(told(75, ONSET..REPAIR));
    let said = |alert: &Alert| {
        (alert.table, alert.feature, alert.group, alert.statistic, alert.state, hour(alert.current), alert.windows_held)
    };
    let of = |state, hour| ("quality", "unit_assumed", Part::Topic(Some(TopicId(1))), "current_rate", state, hour, 3);
    let expected = [of(AlertState::Raised, ONSET + 2), of(AlertState::Cleared, REPAIR + 2)];
    assert_eq!(alerts.iter().map(said).collect::<Vec<_>>(), expected);
    assert_eq!(alerts.iter().map(|alert| alert.value).collect::<Vec<_>>(), [Some(0.4), Some(0.0)]);
}

#[test]
fn nobody_is_told_of_flaws_that_are_as_frequent_as_ever() {
    for seed in 0..20 {
        let (rows, alerts) = found(told(seed, 0..0));
        assert!(rows.iter().any(|row| row.verdict.name() == "none"), "seed {seed}: something was compared");
        assert_eq!(alerts, [], "seed {seed}");
    }
}
