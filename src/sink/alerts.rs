//! Rows of `alerts`, as the sinks that tell somebody read them: what a row is about, and which worker it comes from.
//!
//! Invariants: a row's key is of its subject and window alone, whatever is said of them; its route is that of the state which it comes from, so that
//! a replay on another number of workers finds out who had it before.

use arrow::array::{AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};

use crate::audit::publish;
use crate::runtime::survive::Route;
use crate::sink::json::instant_text;
use crate::time::EventTime;

/// The columns of a batch that say what its rows are about.
pub(super) struct Alerts<'a> {
    subject: [&'a StringArray; 3],
    window: [&'a TimestampMicrosecondArray; 2],
}

impl<'a> Alerts<'a> {
    /// Of a batch of `alerts`.
    ///
    /// # Panics
    /// If it is of another table: the schema is fixed.
    pub(super) fn of(batch: &'a RecordBatch) -> Self {
        let column = |name: &str| batch.column_by_name(name).expect("the table's schema is fixed");
        Alerts {
            subject: ["table", "feature", "group"].map(|name| column(name).as_string()),
            window: ["current_start", "current_end"].map(|name| column(name).as_primitive()),
        }
    }

    /// What the alert is about for as long as it stands: table, feature and group.
    pub(super) fn subject(&self, row: usize) -> String {
        self.subject.map(|column| column.value(row)).join("/")
    }

    /// The subject, and start and end of the window with which it begins, ends or was taken back.
    pub(super) fn key(&self, row: usize) -> String {
        // A window lies among the years that a row can show: else there were no row.
        let [start, end] = self.window.map(|bound| instant_text(EventTime::from_micros(bound.value(row))));
        format!("{}/{start}/{end}", self.subject(row))
    }

    /// The worker that it comes from, modulo the workers.
    ///
    /// # Panics
    /// If the audit has no such series: it makes these rows.
    pub(super) fn route(&self, row: usize) -> Route {
        let [table, feature, group] = self.subject.map(|column| column.value(row));
        publish::route(table, feature, group).expect("an alert is about a series that is published")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::testing::{alert, alerts};
    use crate::vocabulary::findings::AlertState;

    #[test]
    fn the_key_is_of_subject_and_window_whatever_is_said() {
        let rows =
            alerts(7, vec![alert("systolic", 1, AlertState::Raised), alert("systolic", 1, AlertState::Withdrawn)]);
        let alerts = Alerts::of(&rows.batch);
        assert_eq!(alerts.subject(0), "shifts/systolic/all");
        assert_eq!(alerts.key(0), "shifts/systolic/all/2026-01-01T01:00:00.000000Z/2026-01-01T02:00:00.000000Z");
        assert_eq!(alerts.key(0), alerts.key(1));
        assert_eq!((alerts.route(0), alerts.route(1)), (0, 0));
    }
}
