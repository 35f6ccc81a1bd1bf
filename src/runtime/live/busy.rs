//! How much of the last seconds each stage was at work: the metric counts up, the page shows a rate.
//!
//! Looks at the counters are kept for [`SPAN`], one a second at most; the rate is that between the oldest and now. So it exists from
//! the second look on, and does not depend on how many ask.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

/// Rates are over this long.
const SPAN: Duration = Duration::from_secs(5);
/// Looks are at least so far apart.
const APART: Duration = Duration::from_millis(900);

/// The stages of the graph in the order in which data flows, and what they are to the reader.
const STAGES: [(&str, &str); 7] = [
    ("source", "read"),
    ("decode", "FHIR to observations"),
    ("pseudonymise", "identity ends here"),
    ("patient", "windows, baseline"),
    ("score", "rules, model"),
    ("audit", "drift, fairness"),
    ("tables", "rows"),
];
/// The sinks.
const SINKS: [&str; 5] = ["parquet", "ndjson", "elasticsearch", "kafka", "live"];

/// One stage, sink or part of the engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageState {
    /// Its name, as in the metrics.
    pub stage: String,
    /// `stage`, `sink`, or `engine` for what keeps the run going.
    pub kind: &'static str,
    /// What it does, in few words; empty where the name says it.
    pub does: &'static str,
    /// Seconds of work since the start, over all workers.
    pub busy_seconds: f64,
    /// Seconds of work a second, lately; `None` before there were two looks.
    pub busy_per_second: Option<f64>,
}

/// Looks at the counters, oldest first.
#[derive(Default)]
pub(super) struct Busy {
    looks: VecDeque<(Duration, BTreeMap<String, f64>)>,
}

impl Busy {
    /// What to show at `now`, when the counters stand as given.
    pub(super) fn told(&mut self, now: Duration, counters: &BTreeMap<String, f64>) -> Vec<StageState> {
        let oldest = self.looks.front().filter(|(at, _)| now.saturating_sub(*at) >= APART);
        let rate = |stage: &str, seconds: f64| {
            let (at, before) = oldest?;
            let before = before.get(stage).copied().unwrap_or(0.0);
            Some((seconds - before).max(0.0) / now.saturating_sub(*at).as_secs_f64())
        };
        let mut told: Vec<StageState> = counters
            .iter()
            .map(|(stage, seconds)| {
                let known = STAGES.iter().find(|(name, _)| name == stage);
                let sink = SINKS.contains(&stage.as_str());
                StageState {
                    stage: stage.clone(),
                    kind: if known.is_some() {
                        "stage"
                    } else if sink {
                        "sink"
                    } else {
                        "engine"
                    },
                    does: known.map_or("", |(_, does)| does),
                    busy_seconds: *seconds,
                    busy_per_second: rate(stage, *seconds),
                }
            })
            .collect();
        told.sort_by_key(|state| {
            let place = |name: &str| {
                let all = STAGES.iter().map(|(name, _)| *name).chain(SINKS);
                all.into_iter().position(|known| known == name).unwrap_or(usize::MAX)
            };
            place(&state.stage)
        });
        self.look(now, counters);
        told
    }

    fn look(&mut self, now: Duration, counters: &BTreeMap<String, f64>) {
        if self.looks.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= APART) {
            self.looks.push_back((now, counters.clone()));
        }
        // The second oldest is old enough to be the oldest.
        while self.looks.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= SPAN) {
            self.looks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(decode: f64, kafka: f64) -> BTreeMap<String, f64> {
        [("decode", decode), ("kafka", kafka), ("timely", 0.5), ("source", 0.0)].map(|(s, v)| (s.to_owned(), v)).into()
    }

    #[test]
    fn rates_are_over_the_last_seconds_and_stages_in_the_order_of_the_graph() {
        let mut busy = Busy::default();
        let first = busy.told(Duration::from_secs(100), &counters(1.0, 0.0));
        let names: Vec<_> = first.iter().map(|state| (state.stage.as_str(), state.kind)).collect();
        assert_eq!(names, [("source", "stage"), ("decode", "stage"), ("kafka", "sink"), ("timely", "engine")]);
        assert!(first.iter().all(|state| state.busy_per_second.is_none()));
        let again = busy.told(Duration::from_millis(100_100), &counters(1.1, 0.0));
        assert_eq!(again[1].busy_per_second, None, "a tenth of a second says nothing");
        for second in 101..=130 {
            let told = busy.told(Duration::from_secs(second), &counters(1.0 + 0.25 * (second - 100) as f64, 0.0));
            assert!((told[1].busy_per_second.unwrap() - 0.25).abs() < 1e-9, "{second}");
            assert!(busy.looks.len() <= 7, "{}", busy.looks.len());
        }
        for second in 131..140 {
            busy.told(Duration::from_secs(second), &counters(8.5, 0.0));
        }
        assert_eq!(busy.told(Duration::from_secs(140), &counters(8.5, 0.0))[1].busy_per_second, Some(0.0));
    }
}
