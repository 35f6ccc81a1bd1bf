//! Rows of `alerts` as what is sent: `schemas/webhook/alert.schema.json`. Pure.
//!
//! Invariant: a notice is a function of the flow's name, the row and its epoch: a replay makes the same, so that a receiver can drop by `id` what it has.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::runtime::survive::Route;
use crate::sink::alerts::Alerts;
use crate::sink::{Rows, id_of, json as rows_as_json};
use crate::time::Epoch;

/// An alert on its way to a receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// 32 hexadecimal digits: the same for the same alert, however often it is sent.
    pub(super) id: String,
    /// Where it came from.
    pub(super) epoch: Epoch,
    /// The worker whose it is, modulo the workers.
    pub(super) route: Route,
    /// The body, JSON.
    pub(super) body: String,
}

/// The notices of a batch of `alerts`, in the order of its rows.
pub(super) fn of(flow: &str, epoch: Epoch, rows: &Rows) -> Vec<Notice> {
    let alerts = Alerts::of(rows);
    let lines = rows_as_json::rows(&rows.batch, &Default::default()).expect("all columns are the table's own");
    let notice = |row: usize| {
        let columns: Value =
            serde_json::from_slice(lines.object(row).expect("no row is left out")).expect("it is JSON");
        let id = id(flow, &alerts.key(row), epoch);
        let mut body = json!({ "id": id, "flow": flow, "alert": alerts.subject(row), "text": text(flow, &columns) });
        if let (Some(body), Value::Object(columns)) = (body.as_object_mut(), columns) {
            body.extend(columns);
        }
        Notice { id, epoch, route: alerts.route(row), body: body.to_string() }
    };
    (0..lines.len()).map(notice).collect()
}

fn id(flow: &str, key: &str, epoch: Epoch) -> String {
    id_of(&format!("{flow}\n{key}\n{epoch}"))
}

/// One sentence for people.
fn text(flow: &str, row: &Value) -> String {
    let of = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let until = of("current_end").replace(".000000Z", "Z");
    let subject = format!("{} of {} in {}", of("table"), of("feature"), of("group"));
    let value = row["value"].as_f64().map_or_else(|| "unknown".into(), |value| format!("{value:.3}"));
    let held = &row["windows_held"];
    match of("state").as_str() {
        "raised" => format!(
            "{flow}: {subject}: {} is {value}, and has called for action in {held} windows until {until}",
            of("statistic")
        ),
        "cleared" => {
            format!("{flow}: {subject}: over; quiet in {held} windows until {until}, {} is {value}", of("statistic"))
        }
        _ => format!("{flow}: {subject}: what was said of the window until {until} is taken back, after a correction"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use expect_test::expect;

    use super::*;
    use crate::sink::testing::{alert, alerts};
    use crate::vocabulary::findings::AlertState;

    fn notices(epoch: Epoch, state: AlertState) -> Vec<Notice> {
        of("bp", epoch, &alerts(epoch, vec![alert("systolic", 1, state)]))
    }

    #[test]
    fn a_notice_says_what_the_row_says_and_one_sentence() {
        let body: Value = serde_json::from_str(&notices(7, AlertState::Raised)[0].body).unwrap();
        expect![[r#"
            {
              "id": "0f3fb1c240094eae00e7218162973fdf",
              "flow": "bp",
              "alert": "shifts/systolic/all",
              "text": "bp: shifts of systolic in all: psi is 0.310, and has called for action in 3 windows until 2026-01-01T02:00:00Z",
              "table": "shifts",
              "feature": "systolic",
              "group": "all",
              "current_start": "2026-01-01T01:00:00.000000Z",
              "current_end": "2026-01-01T02:00:00.000000Z",
              "state": "raised",
              "statistic": "psi",
              "value": 0.31,
              "windows_held": 3,
              "epoch": 7
            }"#]].assert_eq(&serde_json::to_string_pretty(&body).unwrap());
        let texts = [AlertState::Cleared, AlertState::Withdrawn].map(|state| {
            let body: Value = serde_json::from_str(&notices(7, state)[0].body).unwrap();
            body["text"].as_str().unwrap().to_owned()
        });
        expect![[r#"
            bp: shifts of systolic in all: over; quiet in 3 windows until 2026-01-01T02:00:00Z, psi is 0.310
            bp: shifts of systolic in all: what was said of the window until 2026-01-01T02:00:00Z is taken back, after a correction"#]].assert_eq(&texts.join("\n"));
    }

    #[test]
    fn the_id_is_the_same_for_the_same_alert_and_for_no_other() {
        assert_eq!(notices(7, AlertState::Raised), notices(7, AlertState::Raised));
        let other_window = of("bp", 7, &alerts(7, vec![alert("systolic", 2, AlertState::Raised)]));
        let other_flow = of("other", 7, &alerts(7, vec![alert("systolic", 1, AlertState::Raised)]));
        let all = [notices(7, AlertState::Raised), notices(8, AlertState::Raised), other_window, other_flow].concat();
        assert_eq!(all.iter().map(|notice| &notice.id).collect::<BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn the_schema_names_every_field_and_the_example_is_one() {
        let read = |name: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(format!("schemas/webhook/{name}")).unwrap()).unwrap()
        };
        let body: Value = serde_json::from_str(&notices(1_767_300_000_000, AlertState::Raised)[0].body).unwrap();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write("schemas/webhook/example.json", serde_json::to_string_pretty(&body).unwrap() + "\n")
                .unwrap();
        }
        let (schema, example) = (read("alert.schema.json"), read("example.json"));
        assert_eq!(example, body, "schemas/webhook/example.json");
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(keys(&schema["properties"]), keys(&body));
        let states = AlertState::ALL.map(|state| Value::from(state.name()));
        assert_eq!(schema["properties"]["state"]["enum"], Value::from(states.to_vec()));
    }
}
