//! The blood pressure guidelines as tables: ACC/AHA 2017, ESC 2024, ESH 2023.
//!
//! Categories are the guidelines' own. Reasons are chosen so that a ward is not flooded (docs/clinical.md has the figures):
//! * bands below hypertension (elevated, stage 1, high-normal) give no reason;
//! * hypertension gives a reason that never alarms;
//! * what a guideline calls a crisis or severe, hypotension, and a fall below the patient's own baseline may alarm.
//!
//! None of the three guidelines has a band for low pressure, so 85/50 is `normal` to them: the reason says what the category cannot.

use super::rules::{Band, Categories, Quantity, Range, Rule, RuleSet};

const ACC_AHA: &str = "Whelton et al., Hypertension 2018;71:e13-e115, Table 6";
const ACC_AHA_CRISIS: &str = "Whelton et al., Hypertension 2018;71:e13-e115, section 11.2";
const ESC: &str = "McEvoy et al., Eur Heart J 2024;45:3912-4018, section 6, categories of blood pressure";
const ESC_SEVERE: &str = "McEvoy et al., Eur Heart J 2024;45:3912-4018, section 10, acute and short-term lowering";
const ESH: &str = "Mancia et al., J Hypertens 2023;41:1874-2071, classification of office blood pressure";
const SHOCK: &str =
    "Cecconi et al., Intensive Care Med 2014;40:1795-1815, definition of arterial hypotension; no agreed cut outside shock";
const OWN_BASELINE: &str = "no guideline; eICU demo, own analysis: 1.3 % of readings, 0.38 episodes a patient-day";

/// Both pressures: with one of them a reading is partial.
const BOTH: &[Quantity] = &[Quantity::Systolic, Quantity::Diastolic];

/// From how many recent readings on the baseline is the patient's own; below, `patient` blends it with a population's and the
/// rule `below_baseline` is silent. Equals the default of `patient.baseline_readings_min`.
pub(super) const BASELINE_READINGS_MIN: f64 = 6.0;

/// ACC/AHA 2017, the default.
pub(super) const ACC_AHA_2017: RuleSet = RuleSet {
    name: "acc_aha_2017",
    title: "ACC/AHA 2017",
    source: "2017 ACC/AHA guideline for high blood pressure in adults; the bands are unchanged in the 2025 AHA/ACC guideline",
    note: "A diagnosis needs the mean of two or more readings on two or more occasions. A crisis is a clinical judgement: say crisis-range reading.",
    categories: Categories::Pressure(&[
        Band {
            category: "normal",
            wording: "reading in the normal range",
            systolic: Some(Range::below(120.0)),
            diastolic: Some(Range::below(80.0)),
        },
        Band {
            category: "elevated",
            wording: "reading in the elevated range",
            systolic: Some(Range::from(120.0).until(130.0)),
            diastolic: None,
        },
        Band {
            category: "stage 1",
            wording: "reading in the stage 1 range",
            systolic: Some(Range::from(130.0).until(140.0)),
            diastolic: Some(Range::from(80.0).until(90.0)),
        },
        Band {
            category: "stage 2",
            wording: "reading in the stage 2 range",
            systolic: Some(Range::from(140.0).up_to(180.0)),
            diastolic: Some(Range::from(90.0).up_to(120.0)),
        },
        Band {
            category: "crisis",
            wording: "crisis-range reading",
            systolic: Some(Range::above(180.0)),
            diastolic: Some(Range::above(120.0)),
        },
    ]),
    rules: &[
        high("systolic_stage_2", Quantity::Systolic, Range::from(140.0).up_to(180.0), false, ACC_AHA),
        high("systolic_crisis", Quantity::Systolic, Range::above(180.0), true, ACC_AHA_CRISIS),
        high("diastolic_stage_2", Quantity::Diastolic, Range::from(90.0).up_to(120.0), false, ACC_AHA),
        high("diastolic_crisis", Quantity::Diastolic, Range::above(120.0), true, ACC_AHA_CRISIS),
        HYPOTENSION_SYSTOLIC,
        HYPOTENSION_MAP,
        HYPOTENSION_MAP_ESTIMATED,
        BELOW_BASELINE,
    ],
    required: BOTH,
    partial_reasons: true,
};

/// ESC 2024.
pub(super) const ESC_2024: RuleSet = RuleSet {
    name: "esc_2024",
    title: "ESC 2024",
    source: "2024 ESC guidelines for elevated blood pressure and hypertension",
    note: "Office readings of adults; confirmation outside the office is part of the guideline.",
    categories: Categories::Pressure(&[
        Band {
            category: "non-elevated",
            wording: "reading in the non-elevated range",
            systolic: Some(Range::below(120.0)),
            diastolic: Some(Range::below(70.0)),
        },
        Band {
            category: "elevated",
            wording: "reading in the elevated range",
            systolic: Some(Range::from(120.0).until(140.0)),
            diastolic: Some(Range::from(70.0).until(90.0)),
        },
        Band {
            category: "hypertension",
            wording: "reading in the hypertension range",
            systolic: Some(Range::from(140.0)),
            diastolic: Some(Range::from(90.0)),
        },
    ]),
    rules: &[
        high("systolic_hypertension", Quantity::Systolic, Range::from(140.0).until(180.0), false, ESC),
        high("systolic_severe", Quantity::Systolic, Range::from(180.0), true, ESC_SEVERE),
        high("diastolic_hypertension", Quantity::Diastolic, Range::from(90.0).until(110.0), false, ESC),
        high("diastolic_severe", Quantity::Diastolic, Range::from(110.0), true, ESC_SEVERE),
        HYPOTENSION_SYSTOLIC,
        HYPOTENSION_MAP,
        HYPOTENSION_MAP_ESTIMATED,
        BELOW_BASELINE,
    ],
    required: BOTH,
    partial_reasons: true,
};

/// ESH 2023, the bands of ESC/ESH 2018.
pub(super) const ESH_2023: RuleSet = RuleSet {
    name: "esh_2023",
    title: "ESH 2023",
    source: "2023 ESH guidelines for the management of arterial hypertension; the bands of ESC/ESH 2018",
    note: "Office readings of adults. Isolated systolic hypertension keeps its grade as category and is told by a reason.",
    categories: Categories::Pressure(&[
        Band {
            category: "optimal",
            wording: "reading in the optimal range",
            systolic: Some(Range::below(120.0)),
            diastolic: Some(Range::below(80.0)),
        },
        Band {
            category: "normal",
            wording: "reading in the normal range",
            systolic: Some(Range::from(120.0).until(130.0)),
            diastolic: Some(Range::from(80.0).until(85.0)),
        },
        Band {
            category: "high-normal",
            wording: "reading in the high-normal range",
            systolic: Some(Range::from(130.0).until(140.0)),
            diastolic: Some(Range::from(85.0).until(90.0)),
        },
        Band {
            category: "grade 1",
            wording: "reading in the grade 1 range",
            systolic: Some(Range::from(140.0).until(160.0)),
            diastolic: Some(Range::from(90.0).until(100.0)),
        },
        Band {
            category: "grade 2",
            wording: "reading in the grade 2 range",
            systolic: Some(Range::from(160.0).until(180.0)),
            diastolic: Some(Range::from(100.0).until(110.0)),
        },
        Band {
            category: "grade 3",
            wording: "reading in the grade 3 range",
            systolic: Some(Range::from(180.0)),
            diastolic: Some(Range::from(110.0)),
        },
    ]),
    rules: &[
        high("systolic_grade_1", Quantity::Systolic, Range::from(140.0).until(160.0), false, ESH),
        high("systolic_grade_2", Quantity::Systolic, Range::from(160.0).until(180.0), false, ESH),
        high("systolic_grade_3", Quantity::Systolic, Range::from(180.0), true, ESH),
        high("diastolic_grade_1", Quantity::Diastolic, Range::from(90.0).until(100.0), false, ESH),
        high("diastolic_grade_2", Quantity::Diastolic, Range::from(100.0).until(110.0), false, ESH),
        high("diastolic_grade_3", Quantity::Diastolic, Range::from(110.0), true, ESH),
        Rule {
            name: "isolated_systolic",
            label: "hypertension",
            quantity: Quantity::Systolic,
            range: Range::from(140.0),
            and: Some((Quantity::Diastolic, Range::below(90.0))),
            alarms: false,
            source: ESH,
        },
        HYPOTENSION_SYSTOLIC,
        HYPOTENSION_MAP,
        HYPOTENSION_MAP_ESTIMATED,
        BELOW_BASELINE,
    ],
    required: BOTH,
    partial_reasons: true,
};

const HYPOTENSION_SYSTOLIC: Rule = low("hypotension_systolic", Quantity::Systolic, Range::below(90.0), SHOCK);
const HYPOTENSION_MAP: Rule = low("hypotension_map", Quantity::MeanArterial, Range::below(65.0), SHOCK);
/// A name of its own: a reader must see whether the device measured the mean or arithmetic did.
const HYPOTENSION_MAP_ESTIMATED: Rule =
    low("hypotension_map_estimated", Quantity::MeanArterialEstimated, Range::below(65.0), SHOCK);
const BELOW_BASELINE: Rule = low("below_baseline", Quantity::BaselineFall, Range::from(30.0), OWN_BASELINE);

const fn high(name: &'static str, quantity: Quantity, range: Range, alarms: bool, source: &'static str) -> Rule {
    Rule { name, label: "hypertension", quantity, range, and: None, alarms, source }
}

const fn low(name: &'static str, quantity: Quantity, range: Range, source: &'static str) -> Rule {
    Rule { name, label: "hypotension", quantity, range, and: None, alarms: true, source }
}
