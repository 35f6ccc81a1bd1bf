//! The tables against the guidelines written once more, as chains of `if`, on a grid of pressures and one step around every border.

use super::*;
use crate::signals::{DIASTOLIC, MEAN_ARTERIAL, SYSTOLIC};

fn vitals(systolic: f64, diastolic: f64) -> Vitals {
    let mut signals = Signals::default();
    assert!(signals.insert(SYSTOLIC, systolic));
    assert!(signals.insert(DIASTOLIC, diastolic));
    Vitals::new(&signals, f64::NAN)
}

/// Category and reasons as somebody would write them down who has never seen the tables.
fn naive(set: &str, s: f64, d: f64) -> (&'static str, Vec<&'static str>) {
    match set {
        "acc_aha_2017" => (naive_acc_aha(s, d), naive_acc_aha_reasons(s, d)),
        "esc_2024" => naive_esc(s, d),
        "esh_2023" => naive_esh(s, d),
        _ => (naive_acc_aha(s, d), naive_legacy(s, d)),
    }
}

fn naive_acc_aha(s: f64, d: f64) -> &'static str {
    if s > 180.0 || d > 120.0 {
        "crisis"
    } else if s >= 140.0 || d >= 90.0 {
        "stage 2"
    } else if s >= 130.0 || d >= 80.0 {
        "stage 1"
    } else if s >= 120.0 {
        "elevated"
    } else {
        "normal"
    }
}

fn naive_acc_aha_reasons(s: f64, d: f64) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if s > 180.0 {
        reasons.push("systolic_crisis");
    } else if s >= 140.0 {
        reasons.push("systolic_stage_2");
    }
    if d > 120.0 {
        reasons.push("diastolic_crisis");
    } else if d >= 90.0 {
        reasons.push("diastolic_stage_2");
    }
    naive_low(s, d, &mut reasons);
    reasons
}

fn naive_low(s: f64, d: f64, reasons: &mut Vec<&'static str>) {
    if s < 90.0 {
        reasons.push("hypotension_systolic");
    }
    if d + (s - d) / 3.0 < 65.0 {
        reasons.push("hypotension_map_estimated");
    }
}

fn naive_esc(s: f64, d: f64) -> (&'static str, Vec<&'static str>) {
    let category = if s >= 140.0 || d >= 90.0 {
        "hypertension"
    } else if s >= 120.0 || d >= 70.0 {
        "elevated"
    } else {
        "non-elevated"
    };
    let mut reasons = Vec::new();
    if s >= 180.0 {
        reasons.push("systolic_severe");
    } else if s >= 140.0 {
        reasons.push("systolic_hypertension");
    }
    if d >= 110.0 {
        reasons.push("diastolic_severe");
    } else if d >= 90.0 {
        reasons.push("diastolic_hypertension");
    }
    naive_low(s, d, &mut reasons);
    (category, reasons)
}

fn naive_esh(s: f64, d: f64) -> (&'static str, Vec<&'static str>) {
    let grade = |value: f64, limits: [f64; 5]| limits.iter().filter(|&&limit| value >= limit).count();
    let systolic = grade(s, [120.0, 130.0, 140.0, 160.0, 180.0]);
    let diastolic = grade(d, [80.0, 85.0, 90.0, 100.0, 110.0]);
    let names = ["optimal", "normal", "high-normal", "grade 1", "grade 2", "grade 3"];
    let mut reasons = Vec::new();
    if systolic >= 3 {
        reasons.push(["systolic_grade_1", "systolic_grade_2", "systolic_grade_3"][systolic - 3]);
    }
    if diastolic >= 3 {
        reasons.push(["diastolic_grade_1", "diastolic_grade_2", "diastolic_grade_3"][diastolic - 3]);
    }
    if s >= 140.0 && d < 90.0 {
        reasons.push("isolated_systolic");
    }
    naive_low(s, d, &mut reasons);
    (names[systolic.max(diastolic)], reasons)
}

fn naive_legacy(s: f64, d: f64) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if s > 140.0 {
        reasons.push("hypertension_systolic");
    }
    if s < 90.0 {
        reasons.push("hypotension_systolic");
    }
    if d > 90.0 {
        reasons.push("hypertension_diastolic");
    }
    if d < 60.0 {
        reasons.push("hypotension_diastolic");
    }
    reasons
}

fn compare(set: &RuleSet, systolic: f64, diastolic: f64) {
    let verdict = set.judge(&vitals(systolic, diastolic));
    let (category, mut reasons) = naive(set.name, systolic, diastolic);
    let mut found: Vec<_> = set.names(verdict.fired).collect();
    found.sort_unstable();
    reasons.sort_unstable();
    assert_eq!(verdict.category, Some(category), "{} {systolic}/{diastolic}", set.name);
    assert_eq!(found, reasons, "{} {systolic}/{diastolic}", set.name);
}

fn pressure_sets() -> impl Iterator<Item = &'static RuleSet> {
    rule_sets().iter().filter(|set| matches!(set.categories, Categories::Pressure(_)))
}

#[test]
fn every_half_millimetre_of_mercury_is_judged_as_by_hand() {
    for set in pressure_sets() {
        for systolic in 40..640 {
            for diastolic in 20..440 {
                compare(set, f64::from(systolic) / 2.0, f64::from(diastolic) / 2.0);
            }
        }
    }
}

#[test]
fn one_step_around_every_border_is_judged_as_by_hand() {
    let borders = [60.0, 65.0, 70.0, 80.0, 85.0, 90.0, 100.0, 110.0, 120.0, 130.0, 140.0, 160.0, 180.0];
    let around: Vec<f64> = borders.iter().flat_map(|&at: &f64| [at.next_down(), at, at.next_up()]).collect();
    for set in pressure_sets() {
        for &systolic in &around {
            for &diastolic in &around {
                compare(set, systolic, diastolic);
            }
        }
    }
}

#[test]
fn bands_are_half_open_on_the_unrounded_value() {
    let category = |systolic, diastolic| ACC.judge(&vitals(systolic, diastolic)).category;
    assert_eq!(category(129.9, 70.0), Some("elevated"));
    assert_eq!(category(180.65, 70.0), Some("crisis"));
    assert_eq!(category(119.99, 70.0), Some("normal"));
    assert_eq!(category(180.0, 120.0), Some("stage 2"));
    assert_eq!(category(118.0, 84.0), Some("stage 1"));
}

/// The default rule set.
const ACC: &RuleSet = &guidelines::ACC_AHA_2017;

#[test]
fn both_labels_are_given_when_both_fire() {
    for (name, expected) in [
        ("legacy_real_time_monitoring", ["hypertension_systolic", "hypotension_diastolic"]),
        ("legacy_readings_envelope", ["Hypertension", "Hypotension"]),
        ("legacy_fhir_anomalies", ["hypertension", "hypotension"]),
    ] {
        let set = rule_set(name).unwrap();
        let reasons: Vec<_> = set.names(set.judge(&vitals(170.0, 55.0)).fired).collect();
        assert_eq!(reasons, ["hypertension_systolic", "hypotension_diastolic"]);
        assert_eq!(set.labels(reasons).as_slice(), expected);
    }
    let envelope = rule_set("legacy_readings_envelope").unwrap();
    assert_eq!(envelope.labels(["hypertension_systolic", "hypertension_diastolic"]).as_slice(), ["Hypertension"]);
    assert!(envelope.labels(["below_baseline"]).is_empty());
}

#[test]
fn a_reading_below_hypertension_has_no_reasons() {
    for set in pressure_sets().take(3) {
        assert_eq!(set.judge(&vitals(138.0, 88.0)).fired, 0, "{}", set.name);
        assert_eq!(set.judge(&vitals(118.0, 78.0)).fired, 0, "{}", set.name);
    }
}

#[test]
fn a_measured_mean_is_preferred_to_the_estimate() {
    let mut signals = Signals::default();
    for (signal, value) in [(SYSTOLIC, 100.0), (DIASTOLIC, 45.0), (MEAN_ARTERIAL, 66.0)] {
        assert!(signals.insert(signal, value));
    }
    assert_eq!(ACC.judge(&Vitals::new(&signals, f64::NAN)).fired, 0);
    let estimated: Vec<_> = ACC.names(ACC.judge(&vitals(100.0, 45.0)).fired).collect();
    assert_eq!(estimated, ["hypotension_map_estimated"]);
}

#[test]
fn a_fall_of_thirty_percent_below_the_own_baseline_fires() {
    let fired = |systolic, baseline| {
        let mut signals = Signals::default();
        assert!(signals.insert(SYSTOLIC, systolic) && signals.insert(DIASTOLIC, 80.0));
        ACC.names(ACC.judge(&Vitals::new(&signals, baseline)).fired).collect::<Vec<_>>()
    };
    assert_eq!(fired(112.0, 160.0), ["below_baseline"]);
    assert!(fired(112.1, 160.0).is_empty());
    assert!(fired(112.0, f64::NAN).is_empty());
    assert!(fired(200.0, 160.0) == ["systolic_crisis"]);
}

#[test]
fn a_partial_reading_has_no_category_and_only_reasons_of_what_is_there() {
    let mut signals = Signals::default();
    assert!(signals.insert(SYSTOLIC, 60.0));
    let palpated = Vitals::new(&signals, f64::NAN);
    let verdict = ACC.judge(&palpated);
    assert_eq!((verdict.category, verdict.complete), (None, false));
    assert_eq!(ACC.names(verdict.fired).collect::<Vec<_>>(), ["hypotension_systolic"]);
    assert_eq!(rule_set("legacy_fhir_anomalies").unwrap().judge(&palpated).fired, 0);

    let nothing = Vitals::new(&Signals::default(), f64::NAN);
    assert!(rule_sets().iter().all(|set| {
        let verdict = set.judge(&nothing);
        verdict == Verdict { category: None, fired: 0, complete: false }
    }));
}

#[test]
fn tables_are_well_formed() {
    for (index, set) in rule_sets().iter().enumerate() {
        assert!(set.rules.len() <= RULES_MAX, "{}", set.name);
        assert!(rule_sets()[..index].iter().all(|other| other.name != set.name));
        for (index, rule) in set.rules.iter().enumerate() {
            assert!(set.rules[..index].iter().all(|other| other.name != rule.name), "{}", rule.name);
            assert!(!rule.source.is_empty(), "{}", rule.name);
        }
    }
    assert_eq!(rule_sets()[0].name, "acc_aha_2017");
    assert!(rule_set("seed").is_none());
}

#[test]
fn quantities_that_are_signals_have_the_signals_number() {
    use crate::signals::{HEART_RATE, OXYGEN_SATURATION, RESPIRATORY_RATE, SignalId, TEMPERATURE};
    for (quantity, signal) in [
        (Quantity::Systolic, SYSTOLIC),
        (Quantity::Diastolic, DIASTOLIC),
        (Quantity::MeanArterial, MEAN_ARTERIAL),
        (Quantity::HeartRate, HEART_RATE),
        (Quantity::RespiratoryRate, RESPIRATORY_RATE),
        (Quantity::OxygenSaturation, OXYGEN_SATURATION),
        (Quantity::Temperature, TEMPERATURE),
    ] {
        assert_eq!(SignalId(quantity as u8), signal);
    }
}
