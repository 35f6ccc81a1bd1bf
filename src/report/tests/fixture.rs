//! A ward that never was: findings of every kind, written by the sinks themselves. Seeded; for tests alone.
//!
//! Sixty windows of six hours. From window 52 on, readings of people of 80 and older are 9 mmHg higher; the last window is almost empty, as that of a
//! run which has ended. Histograms are drawn from normal distributions, and the statistics are naive ones of those histograms.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::{NdjsonSpec, ParquetSpec};
use crate::runtime::metrics::Metrics;
use crate::sink::files::Folder;
use crate::sink::ndjson::{Ndjson, NdjsonSink};
use crate::sink::parquet::{Parquet, ParquetSink, Provenance};
use crate::sink::tables::{Context, Tables};
use crate::sink::testing::{Hand, NEW_YEAR, many, signals};
use crate::sink::{Deliver, Rows};
use crate::source::Topics;
use crate::time::{Epoch, EventSpan, EventTime};
use crate::vocabulary::TopicId;
use crate::vocabulary::findings::*;

/// Windows with enough readings.
pub(crate) const WINDOWS: i64 = 60;
/// The first window of the shift.
pub(crate) const SHIFTED: i64 = 52;
/// A topic that is nobody's friend.
pub(crate) const HOSTILE: &str = r#"<script>alert('"&</script>"#;

const FEATURES: [(&str, f64, f64); 4] = [
    ("diastolic", 76.0, 11.0),
    ("mean_arterial", 93.0, 12.0),
    ("pulse_pressure", 52.0, 13.0),
    ("systolic", 128.0, 17.0),
];

/// Group, share of the readings, and what is added to the means, mmHg.
const GROUPS: [(&str, f64, f64); 9] = [
    ("all", 1.0, 0.0),
    ("sex=female", 0.54, -1.5),
    ("sex=male", 0.45, 1.5),
    ("sex=unknown", 0.002, 0.0),
    ("age=<18", 0.004, -12.0),
    ("age=18-39", 0.12, -8.0),
    ("age=40-64", 0.31, -1.0),
    ("age=65-79", 0.36, 2.0),
    ("age=80+", 0.20, 4.0),
];

/// The start of a window.
pub(crate) fn window(at: i64) -> Span {
    let start = EventTime::from_micros(NEW_YEAR) + EventSpan::from_seconds(21_600 * at);
    (start, start + EventSpan::from_seconds(21_600))
}

fn reference(at: i64) -> Span {
    (window(at - 28).0, window(at).0)
}

/// Everything that the audit says of the windows before `until`.
pub(crate) fn findings(until: i64, seed: u64) -> Vec<(Epoch, Vec<Finding>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (28..=until).map(|at| (1_000 + at as u64, window_findings(&mut rng, at))).collect()
}

fn window_findings(rng: &mut ChaCha8Rng, at: i64) -> Vec<Finding> {
    // Six hours of a middling hospital; of the last window only minutes.
    let readings = if at >= WINDOWS { 90.0 } else { 6_400.0 * rng.random_range(0.9..1.1) };
    let mut found = Vec::new();
    for (feature, mean, deviation) in FEATURES {
        for (group, share, offset) in GROUPS {
            found.push(Finding::Shift(shift(rng, at, (feature, mean + offset, deviation), (group, readings * share))));
        }
    }
    found.extend(quality(rng, at, readings));
    for (group, share, _) in GROUPS {
        found.push(Finding::Performance(performance(rng, at, group, readings * share)));
    }
    found.extend(fairness(rng, at, readings));
    found.extend(alerts(at, &found));
    found
}

fn moved(at: i64, group: &str) -> f64 {
    let by = if (SHIFTED..WINDOWS).contains(&at) { 9.0 } else { 0.0 };
    match group {
        "age=80+" => by,
        "all" | "sex=female" => by * 0.2,
        _ => 0.0,
    }
}

fn shift(
    rng: &mut ChaCha8Rng,
    at: i64,
    (feature, mean, deviation): (&'static str, f64, f64),
    (group, readings): (&str, f64),
) -> Shift {
    let bin_edges: Vec<f64> = (0..=29).map(|edge| 20.0 + 10.0 * f64::from(edge)).collect();
    let reference_side = side(rng, &bin_edges, mean, deviation, readings.max(30.0) * 28.0);
    let current_side = side(rng, &bin_edges, mean + moved(at, group), deviation, readings);
    let enough = current_side.readings >= 500;
    let statistics = if enough { naive(&bin_edges, &reference_side, &current_side) } else { Statistics::default() };
    Shift {
        feature,
        unit: "mmHg",
        group: group.to_owned(),
        reference: reference(at),
        current: window(at),
        statistic: "psi",
        verdict: match statistics.psi {
            None => Verdict::Insufficient,
            Some(psi) if psi >= 0.25 => Verdict::Act,
            Some(psi) if psi >= 0.1 => Verdict::Watch,
            Some(_) => Verdict::None,
        },
        reference_side,
        current_side,
        bin_edges,
        statistics,
    }
}

/// Readings of a normal distribution, by bins.
fn side(rng: &mut ChaCha8Rng, edges: &[f64], mean: f64, deviation: f64, readings: f64) -> Side {
    let below = |value: f64| 1.0 / (1.0 + (-1.702 * (value - mean) / deviation).exp());
    let bins: Vec<u64> = edges
        .windows(2)
        .map(|pair| {
            let expected = readings * (below(pair[1]) - below(pair[0]));
            (expected + expected.sqrt() * rng.random_range(-1.5..1.5)).max(0.0).round() as u64
        })
        .collect();
    let count: u64 = bins.iter().sum();
    Side {
        readings: count,
        patients: Some(count / 16),
        mean: (count > 0).then(|| mean + rng.random_range(-0.3..0.3)),
        standard_deviation: (count > 1).then_some(deviation + rng.random_range(-0.3..0.3)),
        bins,
    }
}

fn naive(edges: &[f64], reference: &Side, current: &Side) -> Statistics {
    let share = |side: &Side| -> Vec<f64> { side.bins.iter().map(|c| *c as f64 / side.readings as f64).collect() };
    let (r, c) = (share(reference), share(current));
    let pairs = || r.iter().copied().zip(c.iter().copied());
    let floor = |share: f64| if share == 0.0 { 1e-4 } else { share };
    let entropy = |p: f64, q: f64| if p > 0.0 { p * (p / q).log2() } else { 0.0 };
    let (mut gap, mut ks, mut area) = (0.0f64, 0.0f64, 0.0f64);
    for ((r, c), edge) in pairs().zip(edges.windows(2)) {
        gap += r - c;
        ks = ks.max(gap.abs());
        area += gap.abs() * (edge[1] - edge[0]);
    }
    let deviation = reference.standard_deviation.unwrap();
    Statistics {
        psi: Some(
            pairs().filter(|(r, c)| r + c > 0.0).map(|(r, c)| (floor(c) - floor(r)) * (floor(c) / floor(r)).ln()).sum(),
        ),
        jensen_shannon: Some(
            (pairs().map(|(r, c)| entropy(r, (r + c) / 2.0) + entropy(c, (r + c) / 2.0)).sum::<f64>() / 2.0).sqrt(),
        ),
        kolmogorov_smirnov: Some(ks),
        kolmogorov_smirnov_p: Some((2.0 * (-2.0 * ks * ks * current.readings as f64).exp()).min(1.0)),
        wasserstein: Some(area / deviation),
        hellinger: Some((pairs().map(|(r, c)| (r.sqrt() - c.sqrt()).powi(2)).sum::<f64>() / 2.0).sqrt()),
        chi2: Some(
            pairs().filter(|(r, _)| *r > 0.0).map(|(r, c)| (c - r).powi(2) / r).sum::<f64>() * current.readings as f64,
        ),
        chi2_p: Some(0.000_01),
        effect_size: Some((current.mean.unwrap() - reference.mean.unwrap()) / deviation),
    }
}

fn quality(rng: &mut ChaCha8Rng, at: i64, readings: f64) -> Vec<Finding> {
    let measures = [
        ("readings", 0.97),
        ("signal_missing", 0.012),
        ("value_out_of_range", 0.004),
        ("unit_assumed", 0.0),
        ("duplicate", 0.002),
        ("late", 0.015),
        ("clock_ahead", 0.0007),
    ];
    let mut found = Vec::new();
    for (topic, part) in [(TopicId(0), 0.8), (TopicId(1), 0.1), (TopicId(2), 0.05), (TopicId(3), 0.05)] {
        for (measure, usual) in measures {
            let worse = if measure == "late" && at >= 57 && topic == TopicId(0) { 6.0 } else { 1.0 };
            let inputs = (readings * part) as u64;
            let rate = usual * worse * rng.random_range(0.9..1.1);
            found.push(Finding::Quality(Quality {
                topic: Some(topic),
                measure,
                reference: reference(at),
                current: window(at),
                reference_counts: (inputs * 28, (inputs as f64 * 28.0 * usual) as u64),
                current_counts: (inputs, (inputs as f64 * rate.min(1.0)) as u64),
                verdict: match (inputs < 100, worse > 1.0) {
                    (true, _) => Verdict::Insufficient,
                    (_, true) => Verdict::Watch,
                    _ => Verdict::None,
                },
            }));
        }
    }
    found
}

fn goodness(rng: &mut ChaCha8Rng, auroc: f64) -> Goodness {
    let about = |rng: &mut ChaCha8Rng, value: f64| Some(value + rng.random_range(-0.01..0.01));
    Goodness {
        accuracy: about(rng, 0.86),
        auroc: about(rng, auroc),
        brier: about(rng, 0.098),
        sensitivity: about(rng, 0.68),
        specificity: about(rng, 0.89),
        ppv: about(rng, 0.41),
        ece: about(rng, 0.027),
    }
}

fn performance(rng: &mut ChaCha8Rng, at: i64, group: &'static str, readings: f64) -> Performance {
    // Outcomes of the last windows are still to come.
    let labelled = if at >= WINDOWS - 2 { 0 } else { (readings * 0.8) as u64 };
    let patients = (readings / 16.0) as u64;
    let alarms = (readings * 0.012) as u64;
    let enough = labelled >= 500;
    let fallen = if group == "age=80+" && at >= SHIFTED { 0.09 } else { 0.0 };
    Performance {
        group,
        reference: reference(at),
        current: window(at),
        readings: readings as u64,
        patients: Some(patients),
        scored: (readings * 0.99) as u64,
        labelled,
        positives: (labelled as f64 * 0.11) as u64,
        selected: (readings * 0.18) as u64,
        alarms,
        patient_days: Some(patients as f64 / 4.0),
        alarms_per_patient_day: (patients > 0).then(|| alarms as f64 * 4.0 / patients as f64),
        score_mean: Some(0.12 + rng.random_range(-0.01..0.01)),
        observed_rate: enough.then(|| 0.11 + fallen / 2.0),
        measured: if enough { goodness(rng, 0.81 - fallen) } else { Goodness::default() },
        reference_measured: goodness(rng, 0.81),
        estimated: Goodness { ece: None, ..goodness(rng, 0.80) },
        verdict: match (enough, fallen > 0.0) {
            (false, _) => Verdict::Insufficient,
            (_, true) => Verdict::Act,
            _ => Verdict::None,
        },
    }
}

/// Wilson's interval at 95 %.
fn rate(of: f64, share: f64) -> Rate {
    if of < 1.0 {
        return Rate::default();
    }
    let z = 1.96f64;
    let (middle, half) = (
        (share + z * z / (2.0 * of)) / (1.0 + z * z / of),
        z / (1.0 + z * z / of) * (share * (1.0 - share) / of + z * z / (4.0 * of * of)).sqrt(),
    );
    Rate { rate: Some(share), low: Some((middle - half).max(0.0)), high: Some((middle + half).min(1.0)) }
}

fn fairness(rng: &mut ChaCha8Rng, at: i64, readings: f64) -> Vec<Finding> {
    let groups = [
        ("age", "age=<18", 0.004, 0.02),
        ("age", "age=18-39", 0.12, 0.09),
        ("age", "age=40-64", 0.31, 0.16),
        ("age", "age=65-79", 0.36, 0.19),
        ("age", "age=80+", 0.20, 0.31),
        ("comorbidities", "comorbidities=0", 0.58, 0.15),
        ("comorbidities", "comorbidities=1", 0.24, 0.19),
        ("comorbidities", "comorbidities=2-3", 0.14, 0.24),
        ("comorbidities", "comorbidities=4+", 0.03, 0.33),
        ("risk", "risk=HIGH", 0.06, 0.93),
        ("risk", "risk=LOW", 0.71, 0.05),
        ("risk", "risk=MODERATE", 0.23, 0.33),
        ("sex", "sex=female", 0.54, 0.175),
        ("sex", "sex=male", 0.45, 0.19),
        ("sex", "sex=unknown", 0.002, 0.3),
    ];
    let base = |attribute| match attribute {
        "age" => ("age=65-79", 0.19),
        "comorbidities" => ("comorbidities=0", 0.15),
        "risk" => ("risk=LOW", 0.05),
        _ => ("sex=female", 0.175),
    };
    let one = |(attribute, group, share, selected): (&'static str, &'static str, f64, f64)| {
        let (reference_group, usual) = base(attribute);
        let n = (readings * share).floor();
        let labelled = if at >= WINDOWS - 2 { 0.0 } else { (n * 0.8).floor() };
        let selected: f64 = if group == reference_group { usual } else { selected + rng.random_range(-0.005..0.005) };
        let (enough, ratio) = (n >= 100.0, selected / usual);
        let outside = !(0.8..=1.25).contains(&ratio);
        let known = labelled > 0.0;
        Finding::Fairness(Fairness {
            attribute,
            group,
            reference_group,
            current: window(at),
            readings: n as u64,
            patients: Some((n / 16.0) as u64),
            labelled: labelled as u64,
            positives: (labelled * 0.11) as u64,
            selection: rate(n, selected),
            tpr: rate(labelled * 0.11, 0.68),
            fpr: rate(labelled * 0.89, 0.11),
            ppv: rate(labelled * selected, 0.41),
            score_mean: Some(0.12),
            observed_rate: known.then_some(0.11),
            ece: known.then_some(0.03),
            differences: [Some(selected - usual), known.then_some(0.0), known.then_some(0.0), known.then_some(0.0)],
            ratios: [Some(ratio), known.then_some(1.0), known.then_some(1.0), known.then_some(1.0)],
            below_four_fifths: Some(outside),
            verdict: match (enough, outside) {
                (false, _) => Verdict::Insufficient,
                (_, true) if !(0.6..=1.5).contains(&ratio) => Verdict::Act,
                (_, true) => Verdict::Watch,
                _ => Verdict::None,
            },
        })
    };
    groups.map(one).into()
}

fn alerts(at: i64, found: &[Finding]) -> Vec<Finding> {
    let of = |feature: &'static str, at: i64, state, value| {
        Finding::Alert(Alert {
            table: "shifts",
            feature,
            group: Part::Group("age=80+"),
            current: window(at),
            statistic: "psi",
            value,
            windows_held: 3,
            state,
        })
    };
    let psi = found.iter().find_map(|finding| match finding {
        Finding::Shift(shift) if shift.feature == "systolic" && shift.group == "age=80+" => shift.statistics.psi,
        _ => None,
    });
    let late = |topic| {
        Finding::Alert(Alert {
            table: "quality",
            feature: "late",
            group: Part::Topic(Some(TopicId(topic))),
            current: window(at),
            statistic: "current_rate",
            value: Some(0.062),
            windows_held: 3,
            state: AlertState::Raised,
        })
    };
    match at {
        34 => vec![
            of("diastolic", at, AlertState::Raised, Some(0.31)),
            of("pulse_pressure", at, AlertState::Raised, Some(0.28)),
        ],
        38 => vec![
            of("diastolic", at, AlertState::Cleared, Some(0.03)),
            of("pulse_pressure", 34, AlertState::Withdrawn, Some(0.28)),
        ],
        54 => vec![of("systolic", at, AlertState::Raised, psi)],
        59 => vec![late(1), late(2)],
        _ => Vec::new(),
    }
}

/// Makes rows, with topics of every kind.
pub(crate) fn tables() -> Tables {
    Tables::new(Context {
        topics: Topics::continuing(
            &["bp-obs".into(), HOSTILE.into(), "file-0123456789ab".into(), "file-ba9876543210".into()],
            [],
        ),
        signals: signals(false),
        rule_set: "acc_aha_2017".into(),
        model: Some("c0ffee123456".into()),
    })
}

/// Epochs of a checkpoint.
pub(crate) const CHECKPOINT: usize = 8;

/// Writes epochs as Parquet, and some readings.
pub(crate) fn write_parquet(folder: &Path, generation: u64, found: &[(Epoch, Vec<Finding>)]) {
    let spec = ParquetSpec { path: folder.to_owned(), ..ParquetSpec::default() };
    let provenance = Provenance {
        flow: "blood_pressure".into(),
        key_id: "c3ab8ff13720e8ad".into(),
        rule_set: "acc_aha_2017".into(),
        version: "0.1.0".into(),
    };
    let sink = ParquetSink::parquet(&spec, provenance, generation, 0, Hand::new().clock(), Metrics::new()).unwrap();
    deliver(sink, &Folder::of::<Parquet>(folder.into()), found, true);
}

/// The same as NDJSON.
pub(crate) fn write_ndjson(folder: &Path, found: &[(Epoch, Vec<Finding>)]) {
    let spec = NdjsonSpec { path: folder.to_owned(), ..NdjsonSpec::default() };
    let sink = NdjsonSink::ndjson(&spec, 1, 0, Hand::new().clock(), Metrics::new()).unwrap();
    deliver(sink, &Folder::of::<Ndjson>(folder.into()), found, false);
}

fn deliver(mut sink: impl Deliver, folder: &Folder, found: &[(Epoch, Vec<Finding>)], readings: bool) {
    let tables = tables();
    for checkpoint in found.chunks(CHECKPOINT) {
        let mut border = 0;
        for (epoch, found) in checkpoint {
            let mut rows: Vec<Rows> = tables.findings(found.clone(), *epoch);
            if readings {
                rows.push(many(*epoch, 20));
            }
            rows.iter().for_each(|rows| sink.deliver(*epoch, rows).unwrap());
            sink.close(*epoch).unwrap();
            border = *epoch;
        }
        folder.publish(border, &sink.stage(border).unwrap(), true).unwrap();
    }
}
