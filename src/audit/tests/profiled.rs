//! A saved profile as the reference: against a recount, on 1, 2 and 4 workers; and the profile itself against a recount.

use super::scored::Standing;
use super::*;
use crate::audit::profile::count::{Counter, Making, Sums};
use crate::audit::profile::{PATIENTS_MIN, Profile, ScoredBy, Source};
use crate::audit::scores::Summary;
use crate::audit::series::{FEATURES, GROUPS, PATIENT_GROUPS};

/// Enough that most groups are large enough.
const PATIENTS: usize = 120;

pub(super) fn making(spec: &AuditSpec) -> Making {
    let (source, scored_by) = (Source::default(), ScoredBy::default());
    Making { audit: spec.clone(), source, scored_by, knows_patients: true, knows_sex: true }
}

/// What so many workers count of a script.
fn sums(script: &[EpochOfScript], workers: u64) -> Sums {
    let mut sums = Sums::default();
    for worker in 0..workers {
        let mut counter = Counter::new(&spec());
        for batch in script.iter().flat_map(|of_epoch| share_of(of_epoch, worker, workers)) {
            counter.add(&batch);
        }
        sums.add(counter.sums());
    }
    sums
}

fn profile(script: &[EpochOfScript]) -> Profile {
    making(&spec()).make(&sums(script, 2)).unwrap()
}

/// Of a script that no other test uses.
pub(super) fn reference(seed: u64) -> Reference {
    Reference::of(&profile(&script_of(seed, 40, PATIENTS)), String::new()).unwrap()
}

/// As [`run_all`] on workers and in a rhythm.
pub(super) fn run_against(
    script: &[EpochOfScript],
    (workers, rhythm): (usize, usize),
    horizon: EventSpan,
    reference: Option<Arc<Reference>>,
) -> Vec<(Epoch, Finding)> {
    let (metrics, epochs, saved, borders) = (Metrics::new(), 0..script.len(), Vec::new(), Vec::new());
    run_part(script, Run { workers, rhythm, horizon, metrics, epochs, saved, borders, reference }).0
}

#[test]
fn a_profile_is_what_a_recount_gives_on_any_number_of_workers() {
    for seed in 80..82 {
        let script = script_of(seed, 40, PATIENTS);
        let (profile, naive) = (profile(&script), Naive::of(&script));
        for workers in [1, 3, 4] {
            let again = making(&spec()).make(&sums(&script, workers)).unwrap();
            assert_eq!(again.text(), profile.text(), "seed {seed}, {workers} workers");
        }
        let mut usual = 0;
        for of in &profile.features {
            let feature = FEATURES.iter().find(|feature| feature.name == of.feature).unwrap().name;
            let key = (of.group.clone(), feature, EventTime::MIN);
            let (values, patients) = naive.values(&key, EventTime::MIN, EventTime::MAX);
            let counted = (of.first..).zip(&of.counts);
            let ours = counted.flat_map(|(value, count)| std::iter::repeat_n(f64::from(value), *count as usize));
            assert_eq!(ours.collect::<Vec<f64>>(), values, "seed {seed}: {key:?}");
            assert_eq!((of.readings, of.patients), (values.len() as u64, Some(patients)), "seed {seed}: {key:?}");
            let distances = naive.distances(&of.group, feature, spec().window);
            let mean = distances.iter().sum::<f64>() / distances.len() as f64;
            match &of.usual {
                Some(found) => {
                    assert_eq!(found.windows, distances.len() as u64, "seed {seed}: {key:?}");
                    assert!((found.mean - mean).abs() < 1e-9, "seed {seed}: {key:?}");
                    usual += 1;
                }
                None => assert!(distances.len() < 2, "seed {seed}: {key:?}"),
            }
        }
        assert!(usual > 20, "seed {seed}: {usual}");
        let groups: BTreeSet<&str> = profile.features.iter().map(|of| of.group.as_str()).collect();
        for group in GROUPS[..PATIENT_GROUPS].iter().filter(|group| !profile.left_out.contains(&(**group).to_owned())) {
            assert_eq!(groups.contains(group), naive.patients(group) > 0, "seed {seed}: {group}");
            assert!(naive.patients(group) == 0 || naive.patients(group) >= PATIENTS_MIN, "seed {seed}: {group}");
        }
        assert!(groups.len() >= 6, "seed {seed}: {groups:?}");
    }
}

#[test]
fn the_last_row_of_every_window_is_what_a_recount_against_the_profile_gives_on_any_number_of_workers() {
    for seed in 84..86 {
        let (before, script) = (script_of(seed, 40, PATIENTS), script_of(seed + 10, 36, PATIENTS));
        let (profile, first, naive) = (profile(&before), Naive::of(&before), Naive::of(&script));
        let reference = Arc::new(Reference::of(&profile, String::new()).unwrap());
        let one = run_against(&script, (1, 1), EventSpan::UNBOUNDED, Some(reference.clone()));
        for (workers, rhythm) in [(2, 5), (4, 3)] {
            let many = run_against(&script, (workers, rhythm), EventSpan::UNBOUNDED, Some(reference.clone()));
            assert_eq!(one.len(), many.len(), "seed {seed}, {workers} workers");
            for ((one_epoch, one), (epoch, many)) in one.iter().zip(&many) {
                assert_eq!((one_epoch, order(one)), (epoch, order(many)), "seed {seed}, {workers} workers");
            }
        }
        let shifts: Vec<(Epoch, Shift)> = one
            .iter()
            .filter_map(|(epoch, found)| match found {
                Finding::Shift(shift) if shift.feature != "probability" => Some((*epoch, shift.clone())),
                _ => None,
            })
            .collect();
        let last = last(&shifts);
        for (key, shift) in &last {
            assert_eq!(shift.reference, reference.span);
            let (ours, expected) = (Line::of(shift), naive.row_against(key, &first, &profile.left_out));
            assert!(ours.agrees(&expected), "seed {seed}: {key:?}:\n{ours:?}, expected\n{expected:?}");
        }
        for key in naive.keys() {
            assert!(last.contains_key(&key), "seed {seed}: {key:?} was not published");
        }
        let verdicts: BTreeSet<&str> = last.values().map(|shift| shift.verdict.name()).collect();
        assert!(verdicts.len() >= 3, "seed {seed}: the script shows {verdicts:?} only");
        scores_agree(&one, (&before, &script), &profile);
    }
}

/// The reference of scores is that of everything before, with its labels.
fn scores_agree(rows: &[(Epoch, Finding)], (before, script): (&[EpochOfScript], &[EpochOfScript]), profile: &Profile) {
    let (first, standing) = (Standing::of(before, EventSpan::UNBOUNDED), Standing::of(script, EventSpan::UNBOUNDED));
    let of_group = |group: &str| match profile.left_out.iter().any(|left_out| left_out == group) {
        true => Summary::default(),
        false => first.summary(group, EventTime::MIN, EventTime::MAX).0,
    };
    let (mut performance, mut probability) = (BTreeMap::new(), BTreeMap::new());
    for (_, found) in rows {
        if let Finding::Performance(row) = found {
            performance.insert((row.group, row.current), row);
        }
        if let Finding::Shift(row) = found
            && row.feature == "probability"
        {
            probability.insert((&row.group, row.current), row);
        }
    }
    for row in performance.values() {
        standing.performance_against(row, &of_group(row.group));
    }
    assert!(performance.values().any(|row| row.reference_measured.auroc.is_some()), "labels are in the profile");
    let current = |row: &&&Shift| row.current_side.readings > 0;
    for row in probability.values().filter(current) {
        assert_eq!(row.reference_side.readings, of_group(&row.group).scored, "{row:?}");
        let close = |a: Option<f64>, b: Option<f64>| a.zip(b).is_none_or(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close(row.reference_side.mean, of_group(&row.group).score_mean()), "{row:?}");
    }
    assert!(probability.len() > 100);
}
