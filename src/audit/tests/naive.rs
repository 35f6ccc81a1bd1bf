//! The oracle: every window recomputed from the readings that still stand, one at a time, by the definitions.
//!
//! It shares no code with the stage: values are rounded, sorted and compared as numbers.

use super::*;

/// What is compared of a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) counts: [u64; 4],
    /// Statistics, means and standard deviations.
    pub(super) numbers: Vec<Option<f64>>,
    pub(super) bins: [Vec<u64>; 2],
    pub(super) verdict: &'static str,
}

impl Line {
    pub(super) fn of(shift: &Shift) -> Self {
        let Statistics { psi, jensen_shannon, kolmogorov_smirnov, wasserstein, hellinger, chi2, effect_size, .. } =
            shift.statistics;
        let (reference, current) = (&shift.reference_side, &shift.current_side);
        let sides = [reference.mean, reference.standard_deviation, current.mean, current.standard_deviation];
        let statistics = [psi, jensen_shannon, kolmogorov_smirnov, wasserstein, hellinger, chi2, effect_size];
        Line {
            counts: [
                reference.readings,
                current.readings,
                reference.patients.unwrap_or(0),
                current.patients.unwrap_or(0),
            ],
            numbers: statistics.into_iter().chain(sides).collect(),
            bins: [reference.bins.clone(), current.bins.clone()],
            verdict: shift.verdict.name(),
        }
    }

    /// Counts equal, numbers within 1e-9.
    pub(super) fn agrees(&self, other: &Line) -> bool {
        let close = |(a, b): (&Option<f64>, &Option<f64>)| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * b.abs().max(1.0),
            (a, b) => a == b,
        };
        let filled = |line: &Line| line.bins.clone().map(|bins| bins.iter().sum::<u64>());
        // A side that has never had readings has no bins at all.
        let bins = |a: &Vec<u64>, b: &Vec<u64>| a == b || (a.is_empty() && b.iter().all(|count| *count == 0));
        self.counts == other.counts
            && self.numbers.len() == other.numbers.len()
            && self.numbers.iter().zip(&other.numbers).all(close)
            && self.bins.iter().zip(&other.bins).all(|(a, b)| bins(a, b) || bins(b, a))
            && filled(self) == self.counts[..2]
            && self.verdict == other.verdict
    }
}

/// Everything that stands at the end: rounded values by group, feature, time and patient.
#[derive(Default)]
pub(super) struct Naive(BTreeMap<(String, &'static str), Counted>);

/// Times, values and patients, and how often.
type Counted = BTreeMap<(EventTime, u64, u64), i64>;

impl Naive {
    pub(super) fn of(script: &[EpochOfScript]) -> Self {
        let mut naive = Naive::default();
        for of_epoch in script {
            for Row { patient, reading, demographics, .. } in of_epoch.rows.iter().filter(|row| row.contributes()) {
                naive.count(*patient, reading.facts.at, &reading.facts.signals, demographics, 1);
            }
            for (patient, Moved { measured, before, .. }) in &of_epoch.moved {
                naive.count(*patient, measured.at, &measured.signals, before, -1);
                naive.count(*patient, measured.at, &measured.signals, &measured.demographics, 1);
            }
            for (patient, gone) in &of_epoch.withdrawn {
                naive.count(*patient, gone.at, &gone.signals, &gone.demographics, -1);
            }
        }
        naive
    }

    fn count(&mut self, patient: u64, at: EventTime, signals: &Signals, demographics: &Demographics, sign: i64) {
        let (Some(systolic), Some(diastolic)) = (signals.get(SYSTOLIC), signals.get(DIASTOLIC)) else { return };
        let mean_arterial = signals.get(MEAN_ARTERIAL).unwrap_or(diastolic + (systolic - diastolic) / 3.0);
        let mut groups = vec!["all".to_owned(), format!("sex={}", demographics.sex.code())];
        groups.extend(demographics.age_years(at).map(|years| {
            let bands = [(18, "age=<18"), (40, "age=18-39"), (65, "age=40-64"), (80, "age=65-79"), (999, "age=80+")];
            bands.iter().find(|(end, _)| years < *end).unwrap().1.to_owned()
        }));
        let values = [
            ("systolic", systolic),
            ("diastolic", diastolic),
            ("mean_arterial", mean_arterial),
            ("pulse_pressure", systolic - diastolic),
        ];
        for group in groups {
            for (feature, value) in values {
                let rounded = (value + 0.5).floor().clamp(0.0, 300.0) as u64;
                *self.0.entry((group.clone(), feature)).or_default().entry((at, rounded, patient)).or_default() += sign;
            }
        }
    }

    /// All values of a key between two times, ascending, and how many patients they are of.
    pub(super) fn values(&self, (group, feature, _): &Key, from: EventTime, to: EventTime) -> (Vec<f64>, u64) {
        let Some(counted) = self.0.get(&(group.clone(), *feature)) else { return Default::default() };
        let times = || counted.range((from, 0, 0)..(to, 0, 0)).filter(|(_, count)| **count > 0);
        let mut values: Vec<f64> =
            times().flat_map(|((_, value, _), count)| std::iter::repeat_n(*value as f64, *count as usize)).collect();
        values.sort_by(f64::total_cmp);
        let patients: BTreeSet<u64> = times().map(|((_, _, patient), _)| *patient).collect();
        (values, patients.len() as u64)
    }

    /// The row that must stand last for a key.
    pub(super) fn row(&self, key: &Key) -> Line {
        let (start, window) = (key.2, spec().window);
        let length = EventSpan::from_micros(window.micros() * i64::from(spec().reference_windows));
        let (current, of_current) = self.values(key, start, start + window);
        // What lost all its readings is not compared with anything.
        let compared = if current.is_empty() { start } else { start - length };
        let (reference, of_reference) = self.values(key, compared, start);
        let mut line = line(&reference, &current);
        (line.counts[2], line.counts[3]) = (of_reference, of_current);
        line
    }

    /// The same, against everything of another script, unless the key's group is left out there.
    pub(super) fn row_against(&self, key: &Key, reference: &Naive, left_out: &[String]) -> Line {
        let (current, of_current) = self.values(key, key.2, key.2 + spec().window);
        let (reference, of_reference) = match current.is_empty() || left_out.contains(&key.0) {
            true => Default::default(),
            false => reference.values(key, EventTime::MIN, EventTime::MAX),
        };
        let mut line = line(&reference, &current);
        (line.counts[2], line.counts[3]) = (of_reference, of_current);
        line
    }

    /// How many patients have readings of a group, ever.
    pub(super) fn patients(&self, group: &str) -> u64 {
        self.values(&(group.to_owned(), "systolic", EventTime::MIN), EventTime::MIN, EventTime::MAX).1
    }

    /// The Jensen–Shannon distances of windows of a length from all values of a key; of those with enough readings.
    pub(super) fn distances(&self, group: &str, feature: &'static str, length: EventSpan) -> Vec<f64> {
        let key = (group.to_owned(), feature, EventTime::MIN);
        let (all, _) = self.values(&key, EventTime::MIN, EventTime::MAX);
        let times = self.0[&(key.0.clone(), feature)].iter().filter(|(_, count)| **count > 0);
        let starts: BTreeSet<EventTime> = times.map(|((at, _, _), _)| at.floor_to(length)).collect();
        let windows = starts.into_iter().map(|start| self.values(&key, start, start + length).0);
        let full = windows.filter(|window| window.len() as u64 >= spec().readings_min);
        full.map(|window| line(&all, &window).numbers[1].unwrap()).collect()
    }

    /// The keys of all windows that have readings.
    pub(super) fn keys(&self) -> BTreeSet<Key> {
        let (hop, window) = (spec().hop.unwrap(), spec().window);
        let mut keys = BTreeSet::new();
        for ((group, feature), counted) in &self.0 {
            for ((at, _, _), _) in counted.iter().filter(|(_, count)| **count > 0) {
                let last = at.floor_to(hop);
                let starts = (0..window.micros() / hop.micros())
                    .map(|back| EventTime::from_micros(last.micros() - back * hop.micros()));
                keys.extend(starts.map(|start| (group.clone(), *feature, start)));
            }
        }
        keys
    }
}

/// What two lists of sorted values amount to.
fn line(reference: &[f64], current: &[f64]) -> Line {
    let enough = [reference, current].iter().all(|side| side.len() as u64 >= spec().readings_min);
    let mean = |side: &[f64]| (!side.is_empty()).then(|| side.iter().sum::<f64>() / side.len() as f64);
    let squares = |side: &[f64]| side.iter().map(|value| (value - mean(side).unwrap()).powi(2)).sum::<f64>();
    let deviation = |side: &[f64]| (side.len() > 1).then(|| (squares(side) / (side.len() - 1) as f64).sqrt());
    let bins = |side: &[f64]| {
        let count = |bin: u32| side.iter().filter(|value| (**value / 10.0).floor() as u32 == bin).count() as u64;
        (0..31).map(count).collect::<Vec<u64>>()
    };
    let (reference_bins, current_bins) = (bins(reference), bins(current));
    let shares: Vec<(f64, f64)> = reference_bins
        .iter()
        .zip(&current_bins)
        .map(|(r, c)| (*r as f64 / reference.len() as f64, *c as f64 / current.len() as f64))
        .collect();
    let sum = |term: &dyn Fn(f64, f64) -> f64| enough.then(|| shares.iter().map(|(r, c)| term(*r, *c)).sum::<f64>());
    let psi = sum(&|r, c| {
        let floor = |share: f64| if share == 0.0 { 1e-4 } else { share };
        if r + c == 0.0 { 0.0 } else { (floor(c) - floor(r)) * (floor(c) / floor(r)).ln() }
    });
    let entropy = |p: f64, q: f64| if p == 0.0 { 0.0 } else { p * (p / q).log2() };
    let divergence = sum(&|r, c| (entropy(r, (r + c) / 2.0) + entropy(c, (r + c) / 2.0)) / 2.0);
    let hellinger = sum(&|r, c| (r.sqrt() - c.sqrt()).powi(2) / 2.0);
    let (of_reference, of_current) = (reference.len() as f64, current.len() as f64);
    let columns = shares.iter().filter(|(r, c)| r + c > 0.0).count();
    let chi2 = sum(&|r, c| {
        let column = r * of_reference + c * of_current;
        let expected = |side: f64| side * column / (of_reference + of_current);
        let term = |share: f64, side: f64| (share * side - expected(side)).powi(2) / expected(side);
        if column == 0.0 { 0.0 } else { term(r, of_reference) + term(c, of_current) }
    });
    let below =
        |side: &[f64], value: f64| side.iter().filter(|other| **other <= value).count() as f64 / side.len() as f64;
    let gaps: Vec<f64> =
        (0..=300).map(|value| (below(reference, f64::from(value)) - below(current, f64::from(value))).abs()).collect();
    let norm = if reference.is_empty() { 1.0 } else { (squares(reference) / of_reference).sqrt().max(1e-3) };
    let pooled = deviation(reference).zip(deviation(current)).map(|(r, c)| ((r * r + c * c) / 2.0).sqrt());
    let effect = pooled.filter(|pooled| *pooled > 0.0 && enough);
    let psi_verdict = match psi {
        None => "insufficient",
        Some(psi) if psi >= 0.25 => "act",
        Some(psi) if psi >= 0.1 => "watch",
        Some(_) => "none",
    };
    Line {
        counts: [reference.len() as u64, current.len() as u64, 0, 0],
        numbers: vec![
            psi,
            divergence.map(|divergence| divergence.max(0.0).sqrt()),
            enough.then(|| gaps.iter().copied().fold(0.0, f64::max)),
            enough.then(|| gaps.iter().sum::<f64>() / norm),
            hellinger.map(f64::sqrt),
            chi2.filter(|_| columns >= 2),
            effect.map(|pooled| (mean(current).unwrap() - mean(reference).unwrap()) / pooled),
            mean(reference),
            deviation(reference),
            mean(current),
            deviation(current),
        ],
        bins: [reference_bins, current_bins],
        verdict: psi_verdict,
    }
}
