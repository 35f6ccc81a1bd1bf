//! Shifts that were put in are found, named and localised; where nothing was put in, nobody is told anything.
//!
//! Without timely: the machines one after the other, everything in one epoch.

use super::*;
use crate::audit::counts::{ByPatient, Counts};
use crate::audit::profile::count::Counter;
use crate::audit::publish::Publisher;
use crate::config::{DriftPreset, Selected};
use crate::vocabulary::findings::{Alert, AlertState, Part};

const HOURS: i64 = 18;
/// From this hour on something is different.
const ONSET: i64 = 14;
const READINGS_PER_HOUR: usize = 1_500;

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disturbance {
    Nothing,
    /// All devices read 8 mmHg too much.
    Bias,
    /// The ward of those from 65 to 79 sends kPa and calls them mmHg.
    Units,
    /// Most patients are 80 and over.
    Older,
}

fn spec_of(preset: DriftPreset) -> AuditSpec {
    AuditSpec { reference_windows: 12, readings_min: 300, preset, ..AuditSpec::default() }
}

fn reading(rng: &mut ChaCha8Rng, hour: i64, disturbance: Disturbance) -> (Reading, Demographics, Assessment) {
    let disturbed = hour >= ONSET;
    let older = disturbed && disturbance == Disturbance::Older && rng.random_bool(0.8);
    let birth_year = if older { rng.random_range(1880..1889) } else { rng.random_range(1890..1950) };
    let demographics = Demographics {
        birth_year: Some(birth_year),
        sex: if rng.random_bool(0.5) { Sex::Female } else { Sex::Male },
        ..Demographics::default()
    };
    let age = f64::from(1970 - birth_year);
    // The sum of four has a standard deviation of 1.15.
    let mut normal = |sd: f64| sd * (0..4).map(|_| rng.random_range(-1.0..1.0)).sum::<f64>() / 1.15;
    let mut systolic = (105.0 + 0.45 * age + normal(14.0)).round();
    let mut diastolic = (70.0 + 0.05 * age + normal(9.0)).round();
    if disturbed && disturbance == Disturbance::Bias {
        (systolic, diastolic) = (systolic + 8.0, diastolic + 8.0);
    }
    if disturbed && disturbance == Disturbance::Units && (65.0..80.0).contains(&age) {
        (systolic, diastolic) = ((systolic / 7.5).round(), (diastolic / 7.5).round());
    }
    let mut signals = Signals::default();
    signals.insert(SYSTOLIC, systolic);
    signals.insert(DIASTOLIC, diastolic);
    let at = EventTime::from_micros(hour * 60 * MINUTE + rng.random_range(0..60 * MINUTE));
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    let patient = Pseudonym([rng.random_range(0..200); 16]);
    let facts = Facts { at, signals, ..Facts::default() };
    let assessment = Assessment { alarm: rng.random_bool(0.2), ..Assessment::default() };
    (Reading { patient, observation: Pseudonym(bytes), facts }, demographics, assessment)
}

/// What one worker counts of it.
fn counted(seed: u64, disturbance: Disturbance, calendar: Calendar) -> Vec<((Series, Pane), Histogram)> {
    let batch = assessed(seed, disturbance);
    let mut updates = Vec::new();
    let by_patient = ByPatient { selected: Selected::Alarm, label_horizon: spec().outcomes.horizon };
    let mut counts = Counts::new(calendar, EventSpan::UNBOUNDED, ALONE, Some(by_patient));
    counts.advance([&batch], &[tick(0, EventTime::MAX)], &mut updates);
    updates
}

fn assessed(seed: u64, disturbance: Disturbance) -> Assessed {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut batch = Assessed::default();
    for hour in 0..HOURS {
        for _ in 0..READINGS_PER_HOUR {
            let (reading, demographics, assessment) = reading(&mut rng, hour, disturbance);
            batch.scorable.readings.push(reading);
            batch.scorable.demographics.push(demographics);
            batch.assessments.push(assessment);
        }
    }
    batch
}

const ALONE: Share = Share { worker: 0, workers: 1 };

/// What is found, in the order of windows.
fn found(
    counted: &[((Series, Pane), Histogram)],
    spec: &AuditSpec,
    profile: Option<Reference>,
) -> (Vec<Shift>, Vec<Alert>) {
    let mut alerts = Vec::new();
    let shift = |found| match found {
        Finding::Shift(shift) => Some(shift),
        Finding::Alert(alert) => {
            alerts.push(alert);
            None
        }
        _ => None,
    };
    let shifts = published(counted, spec, profile).into_iter().filter_map(shift).collect();
    (shifts, alerts)
}

/// Everything that is found.
pub(super) fn published(
    counted: &[((Series, Pane), Histogram)],
    spec: &AuditSpec,
    profile: Option<Reference>,
) -> Vec<Finding> {
    let calendar = calendar(spec);
    let mut by_block: BTreeMap<(Subject, Block), BTreeMap<(Series, Pane), Histogram>> = BTreeMap::new();
    for ((series, pane), histogram) in counted {
        for subject in series.needed_by() {
            for block in calendar.blocks_needing(*pane) {
                by_block.entry((subject, block)).or_default().insert((*series, *pane), histogram.clone());
            }
        }
    }
    let span = profile.as_ref().map(|profile| profile.span);
    let mut finder = Finder::new(calendar, Judge::new(spec), profile.map(Arc::new));
    let mut changes = Vec::new();
    for ((subject, block), counts) in &by_block {
        let counts: Vec<(&(Series, Pane), Histogram)> = counts.iter().map(|(key, h)| (key, h.clone())).collect();
        changes.extend(finder.find(*subject, *block, &counts).into_iter().map(|found| (found, 1)));
    }
    let mut publisher = Publisher::new(calendar, EventSpan::UNBOUNDED, ALONE, spec.alert_windows).profiled(span);
    let published = publisher.advance(changes, &[tick(0, EventTime::MAX)]);
    published.into_iter().map(|published| published.finding).collect()
}

fn run_seed(seed: u64, disturbance: Disturbance, preset: DriftPreset) -> (Vec<Shift>, Vec<Alert>) {
    let spec = spec_of(preset);
    found(&counted(seed, disturbance, calendar(&spec)), &spec, None)
}

/// The hour of a window.
fn hour(current: (EventTime, EventTime)) -> i64 {
    current.0.micros() / (60 * MINUTE)
}

#[test]
fn nobody_is_told_anything_on_undisturbed_seeds() {
    for seed in 0..20 {
        let counted = counted(seed, Disturbance::Nothing, calendar(&spec_of(DriftPreset::Industry)));
        // Evidently's threshold of 0.1 deviations is within the noise of smaller groups.
        for (preset, readings_min) in [(DriftPreset::Industry, 300), (DriftPreset::Evidently, 700)] {
            let spec = AuditSpec { readings_min, ..spec_of(preset) };
            let (shifts, alerts) = found(&counted, &spec, None);
            assert!(shifts.iter().any(|shift| shift.verdict.name() == "none"), "seed {seed}: something was compared");
            assert_eq!(alerts, [], "seed {seed}, {preset:?}");
        }
    }
}

#[test]
fn a_biased_device_is_found_in_every_group_and_by_its_size() {
    let (shifts, alerts) = run_seed(21, Disturbance::Bias, DriftPreset::Evidently);
    let of_all = alerts.iter().find(|alert| (alert.feature, alert.group) == ("systolic", Part::Group("all"))).unwrap();
    assert_eq!((of_all.state, hour(of_all.current)), (AlertState::Raised, ONSET + 2), "{of_all:?}");
    let at_onset = |feature, group: &str| {
        let of = |shift: &&Shift| hour(shift.current) == ONSET && shift.feature == feature && shift.group == group;
        shifts.iter().find(of).unwrap()
    };
    for group in ["all", "sex=female", "sex=male", "age=65-79"] {
        let Shift { current_side, reference_side, .. } = at_onset("systolic", group);
        let moved = current_side.mean.unwrap() - reference_side.mean.unwrap();
        assert!((moved - 8.0).abs() < 1.5, "{group}: {moved}");
    }
    assert_eq!(at_onset("pulse_pressure", "all").verdict.name(), "none", "both pressures moved alike");
}

#[test]
fn changed_units_are_found_where_they_changed() {
    let (shifts, alerts) = run_seed(22, Disturbance::Units, DriftPreset::Industry);
    let raised = |alert: &&Alert| (alert.feature, alert.group) == ("systolic", Part::Group("age=65-79"));
    let alert = alerts.iter().find(raised).unwrap();
    assert_eq!((alert.state, hour(alert.current), alert.windows_held), (AlertState::Raised, ONSET + 2, 3));
    let at_onset = shifts.iter().filter(|shift| hour(shift.current) == ONSET && shift.feature == "systolic");
    let worst = at_onset.max_by(|a, b| a.statistics.psi.partial_cmp(&b.statistics.psi).unwrap()).unwrap();
    assert_eq!(worst.group, "age=65-79");
    let others = ["age=18-39", "age=40-64", "age=80+"].map(Part::Group);
    assert!(alerts.iter().all(|alert| !others.contains(&alert.group)), "{alerts:?}");
}

#[test]
fn an_older_population_moves_the_whole_and_no_age_group() {
    let (_, alerts) = run_seed(23, Disturbance::Older, DriftPreset::Industry);
    let named: BTreeSet<(&str, Part)> = alerts.iter().map(|alert| (alert.feature, alert.group)).collect();
    assert!(named.contains(&("systolic", Part::Group("all"))), "{named:?}");
    let of_an_age = |part: &Part| matches!(part, Part::Group(group) if group.starts_with("age="));
    assert!(!named.iter().any(|(_, part)| of_an_age(part)), "{named:?}");
}

/// The profile is of another seed; so short a reference as in the trailing case is not needed.
#[test]
fn against_a_profile_a_shift_never_becomes_what_is_usual_and_without_one_nobody_is_told_anything() {
    for preset in [DriftPreset::Industry, DriftPreset::Evidently, DriftPreset::Nannyml, DriftPreset::Whylogs] {
        // NannyML's limit is of the noise of single windows: it tells of one in some hundreds by chance, and three in a row are rare.
        let spec = AuditSpec { readings_min: 700, ..spec_of(preset) };
        let mut counter = Counter::new(&spec);
        counter.add(&assessed(40, Disturbance::Nothing));
        let profile = profiled::making(&spec).make(&counter.sums()).unwrap();
        let spec = AuditSpec { reference_profile: Some("profile.json".into()), ..spec };
        let against = |disturbance| {
            let reference = Reference::of(&profile, String::new()).unwrap();
            found(&counted(41, disturbance, calendar(&spec)), &spec, Some(reference))
        };
        let (shifts, alerts) = against(Disturbance::Nothing);
        assert_eq!(alerts, [], "{preset:?}");
        let from_the_first = shifts.iter().any(|shift| hour(shift.current) == 0 && shift.verdict.name() == "none");
        assert!(from_the_first, "{preset:?}: there is no time without a reference");
        if preset == DriftPreset::Whylogs {
            // 8 mmHg are a Hellinger distance of 0.2: `watch`.
            continue;
        }
        let (shifts, alerts) = against(Disturbance::Bias);
        let of_all = |alert: &&Alert| (alert.feature, alert.group) == ("diastolic", Part::Group("all"));
        let alert = alerts.iter().find(of_all).unwrap_or_else(|| panic!("{preset:?}: {alerts:?}"));
        assert_eq!((alert.state, hour(alert.current)), (AlertState::Raised, ONSET + 2), "{preset:?}");
        let span = Reference::of(&profile, String::new()).unwrap().span;
        assert!(shifts.iter().all(|shift| shift.reference == span), "{preset:?}");
    }
}
