//! Public FHIR data, if present: `fhir-samples` beside the checkout, or where `WINDKESSEL_FHIR_SAMPLES` says.
//!
//! The expected blood pressures were computed by a separate program (Python's `json` and `datetime`), which follows component codes
//! through the Bundle and knows nothing of this decoder.

use std::path::{Path, PathBuf};

use expect_test::expect;

use super::*;
use crate::signals::{DIASTOLIC, SYSTOLIC};

/// The folder, or `None` with a note.
fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let said = std::env::var_os("WINDKESSEL_FHIR_SAMPLES").map(PathBuf::from);
    let found = said
        .into_iter()
        .chain([root.join("../shared/fhir-samples"), root.join("../../shared/fhir-samples")])
        .find(|path| path.is_dir());
    if found.is_none() {
        println!("skipped: no folder of FHIR samples; set WINDKESSEL_FHIR_SAMPLES");
    }
    found
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Checks a Bundle with the default signals: (entry, seconds since 1970, systolic, diastolic) of each panel.
fn check_bundle(
    file: &str,
    patient: &str,
    (birth_year, sex): (i16, &str),
    entries: u64,
    panels: &[(u32, i64, f64, f64)],
) {
    let Some(folder) = folder() else { return };
    let out = decode(&DecodeSpec::default(), &read(&folder.join("synthea_smart").join(file)));
    let Observations { arena, entries: found } = &out.observations;
    let mut seen = Vec::new();
    for entry in found {
        match entry {
            Entry::Observation(Observation { patient: whose, id, facts, .. }) => {
                assert_eq!(arena.id(*whose), patient.as_bytes());
                assert!(id.is_some());
                assert_eq!(Leniency::names(facts.leniencies).collect::<Vec<_>>(), ["panel_superseded"]);
                let value = |signal| facts.signals.get(signal).unwrap();
                seen.push((facts.position.entry, facts.at.micros() / 1_000_000, value(SYSTOLIC), value(DIASTOLIC)));
            }
            Entry::Patient(update) => {
                assert_eq!(arena.id(update.patient), patient.as_bytes());
                assert_eq!((update.demographics.birth_year, update.demographics.sex.code()), (Some(birth_year), sex));
            }
            Entry::Deletion(_) | Entry::Label(_) | Entry::Condition(_) => {
                panic!("nothing was deleted, nothing came of anybody, and nobody asked for conditions")
            }
        }
    }
    assert_eq!(seen, panels);
    assert_eq!(found.len(), panels.len() + 1);
    assert_eq!(out.rejections, []);
    assert_eq!(out.tally.total(Outcome::Ignored), entries - panels.len() as u64);
}

/// What a flow that takes conditions reads of them, as (resources, names): counted by another program.
#[test]
fn the_conditions_of_synthea_are_read_and_few_are_comorbidities() {
    let Some(folder) = folder() else { return };
    for (file, conditions, names) in [
        ("Catina_Witting_8e81f54b-b5e3-40b4-8497-88ba0d13f945.json", 9, vec![]),
        ("Lloyd_Rippin_225aa920-3fda-4872-9f46-aaa61fddd4e1.json", 4, vec![]),
        // An infarction, and the history of it.
        ("Terrance_Hahn_753ad9f3-2938-40e3-8068-edb4d9027ba1.json", 5, vec!["myocardial_infarction"; 2]),
    ] {
        let spec = DecodeSpec { conditions: true, ..DecodeSpec::default() };
        let out = decode(&spec, &read(&folder.join("synthea_smart").join(file)));
        let table = crate::comorbidities::ComorbidityTable::shipped();
        let mut found = Vec::new();
        let mut count = 0;
        for entry in &out.observations.entries {
            let Entry::Condition(condition) = entry else { continue };
            count += 1;
            assert!(condition.patient.is_some() && condition.id.is_some() && !condition.withdraws);
            found.extend(table.names(condition.comorbidities));
        }
        assert_eq!((count, found), (conditions, names), "{file}");
    }
}

const CATINA: &[(u32, i64, f64, f64)] = &[
    (7, -629_796_320, 110.64232419525422, 79.52545991118917),
    (16, -621_933_920, 107.90494315361958, 86.25956887591134),
    (24, -606_209_120, 130.71874130822647, 74.2079468253548),
    (41, -596_532_320, 132.06414180476662, 78.46205614982784),
    (50, -580_807_520, 136.20512633501, 74.86171194497243),
    (61, -565_082_720, 121.32837807533704, 74.48473445417265),
    (70, -549_357_920, 101.07512098746507, 73.55926346306512),
    (87, -517_303_520, 109.56115570752749, 76.67334108954087),
    (98, -485_249_120, 134.22311736333177, 75.35295550356089),
    (133, -453_194_720, 127.99239298751819, 76.96465002205845),
    (143, -421_140_320, 116.49540906742413, 71.34528778404716),
    (153, -389_085_920, 112.13279437301456, 78.12316011769556),
    (171, -357_031_520, 108.65157504055284, 71.59360698693497),
    (198, -324_977_120, 134.77526206184712, 79.31204896290865),
];

const LLOYD: &[(u32, i64, f64, f64)] = &[
    (7, 1_329_163_876, 101.8627777370786, 82.66119048059079),
    (28, 1_332_187_876, 114.18440626192802, 85.12531054526895),
    (38, 1_337_631_076, 129.05246606351736, 81.82151281481877),
    (51, 1_343_074_276, 128.4023339311217, 77.02827716861225),
    (64, 1_350_936_676, 125.5718283407596, 81.63344446939841),
    (77, 1_358_799_076, 125.23863710655077, 82.56399432440111),
    (85, 1_366_661_476, 122.29150738388498, 77.59752053040256),
    (99, 1_374_523_876, 117.55086591159332, 79.98666063224437),
    (109, 1_390_248_676, 116.27904991972854, 78.671349223586),
    (120, 1_405_973_476, 124.24418643525289, 81.30721957653847),
    (139, 1_421_698_276, 113.4019004916325, 75.34239063388597),
    (150, 1_437_423_076, 119.79350638237995, 75.8541861488686),
    (160, 1_453_147_876, 135.2026646003043, 87.52196064225957),
    (176, 1_485_202_276, 130.66341095830873, 84.60665668533665),
    (203, 1_517_256_676, 118.53550863823226, 72.4563569901078),
    (226, 1_549_311_076, 115.62419706520726, 78.53262653068535),
    (245, 1_581_365_476, 130.95429343641405, 84.9755993473433),
    (255, 1_613_419_876, 125.17059538697241, 81.7794210974985),
];

const TERRANCE: &[(u32, i64, f64, f64)] = &[
    (7, -370_324_771, 118.65802342485532, 79.5450371141581),
    (28, -367_300_771, 106.82562664810263, 76.03327075073163),
    (37, -361_857_571, 127.54389759085217, 77.42920302961852),
    (48, -356_414_371, 130.58300772586912, 79.01163001788403),
    (57, -348_551_971, 121.97646300314328, 72.91109030761389),
    (68, -340_689_571, 131.09893012066013, 78.22338372678567),
    (77, -332_827_171, 113.14723150408975, 77.23725767195667),
    (85, -324_964_771, 101.40041646163806, 85.62826564612696),
    (93, -309_239_971, 103.97329683443287, 76.87775251456863),
    (103, -293_515_171, 119.036634346004, 72.20052444404924),
    (119, -277_790_371, 110.1613878525983, 84.15940848130899),
    (129, -262_065_571, 125.85092312433923, 75.44720486909925),
    (139, -246_340_771, 108.7056350079852, 73.31686223279104),
    (150, -214_286_371, 103.26113053960275, 83.07838350870685),
    (168, -182_231_971, 118.5482265535623, 80.87672576371122),
    (191, -150_177_571, 106.46481469226234, 77.27769676671959),
];

#[test]
fn the_synthea_bundle_of_a_woman_born_in_1948_decodes_to_its_panels() {
    check_bundle(
        "Catina_Witting_8e81f54b-b5e3-40b4-8497-88ba0d13f945.json",
        "05feb4fd-d431-4977-841c-50bd0afc0183",
        (1948, "female"),
        221,
        CATINA,
    );
}

#[test]
fn the_synthea_bundle_of_a_boy_born_in_2012_decodes_to_its_panels() {
    check_bundle(
        "Lloyd_Rippin_225aa920-3fda-4872-9f46-aaa61fddd4e1.json",
        "0d1c4ee3-084d-4818-9689-783e94162748",
        (2012, "male"),
        261,
        LLOYD,
    );
}

#[test]
fn the_synthea_bundle_of_a_man_born_in_1958_decodes_to_its_panels() {
    check_bundle(
        "Terrance_Hahn_753ad9f3-2938-40e3-8068-edb4d9027ba1.json",
        "0b896820-f478-4e9c-a456-acc676cf5640",
        (1958, "male"),
        209,
        TERRANCE,
    );
}

/// Decodes every file of a folder with all signals.
fn shown(kind: &str) -> Option<String> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder()?.join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let lines = files.iter().map(|file| {
        format!("{}: {}", file.file_stem().unwrap().to_str().unwrap(), show(&mut decode(&spec(), &read(file))))
    });
    Some(lines.collect())
}

#[test]
fn the_us_core_examples_decode() {
    let Some(shown) = shown("us_core") else { return };
    expect![[r#"
        blood-pressure: 0 observation blood-pressure of example at 1999-07-02T00:00:00Z (day) final systolic=109 diastolic=44
        bmi: 0 observation bmi of example at 1999-07-02T00:00:00Z (day) final body_mass_index=16.2
        bp-data-absent: 0 observation bp-data-absent of example at 1999-07-02T00:00:00Z (day) final systolic=109
        heart-rate: 0 observation heart-rate of example at 1999-07-02T00:00:00Z (day) final heart_rate=44
        height: 0 observation height of example at 1999-07-02T00:00:00Z (day) final height=111.506
        respiratory-rate: 0 observation respiratory-rate of example at 1999-07-02T00:00:00Z (day) final respiratory_rate=26
        temperature: 0 observation temperature of example at 1999-07-02T00:00:00Z (day) final temperature=36.55556
        weight: 0 observation weight of example at 1999-07-02T00:00:00Z (day) final weight=20.09414
    "#]]
    .assert_eq(&shown);
}

#[test]
fn the_hl7_examples_decode() {
    let Some(shown) = shown("hl7_r4") else { return };
    expect![[r#"
        Observation-10minute-apgar-score: ignored no_signal 1
        Observation-abdo-tender: ignored no_signal 1
        Observation-alcohol-type: ignored no_signal 1
        Observation-bloodgroup: ignored no_signal 1
        Observation-bmd: ignored no_signal 1
        Observation-bmi: 0 observation bmi of example at 1999-07-02T00:00:00Z (day) final body_mass_index=16.2
        Observation-body-height: 0 observation body-height of example at 1999-07-02T00:00:00Z (day) final height=169.926
        Observation-body-length: 0 observation body-length of example at 1999-07-02T00:00:00Z (day) final height=25
        Observation-body-temperature: 0 observation body-temperature of example at 1999-07-02T00:00:00Z (day) final temperature=36.5
        Observation-date-lastmp: ignored no_signal 1
        Observation-decimal: ignored no_signal 1
        Observation-eye-color: ignored no_signal 1
        Observation-f001: 0 observation f001 of f001 at 2013-04-02T08:30:10Z final glucose=6.3
        Observation-f002: ignored no_signal 1
        Observation-f003: ignored no_signal 1
        Observation-f202: 0 observation f202 of f201 at 2013-04-04T12:27:00Z entered-in-error
        Observation-glasgow: ignored no_signal 1
        Observation-head-circumference: ignored no_signal 1
        Observation-heart-rate: 0 observation heart-rate of example at 1999-07-02T00:00:00Z (day) final heart_rate=44
        Observation-respiratory-rate: 0 observation respiratory-rate of example at 1999-07-02T00:00:00Z (day) final respiratory_rate=26
        Observation-rhstatus: ignored no_signal 1
        Observation-satO2: 0 observation satO2 of example at 2014-12-05T08:30:10Z final oxygen_saturation=95
        Observation-secondsmoke: ignored no_signal 1
        Observation-unsat: 0 observation unsat of f001 at 2013-04-02T08:30:10Z cancelled
    "#]]
    .assert_eq(&shown);
}

#[test]
fn every_signal_of_a_synthea_bundle_is_taken() {
    let Some(folder) = folder() else { return };
    for file in std::fs::read_dir(folder.join("synthea_smart")).unwrap() {
        let out = decode(&spec(), &read(&file.unwrap().path()));
        assert_eq!(out.rejections, []);
    }
}
