//! Proves that a profile of one week, made of a flow or of the files that it wrote, finds in the next week what has changed there, and says nothing if nothing
//! has; and that what cannot be a profile, or cannot follow another reference, is refused in a sentence.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Finished, Row, finish, instant, key_file, ndjson, repository, text, windkessel};

/// Hundred minutes of sixty patients, measured every minute, at the same time of the day.
const SETTINGS: [&str; 5] = [
    "audit.window=\"20m\"",
    "audit.readings_min=100",
    "audit.alert_windows=2",
    "state.checkpoint_seconds=1",
    "epoch.bytes=200000",
];

/// What the log says of scores that cannot be compared.
const NO_REFERENCE: &str = "is no reference for how scores do";

struct Weeks {
    folder: tempfile::TempDir,
    key: String,
}

impl Weeks {
    fn new() -> Weeks {
        let folder = tempfile::tempdir().unwrap();
        let weeks = Weeks { key: key_file(folder.path()), folder };
        // The first with everything that goes wrong: versions, withdrawals, rejections.
        weeks.generate("one.ndjson", &["--start", "2026-01-05T06:00:00Z"]);
        weeks.generate("two.ndjson", &["--start", "2026-01-12T06:00:00Z", "--clean"]);
        weeks
    }

    fn generate(&self, name: &str, more: &[&str]) {
        let counts = ["--observations", "6000", "--patients", "60", "--seed", "5", "--every", "1m"];
        finish(windkessel(self.at()).args(["generate", "--output", name]).args(counts).args(more)).succeeded();
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    /// A verb on the replay flow with these settings and this input.
    fn command(&self, verb: &str, input: &str, settings: &[&str]) -> Command {
        let mut command = windkessel(self.at());
        command.arg(verb).arg(repository("dataflows/blood_pressure_replay.toml"));
        let paths = format!("source.paths=[{input:?}]");
        for setting in SETTINGS.iter().chain(settings).chain([&self.key.as_str(), &paths.as_str()]) {
            command.args(["--set", setting]);
        }
        command
    }

    /// Runs the flow into a folder of its own.
    fn run(&self, data: &str, input: &str, settings: &[&str]) -> Finished {
        let sinks = ["parquet", "ndjson"].map(|sink| format!("sink.{sink}.path={data:?}"));
        let state = format!("state.path=\"{data}/state\"");
        let settings: Vec<&str> =
            settings.iter().copied().chain(sinks.iter().map(String::as_str)).chain([state.as_str()]).collect();
        finish(self.command("run", input, &settings).args(["--until", "end"]))
    }

    fn profile(&self, out: &str, input: &str, more: &[&str]) -> (String, Value) {
        let made = finish(self.command("profile", input, &[]).args(["--out", out, "--quiet"]).args(more)).succeeded();
        assert!(made.out.contains("name it as audit.reference_profile"), "{}", made.out);
        self.text(out)
    }

    fn text(&self, profile: &str) -> (String, Value) {
        let text = fs::read_to_string(self.at().join(profile)).unwrap();
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    fn rows(&self, data: &str, table: &str) -> Vec<Row> {
        ndjson(&self.at().join(data), table)
    }

    /// The second week, with every systolic pressure from its fortieth minute on higher by so much.
    fn shifted(&self, mmhg: f64) {
        let start: jiff::Timestamp = "2026-01-12T06:40:00Z".parse().unwrap();
        let raised = |line: &str| {
            let mut resource: Value = serde_json::from_str(line).unwrap();
            let at = resource["effectiveDateTime"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
            if at.is_some_and(|at| at >= start) {
                let systolic = &mut resource["component"][0]["valueQuantity"]["value"];
                *systolic = (systolic.as_f64().unwrap() + mmhg).into();
            }
            resource.to_string()
        };
        let text = fs::read_to_string(self.at().join("two.ndjson")).unwrap();
        let lines: Vec<String> = text.lines().map(raised).collect();
        fs::write(self.at().join("shifted.ndjson"), lines.join("\n")).unwrap();
    }
}

/// Features of all readings.
fn of_all(profile: &Value) -> Vec<Value> {
    profile["features"].as_array().unwrap().iter().filter(|of| of["group"] == "all").cloned().collect()
}

fn groups(profile: &Value) -> BTreeSet<&str> {
    profile["features"].as_array().unwrap().iter().map(|of| of["group"].as_str().unwrap()).collect()
}

/// What was refused with the exit code, in words that hold these.
fn refused(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code(), Some(code), "{}", finished.err);
    assert!(words.iter().all(|word| finished.last_words().contains(word)), "{}: {words:?}", finished.last_words());
}

#[test]
fn a_profile_of_one_week_finds_what_has_changed_in_the_next_and_nothing_else() {
    let weeks = Weeks::new();
    let (text_of_flow, of_flow) = weeks.profile("flow.json", "one.ndjson", &[]);
    let (again, _) = weeks.profile("again.json", "one.ndjson", &["--workers", "2"]);
    assert_eq!(again, text_of_flow, "whatever the number of workers");
    assert!(groups(&of_flow).len() > 4 && groups(&of_flow).contains("sex=female"), "{:?}", groups(&of_flow));

    // The same of what the flow has written.
    weeks.run("first", "one.ndjson", &[]).succeeded();
    let parquet = ["profile", "first", "--out", "parquet.json", "--window", "20m", "--readings-min", "100"];
    finish(windkessel(weeks.at()).args(parquet)).succeeded();
    let (text_of_parquet, of_parquet) = weeks.text("parquet.json");
    assert_eq!(of_all(&of_parquet), of_all(&of_flow));
    for key in ["start", "end", "readings", "patients"] {
        assert_eq!(of_parquet[key], of_flow[key], "{key}");
    }
    assert_eq!(groups(&of_parquet), BTreeSet::from(["all"]), "sex and age are in no file");
    // No pseudonym is in either, nor the name of a file.
    let rows = weeks.rows("first", "readings");
    for row in rows.iter().take(50) {
        for text_of in [&text_of_flow, &text_of_parquet] {
            assert!(!text_of.contains(text(row, "patient")) && !text_of.contains("one.ndjson"));
        }
    }

    let profile = "audit.reference_profile=\"flow.json\"";
    let quiet = weeks.run("quiet", "two.ndjson", &[profile]).succeeded();
    assert!(quiet.err.contains("compared with the profile") && !quiet.err.contains(NO_REFERENCE), "{}", quiet.err);
    assert_eq!(weeks.rows("quiet", "alerts"), Vec::<Row>::new());
    let shifts = weeks.rows("quiet", "shifts");
    let instant_of = |key: &str| of_flow[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond();
    for row in &shifts {
        let span = (instant(row, "reference_start"), instant(row, "reference_end"));
        assert_eq!(span, (Some(instant_of("start")), Some(instant_of("end"))));
    }
    let judged = |row: &&Row| text(row, "verdict") != "insufficient" && text(row, "group") == "all";
    assert!(shifts.iter().filter(judged).count() >= 5 * 4, "the first window has a reference already");

    weeks.shifted(18.0);
    weeks.run("moved", "shifted.ndjson", &[profile]).succeeded();
    let alerts = weeks.rows("moved", "alerts");
    let of = |feature: &str| alerts.iter().find(|row| text(row, "feature") == feature && text(row, "group") == "all");
    let raised = of("systolic").unwrap_or_else(|| panic!("{alerts:?}"));
    assert_eq!(text(raised, "state"), "raised");
    assert!(of("diastolic").is_none(), "{alerts:?}");
    report(&weeks);
    goes_on(&weeks, profile);
    of_another_model(&weeks, profile);
}

/// The report says which reference it was.
fn report(weeks: &Weeks) {
    for (data, profile) in [("moved", true), ("first", false)] {
        finish(windkessel(weeks.at()).args(["report", data, "--out", "page.html"])).succeeded();
        let page = fs::read_to_string(weeks.at().join("page.html")).unwrap();
        assert_eq!(page.contains("a saved profile"), profile, "{data}");
    }
}

/// Features are compared with a profile that was scored otherwise, probabilities are not.
fn of_another_model(weeks: &Weeks, profile: &str) {
    let train = ["train", "--output", "model.json", "--patients", "40", "--observations", "4000"];
    finish(windkessel(weeks.at()).args(train)).succeeded();
    let scored = weeks.run("scored", "two.ndjson", &[profile, "model.file=\"model.json\""]).succeeded();
    assert!(scored.err.contains(NO_REFERENCE) && scored.err.contains("by the model none"), "{}", scored.err);
    let shifts = weeks.rows("scored", "shifts");
    let (probability, features): (Vec<_>, Vec<_>) =
        shifts.iter().partition(|row| text(row, "feature") == "probability");
    assert!(probability.iter().all(|row| text(row, "verdict") == "insufficient" && row["reference_count"] == 0));
    assert!(!probability.is_empty() && features.iter().any(|row| text(row, "verdict") == "none"));
}

/// State goes on with another profile, but not with another kind of reference.
fn goes_on(weeks: &Weeks, profile: &str) {
    weeks.run("quiet", "two.ndjson", &["audit.reference_profile=\"parquet.json\""]).succeeded();
    weeks.run("quiet", "two.ndjson", &[profile]).succeeded();
    let trailing = weeks.run("quiet", "two.ndjson", &[]);
    refused(&trailing, 78, &["audit.reference_profile", "audit.reference_windows 24", "empty state.path"]);
}

#[test]
fn what_cannot_be_a_profile_is_refused_in_a_sentence() {
    let weeks = Weeks::new();
    weeks.profile("p.json", "one.ndjson", &[]);
    let (text, _) = weeks.text("p.json");
    let refuse = |name: &str, text: &str, words: &[&str]| {
        fs::write(weeks.at().join("wrong.json"), text).unwrap();
        let setting = "audit.reference_profile=\"wrong.json\"";
        for verb in ["run", "check", "explain"] {
            let finished = finish(&mut weeks.command(verb, "two.ndjson", &[setting]));
            refused(&finished, 78, &[&["could not read flow", "wrong.json"], words].concat());
        }
        assert!(!weeks.at().join("windkessel-data/state").exists(), "{name}: nothing was begun");
    };
    refuse("another file", "{\"format\": 1}", &["no key windkessel_profile", "`windkessel profile` makes one"]);
    refuse("cut off", &text[..text.len() / 2], &["it is none"]);
    refuse("later", &text.replace("\"windkessel_profile\": 1", "\"windkessel_profile\": 2"), &["format 2"]);
    refuse("other bins", &text.replace("rounded_1_mmhg", "rounded_2_mmhg"), &["by the rule", "make it anew"]);
    refuse("unknown feature", &text.replace("\"diastolic\"", "\"pulse\""), &["no feature \"pulse\"", "known are"]);
    let named = |input: &str, more: &[&str]| finish(weeks.command("profile", input, &[]).args(more));
    refused(&named("one.ndjson", &["--out", "p.json"]), 69, &["it is there already", "--force"]);
    refused(&named("one.ndjson", &["--out", "q.json", "--column", "systolic=x"]), 78, &["--column is for Parquet"]);
    fs::write(weeks.at().join("empty.ndjson"), "").unwrap();
    refused(&named("empty.ndjson", &["--out", "q.json"]), 69, &["no readings with both pressures"]);
    let few: Vec<String> =
        fs::read_to_string(weeks.at().join("one.ndjson")).unwrap().lines().take(70).map(str::to_owned).collect();
    fs::write(weeks.at().join("few.ndjson"), few[few.len() - 10..].join("\n")).unwrap();
    refused(&named("few.ndjson", &["--out", "q.json"]), 69, &["patients, and a profile is of at least 11"]);
    let in_folder = |args: &[&str]| finish(windkessel(weeks.at()).arg("profile").args(args));
    refused(&in_folder(&["absent"]), 78, &["could not read flow \"absent\""]);
    refused(&in_folder(&["absent.parquet"]), 69, &["absent.parquet", "No such file"]);
    assert_eq!(in_folder(&["absent.parquet", "--column", "pulse=x"]).code(), Some(2));
    let left: Vec<PathBuf> =
        ["q.json", "profile.json"].map(|name| weeks.at().join(name)).into_iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}
