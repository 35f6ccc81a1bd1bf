//! What `reduce` finds of a subject's block: comparisons of features; of all groups' scores together the drift of probabilities, performance and
//! fairness; of a topic's inputs their quality.
//!
//! Groups are compared with each other, so the scores of all groups are one subject, on one worker. Whatever leaves has to be ordered and compared by
//! differential: figures travel packed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::audit::compare::{Comparer, Comparison, hash, hashes, within};
use crate::audit::histogram::Histogram;
use crate::audit::judge::Judge;
use crate::audit::ledger;
use crate::audit::profile::reference::Reference;
use crate::audit::quality::{self, Rates};
use crate::audit::scores::{Beside, Summary, performance_verdict};
use crate::audit::series::{ATTRIBUTES, Block, Calendar, GROUPS, Kind, PROBABILITY, Pane, SCORES, Series, Subject};
use crate::audit::statistics::Sides;
use crate::vocabulary::findings::{Goodness, Rate, Verdict};

/// What was found of one series in one window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Found {
    /// Drift.
    Shift(Box<Comparison>),
    /// How the scores did: [`Performed`].
    Performance(Packed),
    /// How the group fares: [`Fared`].
    Fairness(Packed),
    /// How many inputs of a topic have a flaw: [`Rates`].
    Quality(Packed),
}

impl Found {
    /// What stands if nothing was found: no readings.
    pub fn nothing(kind: Kind) -> Self {
        match kind {
            Kind::Measured(..) | Kind::Probability(_) => Found::Shift(Box::default()),
            Kind::Fairness(_) => Found::Fairness(Packed::of(&Fared::default())),
            Kind::Quality(..) => Found::Quality(Packed::of(&Rates::default())),
            Kind::Patients(_) | Kind::Scores(_) => Found::Performance(Packed::of(&Performed::default())),
        }
    }

    /// Readings in the window; of data quality, inputs.
    pub fn readings(&self) -> u64 {
        match self {
            Found::Shift(comparison) => comparison.current.readings,
            Found::Performance(packed) => packed.open::<Performed>().readings,
            Found::Fairness(packed) => packed.open::<Fared>().readings,
            Found::Quality(packed) => packed.open::<Rates>().current.0,
        }
    }
}

/// Figures as bytes: equal figures are equal bytes, and bytes have an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packed(Vec<u8>);

impl Packed {
    /// Packs.
    pub fn of(figures: &impl Serialize) -> Self {
        Packed(postcard::to_allocvec(figures).expect("figures always serialise"))
    }

    /// Unpacks what it was made of.
    pub fn open<T: DeserializeOwned>(&self) -> T {
        postcard::from_bytes(&self.0).expect("it was packed here")
    }
}

/// The figures of [`Performance`](crate::vocabulary::findings::Performance).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they are those of the row")]
pub struct Performed {
    pub readings: u64,
    pub patients: Option<u64>,
    pub scored: u64,
    pub labelled: u64,
    pub positives: u64,
    pub selected: u64,
    pub alarms: u64,
    pub score_mean: Option<f64>,
    pub observed_rate: Option<f64>,
    pub measured: Goodness,
    pub reference_measured: Goodness,
    pub estimated: Goodness,
    pub verdict: Verdict,
}

impl Performed {
    pub(super) fn of(current: &Summary, reference: &Summary, patients: Option<u64>, judge: &Judge) -> Self {
        Performed {
            readings: current.readings,
            patients,
            scored: current.scored,
            labelled: current.labelled(),
            positives: current.positives(),
            selected: current.selected,
            alarms: current.alarms,
            score_mean: current.score_mean(),
            observed_rate: current.observed_rate(),
            measured: current.measured(),
            reference_measured: reference.measured(),
            estimated: current.estimated(),
            verdict: performance_verdict(current, reference, judge.readings_min()),
        }
    }
}

/// The figures of [`Fairness`](crate::vocabulary::findings::Fairness).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they are those of the row")]
pub struct Fared {
    pub reference_group: u8,
    pub readings: u64,
    pub patients: Option<u64>,
    pub labelled: u64,
    pub positives: u64,
    pub rates: [Rate; 4],
    pub score_mean: Option<f64>,
    pub observed_rate: Option<f64>,
    pub ece: Option<f64>,
    pub beside: Beside,
}

impl Fared {
    pub(super) fn of(group: &Summary, reference: (usize, &Summary), patients: Option<u64>, judge: &Judge) -> Self {
        Fared {
            reference_group: reference.0 as u8,
            readings: group.readings,
            patients,
            labelled: group.labelled(),
            positives: group.positives(),
            rates: group.rates(),
            score_mean: group.score_mean(),
            observed_rate: group.observed_rate(),
            ece: group.measured().ece,
            beside: Beside::of(group, reference.1, judge.readings_min()),
        }
    }
}

/// Counts of one series by pane, ascending.
type Panes<'a> = Vec<(Pane, &'a Histogram)>;

/// Windows whose scores are remembered, see [`Comparer`].
const REMEMBERED_WINDOWS: usize = 96;

/// Finds what there is to find in a block.
#[derive(Debug)]
pub struct Finder {
    calendar: Calendar,
    judge: Judge,
    /// If the windows before are not the reference.
    profile: Option<Arc<Reference>>,
    comparer: Comparer,
    /// Scores of all groups, by the hash of what they were made of.
    remembered: BTreeMap<Pane, (u64, Vec<(Series, Found)>)>,
}

impl Finder {
    /// With the calendar of the flow, what makes a verdict, and the profile to compare with, if there is one.
    pub fn new(calendar: Calendar, judge: Judge, profile: Option<Arc<Reference>>) -> Self {
        let comparer = Comparer::new(calendar, judge, profile.clone());
        Finder { calendar, judge, profile, comparer, remembered: BTreeMap::new() }
    }

    /// What is found of a subject, in no order that matters. `counts` ascending, of this block and the one before.
    pub fn find(
        &mut self,
        subject: Subject,
        block: Block,
        counts: &[(&(Series, Pane), Histogram)],
    ) -> Vec<(Series, Pane, Found)> {
        let mut by_series: BTreeMap<Series, Panes<'_>> = BTreeMap::new();
        for ((series, pane), histogram) in counts {
            by_series.entry(*series).or_default().push((*pane, histogram));
        }
        if subject == SCORES {
            return self.scores(block, &by_series);
        }
        let series = Series(subject.0);
        let of = |series: Series| by_series.get(&series).map_or(&[][..], Vec::as_slice);
        let (group, feature) = match series.kind() {
            Kind::Measured(group, feature) => (group, feature),
            Kind::Quality(slot, _) => return self.quality(slot, block, of(series)),
            other => unreachable!("{other:?} is no subject"),
        };
        let patients = of(Series::patients(group));
        let compared = self.comparer.compare(series, &feature.grid, block, of(series), patients);
        compared.into_iter().map(|(window, comparison)| (series, window, Found::Shift(Box::new(comparison)))).collect()
    }

    /// Of each window of a topic with inputs.
    fn quality(&self, slot: usize, block: Block, panes: &[(Pane, &Histogram)]) -> Vec<(Series, Pane, Found)> {
        let (calendar, inputs_min) = (self.calendar, self.judge.readings_min());
        let of_window = |window: Pane| {
            let (reference, current) = (calendar.reference(window), calendar.current(window));
            let of = |(start, end)| within(panes, start, end);
            let found = quality::find(slot, of(reference), of(current), inputs_min);
            found.into_iter().map(move |(series, found)| (series, window, found))
        };
        calendar.panes_of(block).flat_map(of_window).collect()
    }

    fn scores(&mut self, block: Block, counts: &BTreeMap<Series, Panes<'_>>) -> Vec<(Series, Pane, Found)> {
        let hashes: Vec<(Series, Vec<(Pane, u64)>)> =
            counts.iter().map(|(series, panes)| (*series, hashes(panes))).collect();
        let groups = Groups { counts, profile: self.profile.as_deref() };
        let mut found = Vec::new();
        for window in self.calendar.panes_of(block) {
            let (reference, current) = (self.calendar.reference(window), self.calendar.current(window));
            if hashes.iter().all(|(_, panes)| within(panes, current.0, current.1).is_empty()) {
                continue;
            }
            let made_of: Vec<(Series, &[(Pane, u64)])> =
                hashes.iter().map(|(series, panes)| (*series, within(panes, reference.0, current.1))).collect();
            let hash = hash(&made_of);
            let known = self.remembered.remove(&window).filter(|(known, _)| *known == hash);
            let of_window =
                known.map(|(_, found)| found).unwrap_or_else(|| groups.found(reference, current, &self.judge));
            found.extend(of_window.iter().map(|(series, found)| (*series, window, found.clone())));
            self.remembered.insert(window, (hash, of_window));
        }
        while self.remembered.len() > REMEMBERED_WINDOWS {
            self.remembered.pop_first();
        }
        found
    }
}

/// The scores of all groups.
struct Groups<'a> {
    counts: &'a BTreeMap<Series, Panes<'a>>,
    profile: Option<&'a Reference>,
}

impl Groups<'_> {
    fn summary(&self, group: usize, (start, end): (Pane, Pane)) -> Summary {
        let panes = self.counts.get(&Series::scores(group)).map_or(&[][..], Vec::as_slice);
        let mut sum = Histogram::default();
        within(panes, start, end).iter().for_each(|(_, codes)| sum.add(codes));
        Summary::of(sum.as_slice())
    }

    fn patients(&self, group: usize, (start, end): (Pane, Pane)) -> u64 {
        let panes = self.counts.get(&Series::patients(group)).map_or(&[][..], Vec::as_slice);
        ledger::patients(within(panes, start, end).iter().map(|(pane, gaps)| (*pane, *gaps)), end)
    }

    fn found(&self, of_reference: (Pane, Pane), of_current: (Pane, Pane), judge: &Judge) -> Vec<(Series, Found)> {
        let mut found = Vec::new();
        let mut summaries: BTreeMap<usize, Summary> = BTreeMap::new();
        for group in 0..GROUPS.len() {
            let reference = || self.summary(group, of_reference);
            let reference = self.profile.map_or_else(reference, |profile| profile.scores(group));
            let summary = self.summary(group, of_current);
            if summary.readings == 0 {
                continue;
            }
            let patients = Some(self.patients(group, of_current));
            let performed = Performed::of(&summary, &reference, patients, judge);
            found.push((Series::scores(group), Found::Performance(Packed::of(&performed))));
            if summary.scored + reference.scored > 0 {
                let (reference, current) = (reference.probabilities(), summary.probabilities());
                let sides = Sides::new(PROBABILITY.grid, &reference, &current);
                let comparison = Comparison::of(&sides, (None, None), judge, None);
                found.push((Series::probability(group), Found::Shift(Box::new(comparison))));
            }
            summaries.insert(group, summary);
        }
        for (_, groups) in ATTRIBUTES {
            let of = |group: usize| summaries.get(&group).filter(|summary| summary.readings > 0);
            // The last of equals by `max_by_key` is the first of the groups from behind.
            let largest = groups.clone().rev().filter_map(|group| Some((group, of(group)?)));
            let Some(reference) = largest.max_by_key(|(_, summary)| summary.readings) else { continue };
            for (group, summary) in groups.filter_map(|group| Some((group, of(group)?))) {
                let fared = Fared::of(summary, reference, Some(self.patients(group, of_current)), judge);
                found.push((Series::fairness(group), Found::Fairness(Packed::of(&fared))));
            }
        }
        found
    }
}
