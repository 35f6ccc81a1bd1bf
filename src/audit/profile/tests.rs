//! What a profile's file says is read back; what does not add up is refused, with a place and a hint; who is left out.

use serde_json::{Value, json};

use super::reference::Reference;
use super::*;
use crate::audit::series::Series;
use crate::config::{AuditSpec, DriftPreset};

fn of(feature: &str, group: &str, patients: u64) -> OfFeature {
    OfFeature {
        feature: feature.to_owned(),
        unit: "mmHg".to_owned(),
        group: group.to_owned(),
        readings: 40,
        patients: Some(patients),
        mean: Some(121.0),
        standard_deviation: Some(20f64.sqrt() / 39f64.sqrt()),
        usual: Some(Usual { windows: 7, mean: 0.05, standard_deviation: 0.01 }),
        first: 120,
        counts: vec![10, 20, 10],
    }
}

fn profile() -> Profile {
    let mut features: Vec<OfFeature> = FEATURES.iter().map(|feature| of(feature.name, "all", 30)).collect();
    features.push(of("systolic", "sex=female", 11));
    let counts = vec![(None, false, None, 30), (Some(400), false, Some(false), 5), (Some(900), true, Some(true), 5)];
    Profile {
        windkessel_profile: FORMAT,
        bin_rule: BIN_RULE.to_owned(),
        source: Source { kind: "flow".to_owned(), flow: Some("f".to_owned()), version: "0".to_owned() },
        start: "2026-01-05T00:00:00Z".to_owned(),
        end: "2026-01-12T00:00:00Z".to_owned(),
        window: EventSpan::from_seconds(3_600),
        readings_min: 500,
        readings: 40,
        patients: Some(30),
        scored_by: ScoredBy { model: Some("m".to_owned()), ..ScoredBy::default() },
        left_out: vec!["sex=male".to_owned()],
        features,
        scores: vec![OfScores { group: "all".to_owned(), readings: 40, patients: Some(30), counts }],
    }
}

#[test]
fn what_is_written_is_read_back_and_a_line_is_a_feature_of_a_group() {
    let profile = profile();
    let text = profile.text();
    assert_eq!(Profile::parse(&text).unwrap(), profile);
    assert_eq!(text.lines().filter(|line| line.starts_with("    {\"feature\"")).count(), 5);
    assert!(text.starts_with("{\n  \"windkessel_profile\": 1,\n") && text.ends_with("]\n}\n"), "{text}");
    let reference = Reference::of(&profile, String::new()).unwrap();
    let systolic = reference.measured(Series::measured(1, 0)).unwrap();
    assert_eq!((systolic.values[119..124].to_vec(), systolic.patients), (vec![0, 10, 20, 10, 0], Some(11)));
    assert_eq!(reference.measured(Series::measured(2, 0)), None);
    let scores = reference.scores(0);
    assert_eq!((scores.readings, scores.scored, scores.labelled(), scores.positives()), (40, 10, 10, 5));
}

/// What the profile is refused with after a change.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut value = serde_json::to_value(profile()).unwrap();
    change(&mut value);
    Profile::parse(&value.to_string()).unwrap_err()
}

#[test]
fn what_does_not_add_up_is_refused_with_its_place() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 21] = [
        (|profile| profile["windkessel_profile"] = json!(2), "it is of format 2, this version reads 1; make it anew"),
        (|profile| drop(profile.as_object_mut().unwrap().remove("windkessel_profile")), "no key windkessel_profile"),
        (|profile| profile["more"] = json!(1), "unknown field `more`"),
        (|profile| profile["bin_rule"] = json!("sturges"), "by the rule \"sturges\", this version counts by"),
        (|profile| profile["end"] = json!("2026-01-05T00:00:00Z"), "end must be after start"),
        (|profile| profile["start"] = json!("monday"), "start is no instant: \"monday\""),
        (|profile| profile["window"] = json!("1 hour"), "not a length of time"),
        (|profile| profile["readings"] = json!(41), "systolic of all does not have 41 readings"),
        (
            |profile| profile["features"][1]["feature"] = json!("pulse"),
            "features[1]: there is no feature \"pulse\"; known are systolic",
        ),
        (
            |profile| profile["features"][4]["group"] = json!("ward=3"),
            "features[4]: there is no group \"ward=3\"; known are all",
        ),
        (|profile| profile["features"][4]["group"] = json!("risk=LOW"), "there is no group \"risk=LOW\""),
        (|profile| profile["features"][4]["group"] = json!("all"), "systolic of all is there twice"),
        (
            |profile| profile["features"][0]["unit"] = json!("kPa"),
            "systolic of all is in \"kPa\", this version counts in \"mmHg\"",
        ),
        (|profile| profile["features"][0]["first"] = json!(299), "beyond the greatest value, 300 steps"),
        (|profile| profile["features"][0]["counts"][1] = json!(21), "says 40 readings and counts 41"),
        (|profile| profile["features"][0]["counts"] = json!([20, 10, 10]), "is not that of its counts"),
        (|profile| profile["features"][0]["usual"]["mean"] = json!(1.5), "usual of systolic of all is no distance"),
        (
            |profile| profile["features"][4]["patients"] = json!(10),
            "has 10 patients and 40 readings; a group has at least 11",
        ),
        (|profile| profile["features"][4]["patients"] = Value::Null, "does not say of how many patients"),
        (
            |profile| profile["scores"][0]["counts"][1][0] = json!(1_001),
            "scores[0]: scores of all have the probability 1001",
        ),
        (|profile| profile["scores"][0]["counts"][2][0] = json!(300), "do not ascend"),
    ];
    for (change, expected) in table {
        let why = refused(change);
        assert!(why.contains(expected), "{why}: {expected}");
    }
    for text in ["", "[]", "{}", "windkessel"] {
        let why = Profile::parse(text).unwrap_err();
        assert!(why.starts_with("it is none: ") && why.contains("`windkessel profile`"), "{why}");
    }
    let most = refused(|profile| profile["features"][0]["counts"] = json!([COUNT_MAX, 1]));
    assert!(most.contains("more than"), "{most}");
}

#[test]
fn a_flow_says_which_key_names_a_profile_that_it_cannot_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profile.json");
    let spec = AuditSpec::default();
    let missing = Reference::load(&path, &spec).unwrap_err();
    assert!(
        missing.starts_with("audit.reference_profile: could not use the profile ") && missing.contains("No such file")
    );
    std::fs::write(&path, profile().text()).unwrap();
    assert_eq!(Reference::load(&path, &spec).unwrap().digest, digest(&profile().text()));
    let nannyml = AuditSpec { preset: DriftPreset::Nannyml, ..spec.clone() };
    assert!(Reference::load(&path, &nannyml).is_ok());
    let nannyml = AuditSpec { readings_min: 300, ..nannyml };
    let why = Reference::load(&path, &nannyml).unwrap_err();
    assert!(
        why.contains("of windows of 1h from 500 readings on, where audit.window is 1h and audit.readings_min 300"),
        "{why}"
    );
    std::fs::File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    assert!(Reference::load(&path, &spec).unwrap_err().contains("no profile has more than"));
}

#[test]
fn scores_that_were_made_otherwise_are_no_reference() {
    let reference = Reference::of(&profile(), String::new()).unwrap();
    let same = ScoredBy { model: Some("m".to_owned()), ..ScoredBy::default() };
    assert_eq!(reference.for_scores_by(&same), (reference.clone(), None));
    let (other, why) = reference.for_scores_by(&ScoredBy { model: None, ..same.clone() });
    assert_eq!(other.scores(0).readings, 0);
    assert_eq!(why.unwrap(), "its scores are by the model m, this flow's by none");
    // The probabilities are alike, who was selected is not.
    let (other, why) = reference.for_scores_by(&ScoredBy { selected: Some("reason".to_owned()), ..same.clone() });
    let scores = other.scores(0);
    assert_eq!((scores.scored, scores.labelled(), scores.selected, why), (10, 0, 0, None));
    assert_eq!(scores.probabilities(), reference.scores(0).probabilities());
    let (_, why) = reference.for_scores_by(&ScoredBy { outcome: Some("x within 1d".to_owned()), ..same });
    assert!(why.unwrap().contains("labelled otherwise"));
    let systolic = Series::measured(1, 0);
    assert_eq!(other.measured(systolic), reference.measured(systolic), "what was measured stays");
}

/// Patients by group of an attribute and those in none; what is left out of its groups.
fn check_left_out(groups: [u64; 4], without: u64, expected: &[usize]) {
    let mut patients = Standing::default();
    patients.of[1..5].copy_from_slice(&groups);
    patients.without[0] = without;
    let bits = expected.iter().fold(0, |bits, group| bits | 1 << (group + 1));
    assert_eq!(left_out(&patients), bits, "{groups:?} and {without}");
}

#[test]
fn small_groups_are_left_out_and_cannot_be_got_by_subtraction() {
    check_left_out([50, 60, 0, 0], 0, &[]);
    check_left_out([11, 60, 0, 0], 0, &[]);
    // All but one would give the one.
    check_left_out([10, 60, 70, 0], 0, &[0, 1]);
    // Two that are small hide each other.
    check_left_out([10, 60, 1, 0], 0, &[0, 2]);
    check_left_out([5, 60, 5, 12], 0, &[0, 2, 3]);
    // Who is in no group is what is left when all groups are subtracted.
    check_left_out([50, 60, 20, 0], 3, &[2]);
    check_left_out([50, 60, 20, 0], 11, &[]);
    check_left_out([50, 60, 4, 0], 8, &[2]);
    check_left_out([5, 0, 0, 0], 0, &[0]);
}

/// Compares what is generated with what is committed, or rewrites it.
fn witness(path: &str, text: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == text, "{path} is out of date: UPDATE_EXPECT=1 cargo test rewrites it");
}

#[test]
fn the_schema_and_the_example_of_profiles_are_the_committed_ones() {
    let mut schema = schemars::schema_for!(Profile).to_value();
    let head = schema.as_object_mut().unwrap();
    head.insert("title".into(), "A profile of Windkessel".into());
    let about = "What readings looked like: made by `windkessel profile`, named by audit.reference_profile of a flow.";
    head.insert("description".into(), about.into());
    witness("schemas/profile.schema.json", &(serde_json::to_string_pretty(&schema).unwrap() + "\n"));
    witness("schemas/profile.example.json", &profile().text());
}
