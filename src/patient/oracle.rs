//! The slow and obvious way to the same rows: from the whole input at once, partition by partition, without epochs, watermarks, forgetting or workers.
//!
//! It shares no code with the stage but the vocabulary and [`Demographics::age_years`]; statistics are computed from their textbook definitions on
//! plain lists. It is for inputs in which an observation id keeps to one partition: only these have one answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::PatientSpec;
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC, SignalId};
use crate::time::{EventSpan, EventTime};
use crate::vocabulary::{
    Aggregate, Condition, Demographics, Intake, Outcome, Partition, Precision, Pseudonym, Reading, Sex, Status,
    Timeliness, Version, WindowRow,
};

/// Everything that must come out in the end.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The last row of each observation, with its features and whether it replaces.
    pub(super) readings: BTreeMap<(Pseudonym, Pseudonym), (Reading, Vec<f64>, bool)>,
    /// The last row of each window.
    pub(super) windows: BTreeMap<(EventTime, Pseudonym), WindowRow>,
    /// Endings.
    pub(super) outcomes: BTreeMap<Outcome, u64>,
    /// Everything withdrawn.
    pub(super) withdrawn: Vec<Taken>,
    /// What drift counts, under what the patient is known to be in the end.
    pub(super) counted: BTreeMap<Grouped, i64>,
    /// The comorbidities that the last row of each observation counts under.
    pub(super) comorbidities: BTreeMap<(Pseudonym, Pseudonym), Option<u8>>,
    /// What data quality counts: inputs and flaws by topic and time in microseconds.
    pub(super) inputs: BTreeMap<Counted, i64>,
}

/// Patient, time in microseconds, values as bits, year of birth, sex, comorbidities.
pub(super) type Grouped = (Pseudonym, i64, Vec<(u8, u64)>, Option<i16>, Sex, Option<u8>);

/// Topic, time in microseconds, what is counted.
pub(super) type Counted = (u32, i64, &'static str);

/// What is withdrawn: patient, time in microseconds, values as bits.
pub(super) type Taken = (Pseudonym, i64, Vec<(u8, u64)>);

/// What stands of one observation.
#[derive(Clone)]
struct Standing {
    reading: Reading,
    version: Version,
    contributes: bool,
    once_in_time: bool,
    in_ring_once: bool,
    /// It was late when its observation first came.
    first_late: bool,
}

/// A reading as the ring keeps it: seconds, and hundredths of mmHg.
type Point = (i64, i64, i64);

struct Oracle<'a> {
    spec: &'a PatientSpec,
    columns: &'a [SignalId],
    expected: Expected,
    revisions: BTreeMap<(EventTime, Pseudonym), u32>,
    /// Windows that ever held something.
    touched: BTreeSet<(EventTime, Pseudonym)>,
    standing: BTreeMap<(Pseudonym, Pseudonym), Standing>,
    rings: BTreeMap<(Pseudonym, Partition), Vec<Point>>,
    demographics: BTreeMap<Pseudonym, Demographics>,
    /// What was said last of each condition, by patient and id.
    conditions: BTreeMap<(Pseudonym, Pseudonym), Condition>,
}

/// Recomputes everything. `intakes` are all that was ever read, of each partition in its order.
pub(super) fn expect(spec: &PatientSpec, columns: &[SignalId], intakes: &[Intake]) -> Expected {
    let mut oracle = Oracle {
        spec,
        columns,
        expected: Expected::default(),
        revisions: BTreeMap::new(),
        touched: BTreeSet::new(),
        standing: BTreeMap::new(),
        rings: BTreeMap::new(),
        demographics: BTreeMap::new(),
        conditions: BTreeMap::new(),
    };
    for intake in intakes {
        match intake {
            Intake::Reading(reading) => {
                let outcome = oracle.reading(reading.clone());
                *oracle.expected.outcomes.entry(outcome).or_default() += 1;
            }
            Intake::Demographics { patient, demographics, .. } => oracle.learn(*patient, *demographics),
            Intake::Condition { patient, condition, .. } => oracle.suffer(*patient, *condition),
            Intake::Label { .. } => {}
        }
    }
    oracle.windows();
    oracle.inputs();
    oracle.counted();
    oracle.expected
}

impl Oracle<'_> {
    fn learn(&mut self, patient: Pseudonym, new: Demographics) {
        if let Some(old) = self.demographics.get(&patient) {
            match (rank(new.version), rank(old.version)) {
                ((a, new), (b, old)) if a == b && a != 'u' && new <= old => return,
                _ => {}
            }
        }
        self.demographics.insert(patient, new);
    }

    fn suffer(&mut self, patient: Pseudonym, mut new: Condition) {
        let unversioned = new.version == Version::Unversioned;
        match self.conditions.get(&(patient, new.id)) {
            // Nothing to withdraw, and nothing that could be compared with it later.
            None if unversioned && new.withdraws => return,
            None => {}
            Some(old) => {
                let ((kind, number), (old_kind, old_number)) = (rank(new.version), rank(old.version));
                let comparable = kind == old_kind && kind != 'u';
                let stands = match comparable {
                    true => number < old_number || (number == old_number && (old.withdraws || !new.withdraws)),
                    false => new.comorbidities == old.comorbidities,
                };
                if stands {
                    return;
                }
                if unversioned && new.withdraws {
                    new.version = old.version;
                }
            }
        }
        self.conditions.insert((patient, new.id), new);
    }

    /// How many of the 32 possible comorbidities some condition of the patient says.
    fn comorbidities(&self, patient: Pseudonym) -> u8 {
        let said = |number: &u8| {
            let mut of = self.conditions.iter().filter(|((whose, _), _)| *whose == patient);
            of.any(|(_, condition)| condition.comorbidities.has(*number))
        };
        (0..32).filter(said).count() as u8
    }

    fn reading(&mut self, mut new: Reading) -> Outcome {
        let key = (new.patient, new.observation);
        let old = self.standing.get(&key).cloned();
        if let Some(outcome) = old.as_ref().and_then(|old| settled(&new, old)) {
            if outcome == Outcome::Duplicate && !withdrawing(new.facts.status) {
                self.input(&new, &["readings", "duplicate"]);
            }
            return outcome;
        }
        let withdraws = withdrawing(new.facts.status);
        let first_late = match &old {
            _ if withdraws => false,
            Some(old) => old.first_late,
            None => new.facts.timeliness != Timeliness::OnTime,
        };
        let once_in_time = old.as_ref().is_some_and(|old| old.once_in_time);
        let in_time = new.facts.timeliness != Timeliness::TooLate;
        let admitted = !withdraws && (in_time || once_in_time);
        if admitted && !in_time {
            new.facts.timeliness = Timeliness::Late;
        }
        let mut version = new.facts.version;
        if let (true, Some(old)) = (withdraws, &old) {
            new.facts.at = old.reading.facts.at;
            version = if version == Version::Unversioned { old.version } else { version };
        }
        let contributes = admitted && !new.facts.summary;
        let demographics = self.demographics.get(&new.patient).copied().unwrap_or_default();
        let (features, in_ring_once) = self.features(&new, old.as_ref(), in_time, contributes, &demographics);
        self.change(&new, old.as_ref(), contributes);
        let outcome = match (withdraws, &old) {
            (true, None) => Outcome::Ignored,
            (true, Some(_)) => Outcome::Contributed,
            (false, _) if admitted => Outcome::Contributed,
            (false, _) => Outcome::Late,
        };
        if outcome != Outcome::Ignored {
            self.expected.readings.insert(key, (new.clone(), features, old.is_some()));
            self.expected.comorbidities.insert(key, Some(self.comorbidities(new.patient)));
        }
        let once_in_time = once_in_time || admitted;
        let standing = Standing { reading: new, version, contributes, once_in_time, in_ring_once, first_late };
        self.standing.insert(key, standing);
        outcome
    }

    fn input(&mut self, reading: &Reading, measures: &[&'static str]) {
        let (topic, at) = (reading.facts.position.partition.topic.0, reading.facts.at.micros());
        measures.iter().for_each(|measure| *self.expected.inputs.entry((topic, at, measure)).or_default() += 1);
    }

    /// Whatever contributes, whenever it became known who the patient is.
    fn counted(&mut self) {
        for Standing { reading, .. } in self.standing.values().filter(|standing| standing.contributes) {
            let values = reading.facts.signals.iter().map(|measured| (measured.signal.0, measured.value.to_bits()));
            let Demographics { birth_year, sex, .. } =
                self.demographics.get(&reading.patient).copied().unwrap_or_default();
            let comorbidities = Some(self.comorbidities(reading.patient));
            let key = (reading.patient, reading.facts.at.micros(), values.collect(), birth_year, sex, comorbidities);
            *self.expected.counted.entry(key).or_default() += 1;
        }
    }

    /// Everything that stands is an input with its flaws.
    fn inputs(&mut self) {
        let standing: Vec<Standing> = self.standing.values().cloned().collect();
        for Standing { reading, first_late, .. } in standing.iter().filter(|it| !withdrawing(it.reading.facts.status)) {
            let signals = &reading.facts.signals;
            let pressures = [SYSTOLIC, DIASTOLIC].iter().filter(|signal| signals.get(**signal).is_some()).count();
            // Bit 8 is the leniency "unit_assumed".
            let flaws = [
                (pressures == 1, "signal_missing"),
                (reading.facts.leniencies.0 == 256, "unit_assumed"),
                (*first_late, "late"),
            ];
            let flaws = flaws.iter().filter(|(has, _)| *has).map(|(_, name)| *name);
            let measures: Vec<&str> = ["readings"].into_iter().chain(flaws).collect();
            self.input(reading, &measures);
        }
    }

    /// Revisions, windows touched, and what is withdrawn.
    fn change(&mut self, new: &Reading, old: Option<&Standing>, contributes: bool) {
        let mut changed = BTreeSet::new();
        if let Some(old) = old.filter(|old| old.contributes) {
            changed.extend(self.windows_of(&old.reading));
            let values = old.reading.facts.signals.iter().map(|measured| (measured.signal.0, measured.value.to_bits()));
            let row = (old.reading.patient, old.reading.facts.at.micros(), values.collect());
            self.expected.withdrawn.push(row);
        }
        if contributes {
            changed.extend(self.windows_of(new));
        }
        for window in changed {
            self.touched.insert(window);
            if old.is_some() || new.facts.timeliness != Timeliness::OnTime {
                *self.revisions.entry(window).or_default() += 1;
            }
        }
    }

    /// The windows that a reading lies in: tried one by one.
    fn windows_of(&self, reading: &Reading) -> Vec<(EventTime, Pseudonym)> {
        let (window, hop) = (self.spec.window.micros(), self.spec.hop.micros());
        if reading.facts.precision == Precision::Day && self.spec.window < EventSpan::from_seconds(86_400) {
            return Vec::new();
        }
        let at = reading.facts.at.micros();
        let candidates = (at / hop - window / hop - 2)..(at / hop + window / hop + 2);
        let starts = candidates.map(|number| number * hop).filter(|start| *start <= at && at < start + window);
        starts.map(|start| (EventTime::from_micros(start + window), reading.patient)).collect()
    }

    fn features(
        &mut self,
        new: &Reading,
        old: Option<&Standing>,
        in_time: bool,
        contributes: bool,
        demographics: &Demographics,
    ) -> (Vec<f64>, bool) {
        let ring = self.rings.entry((new.patient, new.facts.position.partition)).or_default();
        let previous = old.filter(|old| old.in_ring_once).and_then(|old| point(&old.reading));
        let place = previous.and_then(|point| ring.iter().rposition(|other| *other == point));
        if let Some(place) = place {
            ring.remove(place);
        }
        let before = ring.clone();
        let eligible = point(new).filter(|_| !new.facts.summary);
        if let Some(point) = eligible {
            match (place, previous) {
                (Some(place), _) => ring.insert(place, point),
                (None, Some(_)) => {}
                (None, None) if in_time => ring.push(point),
                (None, None) => {}
            }
        }
        let entered = eligible.is_some() && (previous.is_some() || in_time);
        if ring.len() > self.spec.baseline_readings as usize {
            ring.remove(0);
        }
        let recent = ring.clone();
        (row(new, &before, &recent, contributes, demographics, self.spec), entered)
    }

    fn windows(&mut self) {
        let readings: Vec<&Reading> =
            self.standing.values().filter(|standing| standing.contributes).map(|standing| &standing.reading).collect();
        let mut held: BTreeMap<(EventTime, Pseudonym), Vec<&Reading>> = BTreeMap::new();
        for reading in readings {
            for window in self.windows_of(reading) {
                held.entry(window).or_default().push(reading);
            }
        }
        let rows = self.touched.iter().map(|window| {
            let mut readings = held.remove(window).unwrap_or_default();
            readings.sort_by_key(|reading| (reading.facts.at, reading.observation));
            (*window, self.window(*window, &readings))
        });
        self.expected.windows = rows.collect();
    }

    fn window(&self, (end, patient): (EventTime, Pseudonym), readings: &[&Reading]) -> WindowRow {
        let start = end - self.spec.window;
        let values = |signal: SignalId| -> Vec<(EventTime, f64)> {
            readings.iter().filter_map(|reading| Some((reading.facts.at, reading.facts.signals.get(signal)?))).collect()
        };
        let standing = |test: &dyn Fn(f64) -> bool| {
            let values = values(SYSTOLIC);
            let until = values.iter().skip(1).map(|(at, _)| *at).chain([end]);
            let spans = values.iter().zip(until).filter(|((_, value), _)| test(*value));
            spans.map(|((at, _), until)| (until - *at).seconds()).sum()
        };
        WindowRow {
            patient,
            start,
            end,
            aggregates: self.columns.iter().map(|signal| aggregate(&values(*signal), start)).collect(),
            above_seconds: standing(&|value| value >= self.spec.high_mmhg),
            below_seconds: standing(&|value| value < self.spec.low_mmhg),
            revision: self.revisions.get(&(end, patient)).copied().unwrap_or(0),
        }
    }
}

fn withdrawing(status: Status) -> bool {
    matches!(status, Status::EnteredInError | Status::Cancelled)
}

/// The outcome of an input that changes nothing.
fn settled(new: &Reading, old: &Standing) -> Option<Outcome> {
    let (new_withdraws, old_withdrawn) = (withdrawing(new.facts.status), withdrawing(old.reading.facts.status));
    let ((kind, number), (old_kind, old_number)) = (rank(new.facts.version), rank(old.version));
    if kind != old_kind || kind == 'u' {
        let same = new.facts.at == old.reading.facts.at
            && new.facts.signals == old.reading.facts.signals
            && new.facts.status == old.reading.facts.status;
        return (same || (new_withdraws && old_withdrawn)).then_some(Outcome::Duplicate);
    }
    if number > old_number || (number == old_number && new_withdraws && !old_withdrawn) {
        return None;
    }
    let duplicate = number == old_number && new_withdraws == old_withdrawn;
    Some(if duplicate { Outcome::Duplicate } else { Outcome::Superseded })
}

fn rank(version: Version) -> (char, i64) {
    match version {
        Version::Number(number) => ('n', number),
        Version::Updated(updated) => ('t', updated),
        Version::Unversioned => ('u', 0),
    }
}

/// A full reading as the ring keeps it.
fn point(reading: &Reading) -> Option<Point> {
    let hundredths = |value: f64| (value * 100.0).round() as i64;
    let (systolic, diastolic) = (reading.facts.signals.get(SYSTOLIC)?, reading.facts.signals.get(DIASTOLIC)?);
    Some((reading.facts.at.micros().div_euclid(1_000_000), hundredths(systolic), hundredths(diastolic)))
}

fn row(
    new: &Reading,
    before: &[Point],
    recent: &[Point],
    scored: bool,
    demographics: &Demographics,
    spec: &PatientSpec,
) -> Vec<f64> {
    let own = |signal| new.facts.signals.get(signal).unwrap_or(f64::NAN);
    let (systolic, diastolic) = (own(SYSTOLIC), own(DIASTOLIC));
    let mean_arterial = new.facts.signals.get(MEAN_ARTERIAL).unwrap_or(diastolic + (systolic - diastolic) / 3.0);
    let mut row = vec![systolic, diastolic, mean_arterial, systolic - diastolic];
    if !scored {
        row.resize(20, f64::NAN);
        return row;
    }
    let column = |points: &[Point], pick: fn(&Point) -> i64| -> Vec<f64> {
        points.iter().map(|point| pick(point) as f64 / 100.0).collect()
    };
    let hours: Vec<f64> = recent.iter().map(|point| (point.0 - recent[0].0) as f64 / 3_600.0).collect();
    let (s, d) = (column(recent, |point| point.1), column(recent, |point| point.2));
    let steps: Vec<f64> = s.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
    row.extend([recent.len() as f64, mean(&s), deviation(&s)]);
    row.extend([s.iter().copied().fold(f64::NAN, f64::min), s.iter().copied().fold(f64::NAN, f64::max)]);
    row.extend([slope(&hours, &s), mean(&steps), mean(&d), deviation(&d), slope(&hours, &d)]);
    for (value, history, population) in [
        (systolic, column(before, |point| point.1), spec.population_systolic_mmhg),
        (diastolic, column(before, |point| point.2), spec.population_diastolic_mmhg),
    ] {
        let own = median(&history);
        let weight = (history.len() as f64 / f64::from(spec.baseline_readings_min.max(1))).min(1.0);
        let baseline = if history.is_empty() { population } else { own * weight + population * (1.0 - weight) };
        let distances: Vec<f64> = history.iter().map(|other| (other - own).abs()).collect();
        // `f64::max` passes over NaN: the floor stands for an empty history.
        let unit = (1.4826 * median(&distances)).max(5.0);
        row.extend([baseline, (value - baseline) / unit]);
    }
    row.push(demographics.age_years(new.facts.at).map_or(f64::NAN, f64::from));
    row.push(if demographics.sex == Sex::Female {
        1.0
    } else if demographics.sex == Sex::Male {
        0.0
    } else {
        f64::NAN
    });
    row
}

fn aggregate(values: &[(EventTime, f64)], start: EventTime) -> Option<Aggregate> {
    let (first, last) = (values.first()?, values.last()?);
    let hours: Vec<f64> = values.iter().map(|(at, _)| (*at - start).seconds() / 3_600.0).collect();
    let values: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
    Some(Aggregate {
        count: values.len() as u32,
        mean: mean(&values),
        min: values.iter().copied().fold(f64::NAN, f64::min),
        max: values.iter().copied().fold(f64::NAN, f64::max),
        standard_deviation: deviation(&values),
        slope_per_hour: if first.0 == last.0 { f64::NAN } else { slope(&hours, &values) },
        last: last.1,
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() < 2 { f64::NAN } else { (squares / (values.len() - 1) as f64).sqrt() }
}

fn slope(times: &[f64], values: &[f64]) -> f64 {
    if times.iter().all(|time| *time == times[0]) {
        return f64::NAN;
    }
    let (time, value) = (mean(times), mean(values));
    let across: f64 = times.iter().zip(values).map(|(t, v)| (t - time) * (v - value)).sum();
    let along: f64 = times.iter().map(|t| (t - time).powi(2)).sum();
    across / along
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}
