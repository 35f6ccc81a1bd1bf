//! The rules of three earlier pipelines, kept so that their dashboards go on working.
//!
//! All three ask the same four questions (systolic > 140 or < 90, diastolic > 90 or < 60) and differ in what they call the answers.
//! Where they disagreed about which answer comes first (170/55 is both), both are given.
//!
//! They never alarm: on the cuff readings of the eICU demo they flag 60.8 % of all readings and 96.4 % of stays on the first day,
//! which says nothing about anybody (docs/clinical.md). Choose a guideline's set for alarms.

use super::guidelines::ACC_AHA_2017;
use super::rules::{Quantity, Range, Rule, RuleSet};

const SOURCE: &str = "the pipeline that this set replaces; no guideline";
const NOTE: &str = "Categories are those of acc_aha_2017. Strict limits: 140 and 90 themselves fire nothing above, 90 and 60 nothing below. Never alarms.";
const BOTH: &[Quantity] = &[Quantity::Systolic, Quantity::Diastolic];

/// `real_time_monitoring.toml`: each rule is a label of its own.
pub(super) const REAL_TIME_MONITORING: RuleSet = RuleSet {
    name: "legacy_real_time_monitoring",
    title: "Legacy: real-time monitoring",
    source: "pipeline of topic blood-pressure and index bp-anomalies",
    note: NOTE,
    categories: ACC_AHA_2017.categories,
    rules: &four("hypertension_systolic", "hypotension_systolic", "hypertension_diastolic", "hypotension_diastolic"),
    required: BOTH,
    partial_reasons: false,
};

/// `readings_envelope.toml`: `anomaly_type` is capitalised.
pub(super) const READINGS_ENVELOPE: RuleSet = RuleSet {
    name: "legacy_readings_envelope",
    title: "Legacy: readings envelope",
    source: "pipeline of topic blood_pressure_readings and index blood_pressure_anomalies_v2",
    note: NOTE,
    categories: ACC_AHA_2017.categories,
    rules: &four("Hypertension", "Hypotension", "Hypertension", "Hypotension"),
    required: BOTH,
    partial_reasons: false,
};

/// `fhir_anomalies.toml`: lower case.
pub(super) const FHIR_ANOMALIES: RuleSet = RuleSet {
    name: "legacy_fhir_anomalies",
    title: "Legacy: FHIR anomalies",
    source: "pipeline that archives normal readings as JSON and indexes hypotension and hypertension",
    note: NOTE,
    categories: ACC_AHA_2017.categories,
    rules: &four("hypertension", "hypotension", "hypertension", "hypotension"),
    required: BOTH,
    partial_reasons: false,
};

/// The four rules, under the labels of one pipeline: systolic high and low, diastolic high and low.
const fn four(
    systolic_high: &'static str,
    systolic_low: &'static str,
    diastolic_high: &'static str,
    diastolic_low: &'static str,
) -> [Rule; 4] {
    [
        rule("hypertension_systolic", systolic_high, Quantity::Systolic, Range::above(140.0)),
        rule("hypotension_systolic", systolic_low, Quantity::Systolic, Range::below(90.0)),
        rule("hypertension_diastolic", diastolic_high, Quantity::Diastolic, Range::above(90.0)),
        rule("hypotension_diastolic", diastolic_low, Quantity::Diastolic, Range::below(60.0)),
    ]
}

const fn rule(name: &'static str, label: &'static str, quantity: Quantity, range: Range) -> Rule {
    Rule { name, label, quantity, range, and: None, alarms: false, source: SOURCE }
}
