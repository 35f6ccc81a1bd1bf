//! Proves that the demo needs nothing and does what the oracle says.

use std::fs;

use crate::oracle::{self, Message, Times};
use crate::support::{Tables, finish, integer, last_rows, ndjson, outcomes, parquet, same, windkessel};

const SECOND: i64 = 1_000_000;

#[test]
fn the_demo_accounts_for_every_message_of_its_embedded_broker() {
    let folder = tempfile::tempdir().unwrap();
    let made = ["--observations", "20000", "--patients", "400", "--seed", "1"];
    finish(windkessel(folder.path()).args(["generate", "--output", "same.ndjson"]).args(made)).succeeded();
    let mut demo = windkessel(folder.path());
    demo.args(["demo", "--rate", "0", "--listen", "127.0.0.1:0", "--output", "out", "-w", "2"]).args(made);
    let finished = finish(&mut demo).succeeded();

    let data = folder.path().join("out");
    let key = fs::read_to_string(data.join("pseudonym.key")).unwrap();
    let key: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap()).collect();
    // With a disorder beyond what the generator makes nothing is late, so it does not matter how patients share partitions.
    let times = Times { window: 3_600 * SECOND, disorder: 600 * SECOND, lateness: 86_400 * SECOND };
    let text = fs::read_to_string(folder.path().join("same.ndjson")).unwrap();
    let message = |(offset, line): (i64, &str)| Message {
        partition: 0,
        offset,
        received_at: None,
        payload: line.as_bytes().to_owned(),
    };
    let messages: Vec<Message> = (0..).zip(text.lines()).map(message).collect();
    let expected = oracle::expect(&messages, &key.try_into().unwrap(), times);

    for (name, count) in outcomes(&finished.out) {
        assert_eq!(count, expected.outcomes.get(name.as_str()).copied().unwrap_or(0), "{name}");
    }
    let tables = Tables::ndjson(&data);
    same(&tables, &Tables::parquet(&data), "NDJSON and Parquet");
    assert_eq!(tables.readings.len(), expected.readings.len());
    assert_eq!(tables.rejected.len(), expected.rejected.len());
    tables.windows_agree(&expected);
    assert!(tables.readings.iter().all(|row| row.contains_key("received_at")), "the broker says when it took them in");
    assert!(!last_rows(&ndjson(&data, "shifts"), &["feature", "group", "current_start"]).is_empty());
    assert_eq!(ndjson(&data, "shifts").len(), parquet(&data, "shifts").len());
    assert!(data.join("model.json").exists());
}

#[test]
fn the_demo_takes_your_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let made = ["--observations", "600", "--patients", "20"];
    for (name, format) in [("a.ndjson", "bare"), ("b.ndjson.gz", "bundle"), ("c.ndjson.zst", "envelope")] {
        let mut generate = windkessel(folder.path());
        generate.args(["generate", "--output", name, "--format", format, "--seed", "3"]).args(made);
        finish(&mut generate).succeeded();
    }
    let mut demo = windkessel(folder.path());
    demo.args(["demo", "--listen", "127.0.0.1:0", "--output", "out", "--rate", "0"]);
    let finished = finish(demo.args(["--input", "a.ndjson", "b.ndjson.gz", "c.ndjson.zst"])).succeeded();
    let told = outcomes(&finished.out);
    // The same observations three times: once they count, twice they are known.
    assert!(told["contributed"] > 550 && told["duplicate"] > 1_100, "{}", finished.out);
}

/// Outcomes come from a topic of their own, in the hour after the readings that they are about.
#[test]
fn the_demo_measures_scores_against_what_came_of_its_patients() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = windkessel(folder.path());
    demo.args(["demo", "--outcomes", "--observations", "20000", "--patients", "400", "--rate", "0", "-w", "2"]);
    let finished = finish(demo.args(["--listen", "127.0.0.1:0", "--output", "out"])).succeeded();
    assert!(outcomes(&finished.out)["contributed"] > 20_000, "{}", finished.out);
    let rows = last_rows(&ndjson(&folder.path().join("out"), "performance"), &["group", "current_start"]);
    let all: Vec<_> = rows.iter().filter(|row| row["group"] == "all").collect();
    let sum = |column: &str| all.iter().map(|row| integer(row, column)).sum::<i64>();
    let (readings, labelled, positives) = (sum("readings_count"), sum("labelled_count"), sum("positives_count"));
    // Readings that came when their patient's next hour had begun have the label of their own hour as well.
    assert!(
        labelled * 100 > readings * 95 && positives * 200 > labelled && positives * 5 < labelled,
        "{readings} {labelled} {positives}"
    );
    assert!(all.iter().any(|row| row.contains_key("auroc")), "{all:?}");
    assert!(ndjson(&folder.path().join("out"), "fairness").iter().any(|row| row.contains_key("tpr")));
}
