//! The `score` stage: what rules and a model say of every reading, and which readings raise an alarm.
//!
//! ```text
//! Scorable ─┬─ rules (one named set) ──> category, reasons ─> persistence ─> alarm ─┬─> Assessed
//!           └─ model (features, batch) ─> probability, risk level, contributions ───┘
//! ```
//!
//! A pure state machine on batches: no clock, no file, no thread. `docs/clinical.md` lists every threshold with its source.
//!
//! What is said of which reading:
//!
//! | reading | category | reasons | alarm | probability |
//! |---|---|---|---|---|
//! | complete | yes | yes | if they persist | yes |
//! | late | yes | yes | neither raises nor clears | yes |
//! | too late | yes | yes | no | yes |
//! | known to the day only | yes | yes | no: its hour is unknown | yes |
//! | summary (an average) | yes | yes | no | no: the model knows single readings |
//! | partial (a pressure missing) | no | of what is there | no | no |
//! | withdrawn | no | no | takes its own back | no |
//!
//! Invariants:
//! 1. Everything but the alarm is a function of the reading and its features; an alarm, of its patient's readings in its partition,
//!    in position order. So batches may be cut anywhere and partitions may interleave at will.
//! 2. Without a model every probability is `None`, nothing else changes.
//!
//! State: only persistence, and only for patients with something firing (its size: [`persistence`]); it survives. Alarms counted are telemetry.

pub mod describe;
mod guidelines;
pub mod labelled;
mod legacy;
pub mod logistic;
mod measure;
mod news2;
pub mod persistence;
pub mod rules;
pub mod train;

use std::sync::Arc;

use ndarray::ArrayView2;
use timely::dataflow::operators::generic::operator::empty;

use self::logistic::{Logistic, Scratch};
use self::persistence::{Persistence, Seen};
pub use self::rules::rule_sets;
use self::rules::{Fired, RuleSet, Vitals, rule_set};
use crate::config::ScoreSpec;
use crate::graph::Plan;
use crate::runtime::checkpoint::Desk;
use crate::runtime::driver::{self, Stream};
use crate::runtime::survive::{Blocks, Corrupt, Extent, Survive};
use crate::time::EventTime;
use crate::vocabulary::{Assessed, Assessment, FEATURE_NAMES, Partition, Precision, Reading, Scorable, Timeliness};

/// Number of columns of the matrix of features.
pub const FEATURES: usize = FEATURE_NAMES.len();

/// `recent_readings`: how many readings the baseline rests on.
const RECENT_READINGS: usize = 4;
/// `systolic_baseline`.
const SYSTOLIC_BASELINE: usize = 14;

/// Scorable readings in, assessed ones out; one `Arc` a batch, for sinks and audit alike.
pub fn render<'s>(scorable: Stream<'s, Scorable>, plan: &Plan, desk: &Desk) -> Stream<'s, Arc<Assessed>> {
    let metrics = plan.metrics.clone();
    let scorer = match Scorer::new(&plan.flow.spec.score, plan.model.clone()) {
        Ok(scorer) => scorer,
        Err(why) => {
            plan.failure.report(why);
            return empty(scorable.scope());
        }
    };
    let seat = desk.seat("score", scorer);
    driver::batches(scorable, "score", seat, move |scorer, _, scorable, out| {
        let assessed = scorer.score(scorable);
        for (reason, count) in scorer.take_alarms() {
            metrics.alarms.with_label_values(&[reason]).inc_by(count);
        }
        for (category, count) in categories(&assessed) {
            metrics.readings.with_label_values(&[category]).inc_by(count);
        }
        out.push(Arc::new(assessed));
    })
}

/// How many readings fell into each category; those without one are `none`.
fn categories(assessed: &Assessed) -> Vec<(&'static str, u64)> {
    let mut counts: Vec<(&'static str, u64)> = Vec::new();
    for assessment in &assessed.assessments {
        let category = assessment.category.unwrap_or("none");
        match counts.iter_mut().find(|(known, _)| *known == category) {
            Some((_, count)) => *count += 1,
            None => counts.push((category, 1)),
        }
    }
    counts
}

/// The stage's state, one a worker.
pub struct Scorer {
    rules: &'static RuleSet,
    /// The rules of the set that may alarm.
    alarming: Fired,
    model: Option<Arc<Logistic>>,
    scratch: Scratch,
    persistence: Persistence,
    /// Alarms since they were last taken, by index of the rule.
    alarms: Vec<u64>,
}

impl Scorer {
    /// A scorer without history. Errors name the key of the flow file, what it must be and what it is.
    pub fn new(spec: &ScoreSpec, model: Option<Arc<Logistic>>) -> Result<Self, String> {
        let rules = rule_set(&spec.rules).ok_or_else(|| {
            let known: Vec<_> = rule_sets().iter().map(|set| set.name).collect();
            format!("score.rules names no rule set: {:?}; known are {}", spec.rules, known.join(", "))
        })?;
        let persistence = Persistence::new(spec)?;
        let alarms = vec![0; rules.rules.len()];
        Ok(Scorer { rules, alarming: rules.alarming(), model, scratch: Scratch::default(), persistence, alarms })
    }

    /// Assesses the readings of one epoch (or of any part of it), which must come in position order.
    ///
    /// Panics if the matrix of features or the demographics do not match the readings: that is a bug left of here.
    pub fn score(&mut self, scorable: Scorable) -> Assessed {
        let readings = scorable.readings.len();
        assert_eq!(scorable.features.len(), readings * FEATURES, "one row of features a reading");
        assert_eq!(scorable.demographics.len(), readings, "one demographics a reading");
        let mut assessments = Vec::with_capacity(readings);
        for (reading, features) in scorable.readings.iter().zip(scorable.features.chunks_exact(FEATURES)) {
            assessments.push(self.judge(reading, features));
        }
        for tick in &scorable.progress {
            self.forget(tick.partition, tick.watermark);
        }
        self.predict(&scorable, &mut assessments);
        Assessed { scorable, assessments }
    }

    /// The rule set in use: the `rule_set` column is its name.
    pub fn rules(&self) -> &'static RuleSet {
        self.rules
    }

    /// The model in use, if any: the `model` column is its [`Logistic::name`].
    pub fn model(&self) -> Option<&Logistic> {
        self.model.as_deref()
    }

    /// Takes out how many alarms each reason has raised since the last call: for the metrics, once a batch.
    pub fn take_alarms(&mut self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.alarms.iter_mut().map(std::mem::take);
        self.rules.rules.iter().map(|rule| rule.name).zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Number of (patient, partition) pairs with something firing: what the state's size follows.
    pub fn firing(&self) -> usize {
        self.persistence.len()
    }

    /// Drops what a partition's watermark makes unnecessary. Changes no later assessment.
    fn forget(&mut self, partition: Partition, watermark: EventTime) {
        self.persistence.forget(partition, watermark);
    }

    /// Rules and persistence of one reading.
    fn judge(&mut self, reading: &Reading, features: &[f64]) -> Assessment {
        let facts = &reading.facts;
        let stream = persistence::Stream { patient: reading.patient, partition: facts.position.partition };
        let observation = reading.observation.hash64();
        if facts.status.withdraws() {
            self.persistence.withdraw(stream, observation);
            return Assessment::default();
        }
        let verdict = self.rules.judge(&Vitals::new(&facts.signals, own_baseline(features)));
        let reasons = self.rules.names(verdict.fired).collect();
        let mut raised = 0;
        if facts.timeliness != Timeliness::TooLate {
            if verdict.complete && !facts.summary && facts.precision == Precision::Instant {
                let on_time = facts.timeliness == Timeliness::OnTime;
                let fired = verdict.fired & self.alarming;
                raised = self.persistence.observe(&Seen { stream, at: facts.at, observation, fired, on_time });
            } else {
                self.persistence.withdraw(stream, observation);
            }
        }
        if raised != 0 {
            for (index, count) in self.alarms.iter_mut().enumerate() {
                *count += u64::from(raised >> index & 1);
            }
        }
        Assessment { category: verdict.category, reasons, alarm: raised != 0, ..Assessment::default() }
    }

    /// Adds what the model says, all readings at once.
    fn predict(&mut self, scorable: &Scorable, assessments: &mut [Assessment]) {
        let Some(model) = &self.model else { return };
        let features = ArrayView2::from_shape((scorable.readings.len(), FEATURES), &scorable.features)
            .expect("the caller asserted the length");
        let scores = model.score(features, &mut self.scratch);
        for ((reading, assessment), scored) in scorable.readings.iter().zip(assessments).zip(scores) {
            if let Some(scored) = scored.filter(|_| !reading.facts.status.withdraws() && !reading.facts.summary) {
                assessment.probability = Some(scored.probability);
                assessment.risk_level = Some(scored.risk_level);
                assessment.contributions = scored.contributions;
            }
        }
    }
}

impl Survive for Scorer {
    fn save(&mut self, extent: Extent, into: &mut Blocks) {
        self.persistence.save(extent, into);
    }

    fn load(&mut self, block: &[u8]) -> Result<(), Corrupt> {
        self.persistence.load(block)
    }
}

/// The patient's own systolic baseline, mmHg; NaN while it rests on too few readings to be the patient's own.
fn own_baseline(features: &[f64]) -> f64 {
    if features[RECENT_READINGS] >= guidelines::BASELINE_READINGS_MIN { features[SYSTOLIC_BASELINE] } else { f64::NAN }
}

#[cfg(test)]
mod tests;
