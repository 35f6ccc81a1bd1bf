//! NEWS2, the National Early Warning Score 2 of the Royal College of Physicians, as far as one observation carries its parameters.
//!
//! Royal College of Physicians. National Early Warning Score (NEWS) 2: Standardising the assessment of acute-illness severity in
//! the NHS. Updated report of a working party. London: RCP, 2017. The RCP is acknowledged as holder of the copyright; the chart
//! itself is not reproduced.
//!
//! What is and is not scored:
//! * Five of the seven parameters: respiratory rate, saturation (scale 1), systolic pressure, pulse, temperature. Supplemental
//!   oxygen and consciousness are no signals here, so air and *alert* are assumed: the aggregate is a **lower bound**.
//! * The aggregate and with it the category need all five in one observation. With fewer only single red scores are given.
//! * Scale 2 (hypercapnic respiratory failure) is a clinician's decision about one patient and is not used.
//! * Not for under 16 years and not in pregnancy.
//!
//! The chart has whole numbers (temperature: tenths). An unrounded value belongs to the chart's band that begins at or below it.

use super::rules::{Categories, Quantity, Range, Rule, RuleSet, Vitals};

const CHART: &str = "RCP, NEWS2 (2017), chart 1: the NEWS scoring system";
const TRIGGERS: &str = "RCP, NEWS2 (2017), chart 2: thresholds and triggers";

/// From this aggregate on: urgent response.
const MEDIUM: f64 = 5.0;
/// From this aggregate on: emergency response.
const HIGH: f64 = 7.0;
/// Points of a red score.
const RED: u8 = 3;

/// NEWS2, scale 1.
pub(super) const NEWS2: RuleSet = RuleSet {
    name: "news2",
    title: "NEWS2 (Royal College of Physicians 2017)",
    source: "Royal College of Physicians. National Early Warning Score (NEWS) 2. Updated report of a working party. London: RCP, 2017",
    note: "Air, alert and saturation scale 1 are assumed, so the aggregate is a lower bound. Not under 16 years, not in pregnancy.",
    categories: Categories::News2,
    rules: &[
        rule("aggregate_medium", Quantity::News2Aggregate, Range::from(MEDIUM).until(HIGH), TRIGGERS),
        rule("aggregate_high", Quantity::News2Aggregate, Range::from(HIGH), TRIGGERS),
        rule("red_systolic_low", Quantity::Systolic, Range::below(91.0), CHART),
        rule("red_systolic_high", Quantity::Systolic, Range::from(220.0), CHART),
        rule("red_respiratory_rate_low", Quantity::RespiratoryRate, Range::below(9.0), CHART),
        rule("red_respiratory_rate_high", Quantity::RespiratoryRate, Range::from(25.0), CHART),
        rule("red_oxygen_saturation_low", Quantity::OxygenSaturation, Range::below(92.0), CHART),
        rule("red_heart_rate_low", Quantity::HeartRate, Range::below(41.0), CHART),
        rule("red_heart_rate_high", Quantity::HeartRate, Range::from(131.0), CHART),
        rule("red_temperature_low", Quantity::Temperature, Range::below(35.1), CHART),
    ],
    required: &[Quantity::Systolic],
    partial_reasons: true,
};

/// The categories, by rising response: name, wording, what leads there.
pub(super) const CATEGORIES: [(&str, &str, &str); 4] = [
    ("low", "low clinical risk by NEWS2", "aggregate 0 to 4, no red score"),
    ("low-medium", "low-medium clinical risk by NEWS2", "aggregate 0 to 4 with a red score (3 in one parameter)"),
    ("medium", "medium clinical risk by NEWS2", "aggregate 5 to 6"),
    ("high", "high clinical risk by NEWS2", "aggregate 7 or more"),
];

/// A parameter of the chart: where each band begins (the first has no beginning) and the points it gives.
pub(super) struct Parameter {
    pub(super) quantity: Quantity,
    pub(super) bands: &'static [(f64, u8)],
}

/// The chart's columns that have a signal.
pub(super) const PARAMETERS: [Parameter; 5] = [
    Parameter {
        quantity: Quantity::RespiratoryRate,
        bands: &[(f64::NEG_INFINITY, 3), (9.0, 1), (12.0, 0), (21.0, 2), (25.0, 3)],
    },
    Parameter {
        quantity: Quantity::OxygenSaturation,
        bands: &[(f64::NEG_INFINITY, 3), (92.0, 2), (94.0, 1), (96.0, 0)],
    },
    Parameter {
        quantity: Quantity::Systolic,
        bands: &[(f64::NEG_INFINITY, 3), (91.0, 2), (101.0, 1), (111.0, 0), (220.0, 3)],
    },
    Parameter {
        quantity: Quantity::HeartRate,
        bands: &[(f64::NEG_INFINITY, 3), (41.0, 1), (51.0, 0), (91.0, 1), (111.0, 2), (131.0, 3)],
    },
    Parameter {
        quantity: Quantity::Temperature,
        bands: &[(f64::NEG_INFINITY, 3), (35.1, 1), (36.1, 0), (38.1, 1), (39.1, 2)],
    },
];

/// The aggregate of the five parameters, 0 to 14 points; `None` unless all are known.
pub(super) fn aggregate(vitals: &Vitals) -> Option<u8> {
    PARAMETERS.iter().try_fold(0, |total, parameter| Some(total + parameter.points(vitals)?))
}

/// The category; `None` unless all five parameters are known.
pub(super) fn category(vitals: &Vitals) -> Option<&'static str> {
    let [low, low_medium, medium, high] = CATEGORIES.map(|(name, ..)| name);
    let aggregate = vitals.get(Quantity::News2Aggregate);
    if aggregate.is_nan() {
        return None;
    }
    let red = || PARAMETERS.iter().any(|parameter| parameter.points(vitals) == Some(RED));
    Some(match aggregate {
        total if total >= HIGH => high,
        total if total >= MEDIUM => medium,
        _ if red() => low_medium,
        _ => low,
    })
}

impl Parameter {
    /// The points of this parameter; `None` if it is unknown.
    fn points(&self, vitals: &Vitals) -> Option<u8> {
        let value = vitals.get(self.quantity);
        self.bands.iter().rev().find(|(from, _)| value >= *from).map(|(_, points)| *points)
    }
}

const fn rule(name: &'static str, quantity: Quantity, range: Range, source: &'static str) -> Rule {
    Rule { name, label: name, quantity, range, and: None, alarms: true, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{HEART_RATE, OXYGEN_SATURATION, RESPIRATORY_RATE, SYSTOLIC, SignalId, TEMPERATURE};
    use crate::vocabulary::Signals;

    fn vitals(values: &[(SignalId, f64)]) -> Vitals {
        let mut signals = Signals::default();
        assert!(values.iter().all(|&(signal, value)| signals.insert(signal, value)));
        Vitals::new(&signals, f64::NAN)
    }

    fn all(respiratory: f64, saturation: f64, systolic: f64, pulse: f64, temperature: f64) -> Vitals {
        vitals(&[
            (RESPIRATORY_RATE, respiratory),
            (OXYGEN_SATURATION, saturation),
            (SYSTOLIC, systolic),
            (HEART_RATE, pulse),
            (TEMPERATURE, temperature),
        ])
    }

    #[test]
    fn the_uk_core_example_scores_five_by_the_chart() {
        // The example's own text says 6, because it scores 37.5 °C as 1; the chart gives 0 for 36.1 to 38.0.
        let example = all(21.0, 93.0, 120.0, 95.0, 37.5);
        assert_eq!(aggregate(&example), Some(5));
        assert_eq!(category(&example), Some("medium"));
    }

    #[test]
    fn categories_follow_the_triggers() {
        assert_eq!(category(&all(16.0, 97.0, 120.0, 70.0, 37.0)), Some("low"));
        assert_eq!(category(&all(16.0, 97.0, 90.0, 70.0, 37.0)), Some("low-medium"));
        assert_eq!(category(&all(16.0, 97.0, 100.0, 120.0, 36.0)), Some("medium"));
        assert_eq!(category(&all(25.0, 91.0, 100.0, 70.0, 37.0)), Some("high"));
    }

    #[test]
    fn without_all_five_there_is_no_aggregate_but_red_scores_are_given() {
        let pressure_only = vitals(&[(SYSTOLIC, 85.0)]);
        assert_eq!(aggregate(&pressure_only), None);
        assert_eq!(category(&pressure_only), None);
        let verdict = NEWS2.judge(&pressure_only);
        assert_eq!(NEWS2.names(verdict.fired).collect::<Vec<_>>(), ["red_systolic_low"]);
    }

    /// The chart once more, as it is printed: whole numbers with both ends.
    fn points_by_chart(quantity: Quantity, value: i32) -> u8 {
        match (quantity, value) {
            (Quantity::RespiratoryRate, ..=8) => 3,
            (Quantity::RespiratoryRate, 9..=11) => 1,
            (Quantity::RespiratoryRate, 12..=20) => 0,
            (Quantity::RespiratoryRate, 21..=24) => 2,
            (Quantity::RespiratoryRate, 25..) => 3,
            (Quantity::OxygenSaturation, ..=91) => 3,
            (Quantity::OxygenSaturation, 92..=93) => 2,
            (Quantity::OxygenSaturation, 94..=95) => 1,
            (Quantity::OxygenSaturation, 96..) => 0,
            (Quantity::Systolic, ..=90) => 3,
            (Quantity::Systolic, 91..=100) => 2,
            (Quantity::Systolic, 101..=110) => 1,
            (Quantity::Systolic, 111..=219) => 0,
            (Quantity::Systolic, 220..) => 3,
            (Quantity::HeartRate, ..=40) => 3,
            (Quantity::HeartRate, 41..=50) => 1,
            (Quantity::HeartRate, 51..=90) => 0,
            (Quantity::HeartRate, 91..=110) => 1,
            (Quantity::HeartRate, 111..=130) => 2,
            (Quantity::HeartRate, 131..) => 3,
            _ => unreachable!("temperature is tested in tenths"),
        }
    }

    #[test]
    fn every_whole_number_scores_as_printed() {
        for (quantity, signal) in [
            (Quantity::RespiratoryRate, RESPIRATORY_RATE),
            (Quantity::OxygenSaturation, OXYGEN_SATURATION),
            (Quantity::Systolic, SYSTOLIC),
            (Quantity::HeartRate, HEART_RATE),
        ] {
            let parameter = PARAMETERS.iter().find(|parameter| parameter.quantity == quantity).unwrap();
            for value in 0..=320 {
                let points = parameter.points(&vitals(&[(signal, f64::from(value))]));
                assert_eq!(points, Some(points_by_chart(quantity, value)), "{quantity:?} {value}");
            }
        }
        let temperature = PARAMETERS.iter().find(|parameter| parameter.quantity == Quantity::Temperature).unwrap();
        for tenths in 300..=430 {
            let expected = match tenths {
                ..=350 => 3,
                351..=360 => 1,
                361..=380 => 0,
                381..=390 => 1,
                391.. => 2,
            };
            let value = f64::from(tenths) / 10.0;
            assert_eq!(temperature.points(&vitals(&[(TEMPERATURE, value)])), Some(expected), "{value}");
        }
    }

    #[test]
    fn red_rules_fire_exactly_where_the_chart_gives_three_points() {
        for parameter in &PARAMETERS {
            let signal = SignalId(parameter.quantity as u8);
            for tenths in 0..=3200 {
                let vitals = vitals(&[(signal, f64::from(tenths) / 10.0)]);
                let red = NEWS2.names(NEWS2.judge(&vitals).fired).count();
                assert_eq!(red == 1, parameter.points(&vitals) == Some(RED), "{signal:?} {tenths}");
            }
        }
    }
}
