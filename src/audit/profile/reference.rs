//! What windows are compared with if the flow names a profile.
//!
//! It never changes while a flow runs and is the same on every worker, so that it needs no place in the dataflow: whoever compares a window holds it.
//! A comparison is then a function of the window alone, whatever the number of workers, and a restart has nothing of it to put back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{OfScores, Profile, ScoredBy, group};
use crate::audit::histogram::Counted;
use crate::audit::judge::Usual;
use crate::audit::scores::{Score, Summary};
use crate::audit::series::{FEATURES, GROUPS, PATIENT_GROUPS, Series};
use crate::config::{AuditSpec, DriftPreset};
use crate::vocabulary::findings::Span;

/// A profile, ready to be compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// What it is of.
    pub span: Span,
    /// Eight hexadecimal digits that tell profiles apart.
    pub digest: String,
    scored_by: ScoredBy,
    measured: BTreeMap<Series, Fixed>,
    /// By group.
    scores: BTreeMap<usize, Summary>,
}

/// The distribution of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    /// One count a value of the feature's grid.
    pub values: Vec<i64>,
    /// Patients, if the profile says so.
    pub patients: Option<u64>,
    /// How far windows usually are from it.
    pub usual: Option<Usual>,
}

impl Reference {
    /// Reads the profile that a flow names, and checks that the two fit.
    ///
    /// # Errors
    /// A sentence that names the key, the file, and says what is wrong.
    pub fn load(path: &Path, spec: &AuditSpec) -> Result<Arc<Reference>, String> {
        let fail = |why: String| format!("audit.reference_profile: {why}");
        let (profile, digest) = Profile::read(path).map_err(fail)?;
        if spec.preset == DriftPreset::Nannyml
            && (profile.window, profile.readings_min) != (spec.window, spec.readings_min)
        {
            return Err(fail(format!(
                "the preset nannyml compares with what is usual of windows alike, and the profile {path:?} says so of windows of {} from {} readings on, where audit.window is {} and audit.readings_min {}; make it anew with the settings of this flow",
                profile.window, profile.readings_min, spec.window, spec.readings_min
            )));
        }
        Reference::of(&profile, digest).map(Arc::new).map_err(fail)
    }

    /// Of a profile that adds up, and what tells it from others.
    pub fn of(profile: &Profile, digest: String) -> Result<Reference, String> {
        let mut measured = BTreeMap::new();
        for of in &profile.features {
            let feature = of.feature()?;
            let values = of.values(&FEATURES[feature].grid);
            let fixed = Fixed { values, patients: of.patients, usual: of.usual };
            measured.insert(Series::measured(group(&of.group, PATIENT_GROUPS)?, feature), fixed);
        }
        let mut scores = BTreeMap::new();
        for of in &profile.scores {
            scores.insert(group(&of.group, GROUPS.len())?, summary(of));
        }
        Ok(Reference { span: profile.span()?, digest, scored_by: profile.scored_by.clone(), measured, scores })
    }

    /// The same without what cannot be compared with scores that are made so: probabilities of another model; who was selected, and what came of it, by
    /// other rules. And what was left out, in words.
    #[must_use]
    pub fn for_scores_by(&self, scored_by: &ScoredBy) -> (Reference, Option<String>) {
        let mut reference = self.clone();
        let theirs = &self.scored_by;
        if self.scores.is_empty() || theirs == scored_by {
            return (reference, None);
        }
        if theirs.model != scored_by.model {
            reference.scores.clear();
            let (theirs, ours) = (theirs.model.as_deref(), scored_by.model.as_deref());
            let name = |model: Option<&str>| model.unwrap_or("none").to_owned();
            let why = format!("its scores are by the model {}, this flow's by {}", name(theirs), name(ours));
            return (reference, Some(why));
        }
        reference.scores.values_mut().for_each(Summary::forget_outcomes);
        // Who has no labels misses nothing.
        let missed = scored_by.outcome.is_some().then(|| {
            "its outcomes are of readings that were selected or labelled otherwise than this flow does".to_owned()
        });
        (reference, missed)
    }

    /// The distribution of a measured series; `None` if it is not in the profile.
    pub fn measured(&self, series: Series) -> Option<&Fixed> {
        self.measured.get(&series)
    }

    /// The scores of a group; none if they are not in the profile.
    pub fn scores(&self, group: usize) -> Summary {
        self.scores.get(&group).cloned().unwrap_or_default()
    }
}

fn summary(of: &OfScores) -> Summary {
    let count = |(thousandths, selected, happened, count): &(Option<u16>, bool, Option<bool>, u64)| {
        // Nobody asks how many alarms a reference had.
        let score =
            Score { thousandths: thousandths.and_then(|of| of.try_into().ok()), selected: *selected, alarm: false };
        (score.code(*happened), i64::try_from(*count).unwrap_or(i64::MAX))
    };
    Summary::of(Counted::from_counts(of.counts.iter().map(count).collect()).as_slice())
}
