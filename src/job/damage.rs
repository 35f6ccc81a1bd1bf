//! That a damaged checkpoint is noticed, and costs nothing but time: a run that begins with the one before writes the rows of a run that was
//! never disturbed. Files in, NDJSON out, everything in between as it is.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;

/// Three days of an export, one file a day and patient group; one run a day.
const DAYS: usize = 3;
const GROUPS: usize = 3;
const PATIENTS: usize = 8;

struct Place {
    root: tempfile::TempDir,
    /// So much of each document is something that nobody reads.
    padding: usize,
    settings: &'static [&'static str],
}

impl Place {
    fn new() -> Place {
        let place = Place { root: tempfile::tempdir().unwrap(), padding: 0, settings: &["patient.disorder=\"2h\""] };
        std::fs::create_dir(place.path("input")).unwrap();
        Key::create_file(&place.path("key")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// What arrives on a day: readings that come into windows of the day before, too, and corrections of what is known.
    fn arrives(&self, day: usize) {
        for group in 0..GROUPS {
            let lines = (0..PATIENTS).flat_map(|patient| {
                (0..24 + 4 * usize::from(day > 0)).map(move |hour| {
                    let (at_day, hour) = if hour < 24 { (day, hour) } else { (day - 1, 5 * (hour - 24) + 2) };
                    let number = patient + PATIENTS * group;
                    let corrects = hour % 11 == 3 && day > 0;
                    let (of_day, version) = if corrects { (at_day.max(1) - 1, day + 1) } else { (at_day, 1) };
                    let systolic = 100 + (number * 7 + hour * 13 + day * 31) % 90;
                    observation(number, of_day, hour, version, systolic).replace("NOTE", &"x".repeat(self.padding))
                })
            });
            let text = lines.collect::<Vec<_>>().join("\n");
            std::fs::write(self.path("input").join(format!("Observation.{day}-{group}.ndjson")), text).unwrap();
        }
    }

    fn flow(&self) -> Flow {
        let text = |name: &str| toml::Value::String(self.path(name).display().to_string()).to_string();
        let own = [
            format!("source.paths=[{}]", text("input")),
            format!("pseudonymise.key_file={}", text("key")),
            format!("sink.ndjson.path={}", text("output")),
            format!("state.path={}", text("state")),
        ];
        let overrides: Vec<String> = own.into_iter().chain(self.settings.iter().map(|set| (*set).to_owned())).collect();
        let flow = "name = \"damage\"\n[source]\nkind = \"files\"\n[patient]\nlateness = \"40h\"\n[audit]\nwindow = \"1d\"\n\
                    reference_windows = 1\nreadings_min = 1\n[http]\nlisten = \"\"\n[sink.ndjson]\npath = \"x\"\n[pseudonymise]\nkey_file = \"x\"\n";
        Flow::parse(flow, &overrides).unwrap()
    }

    fn run(&self, workers: usize) -> Result<Report, Failed> {
        let options = Options {
            workers,
            until_end: true,
            stop: Stop::default(),
            terminal: None,
            read: None,
            keep: Keep::State,
            replay_with_new_code: false,
            cluster: None,
        };
        Job::prepare(self.flow(), options)?.run()
    }

    /// What readers go by: of each reading its row, of each window and each shift the row of the highest epoch; without the epoch, which the
    /// machine's clock has chosen. No key has two rows of one epoch.
    fn rows(&self) -> BTreeMap<String, String> {
        let mut last: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for (table, key) in [
            ("readings", &["topic", "partition", "offset"][..]),
            ("windows", &["patient", "window_start"]),
            ("shifts", &["feature", "group", "current_start"]),
        ] {
            let files = std::fs::read_dir(self.path("output").join(table)).unwrap().map(|entry| entry.unwrap().path());
            let named = |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with(['.', '_']);
            for file in files.filter(named) {
                for line in std::fs::read_to_string(&file).unwrap().lines() {
                    let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
                    let epoch = row.remove("epoch").unwrap().as_u64().unwrap();
                    let key = key.iter().map(|column| row[*column].to_string());
                    let key = [table.to_owned()].into_iter().chain(key).collect::<Vec<_>>().join(" ");
                    let before = last.get(&key).map(|(epoch, _)| *epoch);
                    assert!(before != Some(epoch), "{key} twice in epoch {epoch}");
                    assert!(table != "readings" || before.is_none(), "{key} twice");
                    if before < Some(epoch) {
                        last.insert(key, (epoch, serde_json::Value::Object(row).to_string()));
                    }
                }
            }
        }
        last.into_iter().map(|(key, (_, row))| (key, row)).collect()
    }

    /// The state files of the newest checkpoint, or of all.
    fn state_files(&self, all: bool) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.path("state/state")).unwrap().map(|entry| entry.unwrap().path());
        let files: BTreeSet<PathBuf> = files.collect();
        // Names begin with the epoch.
        let epoch = |path: &PathBuf| path.file_name().unwrap().to_string_lossy()[..20].to_owned();
        let newest = files.last().map(epoch);
        files.into_iter().filter(|path| all || Some(epoch(path)) == newest).collect()
    }
}

fn observation(patient: usize, day: usize, hour: usize, version: usize, systolic: usize) -> String {
    let pressure = |code: &str, value: usize| {
        format!(
            r#"{{"code":{{"coding":[{{"system":"http://loinc.org","code":"{code}"}}]}},"valueQuantity":{{"value":{value},"code":"mm[Hg]"}}}}"#
        )
    };
    format!(
        r#"{{"resourceType":"Observation","id":"o{patient}-{day}-{hour}","meta":{{"versionId":"{version}"}},"status":"final","note":[{{"text":"NOTE"}}],"code":{{"coding":[{{"system":"http://loinc.org","code":"85354-9"}}]}},"subject":{{"reference":"Patient/p{patient}"}},"effectiveDateTime":"2026-01-0{}T{hour:02}:00:00Z","component":[{},{}]}}"#,
        day + 1,
        pressure("8480-6", systolic),
        pressure("8462-4", systolic / 2 + 15)
    )
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn flip_a_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

/// Runs the first days, and keeps what they left beside it.
fn until_the_last_day(workers: usize) -> Place {
    Place::new().until_the_last_day(workers)
}

impl Place {
    fn until_the_last_day(self, workers: usize) -> Place {
        for day in 0..DAYS - 1 {
            self.arrives(day);
            self.run(workers).unwrap();
        }
        self.arrives(DAYS - 1);
        for name in ["state", "output"] {
            copy(&self.path(name), &self.path(&format!("kept-{name}")));
        }
        self
    }

    /// As it was before the last day.
    fn again(&self) {
        for name in ["state", "output"] {
            std::fs::remove_dir_all(self.path(name)).unwrap();
            copy(&self.path(&format!("kept-{name}")), &self.path(name));
        }
    }
}

fn same(rows: &BTreeMap<String, String>, expected: &BTreeMap<String, String>, what: &str) {
    for (key, row) in expected {
        assert_eq!(rows.get(key), Some(row), "{what}: {key}");
    }
    assert_eq!(rows.len(), expected.len(), "{what}");
}

#[test]
fn a_run_falls_back_behind_a_damaged_checkpoint_and_writes_the_rows_of_one_that_was_not_disturbed() {
    for workers in [1, 2] {
        let place = until_the_last_day(workers);
        let before = place.rows();
        let report = place.run(workers).unwrap();
        assert_eq!(report.metrics().replayed_epochs.get(), 0);
        let undisturbed = place.rows();
        assert!(undisturbed.len() > before.len() + 100, "the last day has rows");
        // What came on the last day for 14:00 of the day before counts there. What came for 3:00 does in the first patient of each file alone:
        // behind the others lies a day's end, which is more than `lateness` ahead.
        let shift = &undisturbed[r#"shifts "systolic" "all" "2026-01-02T00:00:00.000000Z""#];
        let counted = format!("\"current_count\":{}", PATIENTS * GROUPS * (22 + 1) + GROUPS);
        assert!(shift.contains(&counted), "{shift}");
        place.again();
        let files = place.state_files(false);
        assert!(files.len() >= 3 * workers, "{files:?}");
        let damages: [&dyn Fn(&Path); 2] = [&flip_a_byte, &|path| std::fs::remove_file(path).unwrap()];
        for (at, file) in files.iter().enumerate() {
            place.again();
            damages[at % 2](file);
            let report = place.run(workers).unwrap();
            assert!(report.metrics().replayed_epochs.get() > 0, "{file:?}: the day before is repeated");
            same(&place.rows(), &undisturbed, &format!("{workers} workers, {file:?}"));
        }
        // And a run after it has nothing to fall back from.
        assert_eq!(place.run(workers).unwrap().metrics().replayed_epochs.get(), 0);
        same(&place.rows(), &undisturbed, "a run without anything new");
    }
}

/// How often each window was written, by (patient, start, revision).
fn windows(place: &Place) -> BTreeMap<String, usize> {
    let mut windows = BTreeMap::new();
    for entry in std::fs::read_dir(place.path("output/windows")).unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let key = ["patient", "window_start", "revision"].map(|column| row[column].to_string()).join(" ");
            *windows.entry(key).or_default() += 1;
        }
    }
    windows
}

/// Each batch is an epoch, and nothing closes a window but the end.
const WHOLE_DAYS: [&str; 4] =
    ["epoch.ms=1", "patient.disorder=\"unbounded\"", "patient.window=\"1d\"", "patient.hop=\"1d\""];

/// The run that is fallen back behind had come to the end of its input, where all windows close. What comes next is not behind that end: its windows close
/// when it ends, once, and not in every epoch that adds to them.
#[test]
fn a_run_that_repeats_how_an_earlier_one_ended_closes_the_windows_of_what_is_new_once() {
    // More a day than one batch can take: some patient's day lies in two.
    let place = Place { padding: 4_096, settings: &WHOLE_DAYS, ..Place::new() };
    let place = place.until_the_last_day(1);
    place.run(1).unwrap();
    let undisturbed = windows(&place);
    place.again();
    flip_a_byte(&place.state_files(false)[0]);
    let report = place.run(1).unwrap();
    assert!(report.metrics().replayed_epochs.get() > 2, "a day is several epochs");
    let repeated = windows(&place);
    assert!(undisturbed.len() > DAYS * GROUPS * PATIENTS);
    for (window, count) in &repeated {
        assert_eq!(undisturbed.get(window), Some(count), "{window}");
    }
    assert_eq!(repeated, undisturbed);
}

#[test]
fn without_any_whole_checkpoint_a_run_refuses_to_start_and_changes_nothing() {
    let place = until_the_last_day(1);
    let before = place.rows();
    for file in place.state_files(true) {
        flip_a_byte(&file);
    }
    let error = place.run(1).err().expect("nothing to begin with").to_string();
    assert!(error.contains("state") && error.contains("empty state.path"), "{error}");
    assert_eq!(place.rows(), before);
}
