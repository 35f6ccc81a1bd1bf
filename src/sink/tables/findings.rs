//! Columns of the audit's tables: each is said once, with its name, its meaning and where its values come from.
//!
//! The schema and the batch are both made from the same list, so they cannot differ. Lists inside a row have no nulls.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Builder, Int64Builder, ListBuilder};
use arrow::datatypes::{DataType, Field};

use super::columns::{Float64s, LIST_ITEM, bounds, int64, int64_or_null, texts};
use super::schema::{Column, given, instant, maybe};
use super::signed;
use crate::audit::quality::topic_name;
use crate::source::Topics;
use crate::time::EventTime;
use crate::vocabulary::TopicId;
use crate::vocabulary::findings::{Alert, Fairness, Part, Performance, Quality, Shift};

/// Where a column's values come from, and so its type.
pub(super) enum From<T> {
    Text(fn(&T) -> &str),
    Topic(fn(&T) -> Option<TopicId>),
    Part(fn(&T) -> Part),
    Time(fn(&T) -> EventTime),
    Count(fn(&T) -> u64),
    CountIfKnown(fn(&T) -> Option<u64>),
    Number(fn(&T) -> Option<f64>),
    Flag(fn(&T) -> Option<bool>),
    Numbers(fn(&T) -> &[f64]),
    Counts(fn(&T) -> &[u64]),
}

/// A column: name, where from, meaning.
pub(super) type Said<T> = (&'static str, From<T>, &'static str);

/// The columns for the schema.
pub(super) fn columns<T>(said: &[Said<T>]) -> Vec<Column> {
    let list = |item| DataType::List(Field::new(LIST_ITEM, item, false).into());
    said.iter()
        .map(|(name, from, meaning)| match from {
            From::Text(_) | From::Topic(_) | From::Part(_) => given(name, DataType::Utf8, meaning),
            From::Time(_) => given(name, instant(), meaning),
            From::Count(_) => given(name, DataType::Int64, meaning),
            From::CountIfKnown(_) => maybe(name, DataType::Int64, meaning),
            From::Number(_) => maybe(name, DataType::Float64, meaning),
            From::Flag(_) => maybe(name, DataType::Boolean, meaning),
            From::Numbers(_) => given(name, list(DataType::Float64), meaning),
            From::Counts(_) => given(name, list(DataType::Int64), meaning),
        })
        .collect()
}

/// The columns' values, one row a finding.
pub(super) fn arrays<T>(said: &[Said<T>], rows: &[T], topics: &Topics) -> Vec<ArrayRef> {
    said.iter().map(|(_, from, _)| array(from, rows, topics)).collect()
}

fn array<T>(from: &From<T>, rows: &[T], topics: &Topics) -> ArrayRef {
    match from {
        From::Text(of) => texts(rows.iter().map(|row| Some(of(row)))),
        From::Topic(of) => texts(rows.iter().map(|row| Some(topic_name(topics, of(row))))),
        From::Part(of) => texts(rows.iter().map(|row| {
            Some(match of(row) {
                Part::Group(group) => group,
                Part::Topic(topic) => topic_name(topics, topic),
            })
        })),
        From::Time(of) => bounds(rows.iter().map(of)),
        From::Count(of) => int64(rows.iter().map(|row| signed(of(row)))),
        From::CountIfKnown(of) => int64_or_null(rows.iter().map(|row| of(row).map(signed))),
        From::Number(of) => rows.iter().map(of).collect::<Float64s>().into(),
        From::Flag(of) => Arc::new(rows.iter().map(of).collect::<BooleanArray>()),
        From::Numbers(of) => {
            let mut lists = ListBuilder::new(Float64Builder::new()).with_field(item(DataType::Float64));
            for row in rows {
                lists.values().append_slice(of(row));
                lists.append(true);
            }
            Arc::new(lists.finish())
        }
        From::Counts(of) => {
            let mut lists = ListBuilder::new(Int64Builder::new()).with_field(item(DataType::Int64));
            for row in rows {
                of(row).iter().for_each(|count| lists.values().append_value(signed(*count)));
                lists.append(true);
            }
            Arc::new(lists.finish())
        }
    }
}

fn item(kind: DataType) -> Field {
    Field::new(LIST_ITEM, kind, false)
}

/// `shifts`.
pub(super) fn shifts() -> Vec<Said<Shift>> {
    use From::{Count, CountIfKnown, Counts, Number, Numbers, Text, Time};
    vec![
        ("feature", Text(|row| row.feature), "the feature's name"),
        ("group", Text(|row| &row.group), "all, sex=female, age=65-79, ..."),
        ("reference_start", Time(|row| row.reference.0), "inclusive"),
        ("reference_end", Time(|row| row.reference.1), "exclusive"),
        ("current_start", Time(|row| row.current.0), "inclusive"),
        ("current_end", Time(|row| row.current.1), "exclusive"),
        ("reference_count", Count(|row| row.reference_side.readings), "readings in the reference"),
        ("current_count", Count(|row| row.current_side.readings), "readings in the current window"),
        ("psi", Number(|row| row.statistics.psi), "population stability index; null if insufficient"),
        ("jensen_shannon", Number(|row| row.statistics.jensen_shannon), "distance, base 2; null if insufficient"),
        ("verdict", Text(|row| row.verdict.name()), "none, watch, act or insufficient"),
        ("unit", Text(|row| row.unit), "of the feature's values; 1 for a number without unit"),
        ("reference_patients", CountIfKnown(|row| row.reference_side.patients), "patients; null if not counted"),
        ("current_patients", CountIfKnown(|row| row.current_side.patients), "patients; null if not counted"),
        ("reference_mean", Number(|row| row.reference_side.mean), "null without readings"),
        ("reference_standard_deviation", Number(|row| row.reference_side.standard_deviation), SAMPLE),
        ("current_mean", Number(|row| row.current_side.mean), "null without readings"),
        ("current_standard_deviation", Number(|row| row.current_side.standard_deviation), SAMPLE),
        ("effect_size", Number(|row| row.statistics.effect_size), "standardised difference of the means"),
        ("kolmogorov_smirnov", Number(|row| row.statistics.kolmogorov_smirnov), "statistic of the values, 0 to 1"),
        ("kolmogorov_smirnov_p", Number(|row| row.statistics.kolmogorov_smirnov_p), "its p-value, by the limit"),
        ("wasserstein", Number(|row| row.statistics.wasserstein), "distance in the reference's deviations"),
        ("hellinger", Number(|row| row.statistics.hellinger), "distance of the bins, 0 to 1"),
        ("chi2", Number(|row| row.statistics.chi2), "of the bins as a contingency table"),
        ("chi2_p", Number(|row| row.statistics.chi2_p), "its p-value"),
        ("statistic", Text(|row| row.statistic), "which of these the verdict comes from"),
        ("bin_edges", Numbers(|row| &row.bin_edges), "ascending; the outer bins take the rest"),
        ("reference_bins", Counts(|row| &row.reference_side.bins), "readings by bin"),
        ("current_bins", Counts(|row| &row.current_side.bins), "readings by bin"),
    ]
}

const SAMPLE: &str = "of the sample (n - 1); null below two readings";

/// `quality`.
pub(super) fn quality() -> Vec<Said<Quality>> {
    use From::{Count, Number, Text, Time, Topic};
    vec![
        ("topic", Topic(|row| row.topic), "Kafka topic, or file- and a keyed hash of the path; others beyond 64"),
        ("measure", Text(|row| row.measure), "the flaw, or readings"),
        ("reference_start", Time(|row| row.reference.0), "inclusive"),
        ("reference_end", Time(|row| row.reference.1), "exclusive"),
        ("current_start", Time(|row| row.current.0), "inclusive"),
        ("current_end", Time(|row| row.current.1), "exclusive"),
        ("reference_inputs", Count(|row| row.reference_counts.0), "inputs in the reference"),
        ("reference_count", Count(|row| row.reference_counts.1), "those of them with the flaw"),
        ("reference_rate", Number(|row| rate(row.reference_counts)), "null without inputs"),
        ("current_inputs", Count(|row| row.current_counts.0), "inputs in the current window"),
        ("current_count", Count(|row| row.current_counts.1), "those of them with the flaw"),
        ("current_rate", Number(|row| rate(row.current_counts)), "null without inputs"),
        ("verdict", Text(|row| row.verdict.name()), "none, watch, act or insufficient"),
    ]
}

fn rate((inputs, flawed): (u64, u64)) -> Option<f64> {
    (inputs > 0).then(|| flawed as f64 / inputs as f64)
}

/// `performance`.
pub(super) fn performance() -> Vec<Said<Performance>> {
    use From::{Count, CountIfKnown, Number, Text, Time};
    let mut said: Vec<Said<Performance>> = vec![
        ("group", Text(|row| row.group), "all, sex=female, age=65-79, risk=HIGH, ..."),
        ("reference_start", Time(|row| row.reference.0), "inclusive"),
        ("reference_end", Time(|row| row.reference.1), "exclusive"),
        ("current_start", Time(|row| row.current.0), "inclusive"),
        ("current_end", Time(|row| row.current.1), "exclusive"),
        ("readings_count", Count(|row| row.readings), "assessed readings"),
        ("patients_count", CountIfKnown(|row| row.patients), "their patients; null if not counted"),
        ("scored_count", Count(|row| row.scored), "readings with a probability"),
        ("labelled_count", Count(|row| row.labelled), "readings with an outcome"),
        ("positives_count", Count(|row| row.positives), "readings whose outcome happened"),
        ("selected_count", Count(|row| row.selected), "readings that audit.selected takes"),
        ("alarms_count", Count(|row| row.alarms), "readings that raised an alarm"),
        ("patient_days", Number(|row| row.patient_days), "patients times the window's length in days"),
        ("alarms_per_patient_day", Number(|row| row.alarms_per_patient_day), "null if patients are not counted"),
        ("score_mean", Number(|row| row.score_mean), "mean probability"),
        ("observed_rate", Number(|row| row.observed_rate), "positives among the labelled"),
    ];
    said.extend(goodness());
    said.push(("verdict", Text(|row| row.verdict.name()), "none, watch, act or insufficient"));
    said
}

/// Seven figures, measured, measured in the reference, and estimated.
fn goodness() -> Vec<Said<Performance>> {
    use From::Number;
    const ESTIMATE: &str = "estimated from the probabilities alone (CBPE)";
    const REFERENCE: &str = "the same in the reference";
    vec![
        ("accuracy", Number(|row| row.measured.accuracy), "right verdicts among the labelled"),
        ("auroc", Number(|row| row.measured.auroc), "ties count half; null unless both outcomes occur"),
        ("brier", Number(|row| row.measured.brier), "mean squared difference of probability and outcome"),
        ("sensitivity", Number(|row| row.measured.sensitivity), "selected among the positives"),
        ("specificity", Number(|row| row.measured.specificity), "not selected among the labelled negatives"),
        ("ppv", Number(|row| row.measured.ppv), "positives among the labelled selected"),
        ("ece", Number(|row| row.measured.ece), "expected calibration error over tenths"),
        ("reference_accuracy", Number(|row| row.reference_measured.accuracy), REFERENCE),
        ("reference_auroc", Number(|row| row.reference_measured.auroc), REFERENCE),
        ("reference_brier", Number(|row| row.reference_measured.brier), REFERENCE),
        ("reference_sensitivity", Number(|row| row.reference_measured.sensitivity), REFERENCE),
        ("reference_specificity", Number(|row| row.reference_measured.specificity), REFERENCE),
        ("reference_ppv", Number(|row| row.reference_measured.ppv), REFERENCE),
        ("reference_ece", Number(|row| row.reference_measured.ece), REFERENCE),
        ("estimated_accuracy", Number(|row| row.estimated.accuracy), ESTIMATE),
        ("estimated_auroc", Number(|row| row.estimated.auroc), ESTIMATE),
        ("estimated_brier", Number(|row| row.estimated.brier), ESTIMATE),
        ("estimated_sensitivity", Number(|row| row.estimated.sensitivity), ESTIMATE),
        ("estimated_specificity", Number(|row| row.estimated.specificity), ESTIMATE),
        ("estimated_ppv", Number(|row| row.estimated.ppv), ESTIMATE),
    ]
}

/// `fairness`.
pub(super) fn fairness() -> Vec<Said<Fairness>> {
    use From::{Count, CountIfKnown, Flag, Number, Text, Time};
    const LOW: &str = "lower end of its 95 % interval (Wilson)";
    const HIGH: &str = "upper end";
    vec![
        ("attribute", Text(|row| row.attribute), "sex, age, risk or comorbidities"),
        ("group", Text(|row| row.group), "sex=female, age=65-79, risk=HIGH, ..."),
        ("reference_group", Text(|row| row.reference_group), "the attribute's group with most readings"),
        ("current_start", Time(|row| row.current.0), "inclusive"),
        ("current_end", Time(|row| row.current.1), "exclusive"),
        ("readings_count", Count(|row| row.readings), "assessed readings"),
        ("patients_count", CountIfKnown(|row| row.patients), "their patients; null if not counted"),
        ("labelled_count", Count(|row| row.labelled), "readings with an outcome"),
        ("positives_count", Count(|row| row.positives), "readings whose outcome happened"),
        ("selection_rate", Number(|row| row.selection.rate), "selected among all readings"),
        ("selection_rate_low", Number(|row| row.selection.low), LOW),
        ("selection_rate_high", Number(|row| row.selection.high), HIGH),
        ("tpr", Number(|row| row.tpr.rate), "selected among the positives"),
        ("tpr_low", Number(|row| row.tpr.low), LOW),
        ("tpr_high", Number(|row| row.tpr.high), HIGH),
        ("fpr", Number(|row| row.fpr.rate), "selected among the labelled negatives"),
        ("fpr_low", Number(|row| row.fpr.low), LOW),
        ("fpr_high", Number(|row| row.fpr.high), HIGH),
        ("ppv", Number(|row| row.ppv.rate), "positives among the labelled selected"),
        ("ppv_low", Number(|row| row.ppv.low), LOW),
        ("ppv_high", Number(|row| row.ppv.high), HIGH),
        ("score_mean", Number(|row| row.score_mean), "mean probability"),
        ("observed_rate", Number(|row| row.observed_rate), "positives among the labelled"),
        ("ece", Number(|row| row.ece), "expected calibration error over tenths"),
        ("selection_rate_difference", Number(|row| row.differences[0]), "group less reference group"),
        ("tpr_difference", Number(|row| row.differences[1]), "group less reference group"),
        ("fpr_difference", Number(|row| row.differences[2]), "group less reference group"),
        ("ppv_difference", Number(|row| row.differences[3]), "group less reference group"),
        ("selection_rate_ratio", Number(|row| row.ratios[0]), "group by reference group"),
        ("tpr_ratio", Number(|row| row.ratios[1]), "group by reference group"),
        ("fpr_ratio", Number(|row| row.ratios[2]), "group by reference group"),
        ("ppv_ratio", Number(|row| row.ratios[3]), "group by reference group"),
        ("below_four_fifths", Flag(|row| row.below_four_fifths), "their ratio is below 0.8 or above 1.25"),
        ("verdict", Text(|row| row.verdict.name()), "none, watch, act or insufficient"),
    ]
}

/// `alerts`.
pub(super) fn alerts() -> Vec<Said<Alert>> {
    use From::{Count, Number, Part, Text, Time};
    vec![
        ("table", Text(|row| row.table), "whose verdict it is about: shifts, quality, performance or fairness"),
        ("feature", Text(|row| row.feature), "the feature, or what else those rows are about: of quality the measure"),
        ("group", Part(|row| row.group), "the group; of quality the topic"),
        ("current_start", Time(|row| row.current.0), "inclusive"),
        ("current_end", Time(|row| row.current.1), "exclusive"),
        ("state", Text(|row| row.state.name()), "raised, cleared or withdrawn"),
        ("statistic", Text(|row| row.statistic), "which the verdict comes from"),
        ("value", Number(|row| row.value), "its value in this window"),
        ("windows_held", Count(|row| row.windows_held.into()), "windows in a row that said the same"),
    ]
}
