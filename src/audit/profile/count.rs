//! What a profile is made of: the audit's own counts of everything that stands at the end, with no window closed and nothing forgotten.
//!
//! Kept while it counts: what the audit keeps of a reading within its horizon ([`ledger::KEPT_BYTES`](crate::audit::ledger::KEPT_BYTES)), of all readings.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use super::{FORMAT, OfFeature, OfScores, PATIENTS_MIN, Profile, ScoredBy, Source, left_out};
use crate::audit::calendar;
use crate::audit::counts::{ByPatient, Counts};
use crate::audit::histogram::{Cells, Histogram};
use crate::audit::judge::{Judge, Usual};
use crate::audit::ledger::Standing;
use crate::audit::scores::Score;
use crate::audit::series::{ATTRIBUTES, BIN_RULE, Calendar, Feature, GROUPS, Kind, Pane, Series};
use crate::audit::statistics::Moments;
use crate::config::{AuditSpec, ScoreSpec, Selected};
use crate::score::logistic::Logistic;
use crate::source::Share;
use crate::time::{Epoch, EventSpan, EventTime};
use crate::vocabulary::Assessed;
use crate::vocabulary::findings::Finding;

/// What one worker counts.
#[derive(Debug)]
pub struct Counter(Counts);

impl Counter {
    /// Nothing counted yet; panes as the flow's audit has them.
    pub fn new(spec: &AuditSpec) -> Self {
        let by_patient = ByPatient { selected: spec.selected, label_horizon: spec.outcomes.horizon };
        // Which worker it is matters to what is saved, and nothing is.
        let share = Share { worker: 0, workers: 1 };
        Counter(Counts::new(calendar(spec), EventSpan::UNBOUNDED, share, Some(by_patient)))
    }

    /// Counts a batch; batches of one patient come in the order in which they were assessed.
    pub fn add(&mut self, batch: &Assessed) {
        // Without ticks event time never comes anywhere: nothing is late, told or forgotten.
        self.0.advance([batch], &[], &mut Vec::new());
    }

    /// What stands.
    pub fn sums(&self) -> Sums {
        let (panes, patients) = self.0.standing();
        Sums { panes, patients }
    }
}

/// The sums of all workers of a process.
pub type SharedSums = Arc<Mutex<Sums>>;

/// Counts everything that is assessed, epoch by epoch; adds it to `sums` when the input has ended. Nothing leaves.
pub fn render<'s>(
    assessed: StreamVec<'s, Epoch, Arc<Assessed>>,
    spec: &AuditSpec,
    sums: SharedSums,
) -> StreamVec<'s, Epoch, Finding> {
    let mut counter = Some(Counter::new(spec));
    assessed.unary_frontier::<CapacityContainerBuilder<Vec<Finding>>, _, _, _>(
        Pipeline,
        "audit::profile",
        move |_, _| {
            let mut pending: BTreeMap<Epoch, Vec<Arc<Assessed>>> = BTreeMap::new();
            move |(input, frontier), _| {
                input.for_each(|travelled, batches| {
                    let &epoch = travelled.least().expect("a message travels under a capability");
                    pending.entry(epoch).or_default().append(batches);
                });
                let open = frontier.frontier().first().copied();
                while let Some(first) =
                    pending.first_entry().filter(|first| open.is_none_or(|open| *first.key() < open))
                {
                    let batches = first.remove();
                    batches.iter().for_each(|batch| counter.iter_mut().for_each(|counter| counter.add(batch)));
                }
                if let Some(counter) = counter.take_if(|_| open.is_none()) {
                    sums.lock().unwrap_or_else(PoisonError::into_inner).add(counter.sums());
                }
            }
        },
    )
}

/// What several workers have counted, each its own patients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    panes: BTreeMap<Pane, Cells>,
    patients: Standing,
}

impl Sums {
    /// Adds what another worker has counted.
    pub fn add(&mut self, other: Sums) {
        for (pane, cells) in other.panes {
            self.panes.entry(pane).or_default().add(&cells);
        }
        let Standing { of, without } = &mut self.patients;
        of.iter_mut().zip(other.patients.of).for_each(|(sum, more)| *sum += more);
        without.iter_mut().zip(other.patients.without).for_each(|(sum, more)| *sum += more);
    }

    /// Counts by value of each series and window, windows being whole multiples of their length.
    fn windows(&self, calendar: &Calendar) -> BTreeMap<Series, BTreeMap<i64, Histogram>> {
        let mut windows: BTreeMap<Series, BTreeMap<i64, Histogram>> = BTreeMap::new();
        for (pane, cells) in &self.panes {
            let window = pane.0.div_euclid(calendar.window_panes());
            for (series, histogram) in cells.histograms() {
                windows.entry(series).or_default().entry(window).or_default().add(&histogram);
            }
        }
        windows
    }
}

/// How a profile is made.
#[derive(Clone, Debug)]
pub struct Making {
    /// Windows, the least number of readings, what counts as selected.
    pub audit: AuditSpec,
    /// What the readings come from.
    pub source: Source,
    /// How they were scored.
    pub scored_by: ScoredBy,
    /// Whether patients could be told apart.
    pub knows_patients: bool,
    /// Whether it was known of what sex they are.
    pub knows_sex: bool,
}

/// How a flow scores.
pub fn scored_by(score: &ScoreSpec, audit: &AuditSpec, model: Option<&Logistic>) -> ScoredBy {
    let ScoreSpec { alarm_k, alarm_n, alarm_hold, alarm_refractory, .. } = score;
    let selected = match audit.selected {
        Selected::Alarm => format!("alarm ({alarm_k} of {alarm_n}, hold {alarm_hold}, refractory {alarm_refractory})"),
        Selected::Reason => "reason".to_owned(),
        Selected::HighRisk => "high-risk".to_owned(),
    };
    let outcomes = &audit.outcomes;
    ScoredBy {
        rule_set: Some(score.rules.clone()),
        model: model.map(|model| model.name().to_owned()),
        selected: Some(selected),
        outcome: outcomes.inputs().map(|_| format!("{} within {}", outcomes.outcome, outcomes.horizon)),
    }
}

impl Making {
    /// The profile of what was counted.
    ///
    /// # Errors
    /// There is too little of it: a sentence.
    pub fn make(self, sums: &Sums) -> Result<Profile, String> {
        let (calendar, judge) = (calendar(&self.audit), Judge::new(&self.audit));
        let windows = sums.windows(&calendar);
        let all = windows.get(&Series::measured(0, 0)).map(total).unwrap_or_default();
        let (readings, patients) = (readings(&all), self.knows_patients.then_some(sums.patients.of[0]));
        let Some((start, end)) = span(&windows, &calendar).filter(|_| readings > 0) else {
            return Err("there are no readings with both pressures and a time".into());
        };
        if let Some(few) = patients.filter(|patients| *patients < PATIENTS_MIN) {
            return Err(format!(
                "there are {few} patients, and a profile is of at least {PATIENTS_MIN}: what fewer have in common may tell of one"
            ));
        }
        let small = left_out(&sums.patients);
        let unknown = match (self.knows_patients, self.knows_sex) {
            (false, _) => !1,
            (true, false) => ATTRIBUTES[0].1.clone().fold(0, |bits, group| bits | 1 << group),
            (true, true) => 0,
        };
        let hidden = small | unknown;
        let known = |group: usize| self.knows_patients.then_some(sums.patients.of[group]);
        let (mut features, mut scores) = (Vec::new(), Vec::new());
        for (series, windows) in &windows {
            match series.kind() {
                Kind::Measured(group, feature) if hidden & 1 << group == 0 => {
                    features.extend(of_feature((feature, group, known(group)), windows, &judge));
                }
                Kind::Scores(group) if hidden & 1 << group == 0 => {
                    scores.extend(of_scores((group, known(group)), &total(windows)));
                }
                _ => {}
            }
        }
        let hides = |group: &usize| small & !unknown & 1 << group != 0;
        Ok(Profile {
            windkessel_profile: FORMAT,
            bin_rule: BIN_RULE.to_owned(),
            source: self.source,
            start: instant(start),
            end: instant(end),
            window: self.audit.window,
            readings_min: self.audit.readings_min,
            readings,
            patients,
            scored_by: self.scored_by,
            left_out: (0..GROUPS.len()).filter(hides).map(|group| GROUPS[group].to_owned()).collect(),
            features,
            scores,
        })
    }
}

/// The whole windows that the readings lie in.
fn span(windows: &BTreeMap<Series, BTreeMap<i64, Histogram>>, calendar: &Calendar) -> Option<(EventTime, EventTime)> {
    let of_all = windows.get(&Series::measured(0, 0))?;
    let (first, last) = (of_all.keys().next()?, of_all.keys().next_back()?);
    let start = |window: i64| calendar.start(Pane(window.saturating_mul(calendar.window_panes())));
    Some((start(*first), start(last.saturating_add(1))))
}

fn instant(at: EventTime) -> String {
    // What lies outside the years that can be written is no time of a reading.
    jiff::Timestamp::from_microsecond(at.micros()).unwrap_or_default().to_string()
}

fn total(windows: &BTreeMap<i64, Histogram>) -> Histogram {
    let mut total = Histogram::default();
    windows.values().for_each(|histogram| total.add(histogram));
    total
}

fn readings(histogram: &Histogram) -> u64 {
    histogram.as_slice().iter().map(|(_, count)| (*count).max(0).unsigned_abs()).sum()
}

fn dense(histogram: &Histogram, values: usize) -> Vec<i64> {
    let mut dense = vec![0; values];
    for (value, count) in histogram.as_slice() {
        dense[usize::from(value.0)] = (*count).max(0);
    }
    dense
}

/// `None` if nothing of it stands.
fn of_feature(
    (feature, group, patients): (&Feature, usize, Option<u64>),
    windows: &BTreeMap<i64, Histogram>,
    judge: &Judge,
) -> Option<OfFeature> {
    let grid = &feature.grid;
    let bins = |histogram: &Histogram| -> Vec<u64> {
        let values = dense(histogram, grid.values());
        grid.bins_of(&values).map(|bin| bin.iter().sum::<i64>().unsigned_abs()).collect()
    };
    let total = total(windows);
    let chunks: Vec<Vec<u64>> = windows.values().map(&bins).collect();
    let values = dense(&total, grid.values());
    let moments = Moments::of(grid, &values);
    let first = values.iter().position(|count| *count > 0)?;
    let last = values.iter().rposition(|count| *count > 0)?;
    let usual: Option<Usual> = judge.usual(&bins(&total), &chunks);
    Some(OfFeature {
        feature: feature.name.to_owned(),
        unit: feature.unit.to_owned(),
        group: GROUPS[group].to_owned(),
        readings: moments.readings,
        patients,
        mean: moments.mean,
        standard_deviation: moments.standard_deviation(),
        usual,
        first: first as u16,
        counts: values[first..=last].iter().map(|count| count.unsigned_abs()).collect(),
    })
}

/// `None` if nothing of it stands.
fn of_scores((group, patients): (usize, Option<u64>), codes: &Histogram) -> Option<OfScores> {
    let mut counts: BTreeMap<(Option<u16>, bool, Option<bool>), u64> = BTreeMap::new();
    for (code, count) in codes.as_slice().iter().filter(|(_, count)| *count > 0) {
        let (Score { thousandths, selected, .. }, happened) = Score::of_code(code.0);
        *counts.entry((thousandths.map(u16::from), selected, happened)).or_default() += count.unsigned_abs();
    }
    let counts: Vec<_> = counts
        .into_iter()
        .map(|((thousandths, selected, happened), count)| (thousandths, selected, happened, count))
        .collect();
    let readings = counts.iter().map(|(.., count)| count).sum();
    (readings > 0).then(|| OfScores { group: GROUPS[group].to_owned(), readings, patients, counts })
}
