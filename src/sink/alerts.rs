//! Rows of `alerts`, as the sinks that tell somebody read them: what a row is about, and which worker it comes from.
//!
//! Invariants: a row's key is of its subject and window alone, whatever is said of them; its route is that of the state which it comes from, so that
//! a replay on another number of workers finds out who had it before.

use arrow::array::{AsArray, StringArray, TimestampMicrosecondArray};

use crate::runtime::survive::Route;
use crate::sink::Rows;
use crate::sink::json::instant_text;
use crate::time::EventTime;

/// The columns of a batch that say what its rows are about.
pub(super) struct Alerts<'a> {
    subject: [&'a StringArray; 3],
    window: [&'a TimestampMicrosecondArray; 2],
    routes: &'a [Route],
}

impl<'a> Alerts<'a> {
    /// Of a batch of `alerts`.
    ///
    /// # Panics
    /// If it is of another table: the schema is fixed.
    pub(super) fn of(rows: &'a Rows) -> Self {
        let column = |name: &str| rows.batch.column_by_name(name).expect("the table's schema is fixed");
        Alerts {
            routes: &rows.routes,
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
    pub(super) fn route(&self, row: usize) -> Route {
        self.routes[row]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::series::Series;
    use crate::runtime::survive::KEY_GROUPS;
    use crate::sink::testing::{alert, alerts};
    use crate::vocabulary::TopicId;
    use crate::vocabulary::findings::{Alert, AlertState, Part};

    #[test]
    fn the_key_is_of_subject_and_window_whatever_is_said() {
        let rows =
            alerts(7, vec![alert("systolic", 1, AlertState::Raised), alert("systolic", 1, AlertState::Withdrawn)]);
        let alerts = Alerts::of(&rows);
        assert_eq!(alerts.subject(0), "shifts/systolic/all");
        assert_eq!(alerts.key(0), "shifts/systolic/all/2026-01-01T01:00:00.000000Z/2026-01-01T02:00:00.000000Z");
        assert_eq!(alerts.key(0), alerts.key(1));
        assert_eq!((alerts.route(0), alerts.route(1)), (0, 0));
    }

    #[test]
    fn an_alert_about_a_topic_is_named_by_it_and_comes_from_where_its_inputs_are_counted() {
        let of = |topic| Alert {
            table: "quality",
            group: Part::Topic(topic),
            ..alert("unit_missing", 1, AlertState::Raised)
        };
        let topics = [Some(TopicId(0)), Some(TopicId(1)), None];
        let rows = alerts(7, topics.map(of).into());
        let alerts = Alerts::of(&rows);
        let subjects = ["quality/unit_missing/bp-obs", "quality/unit_missing/other", "quality/unit_missing/others"];
        for (row, subject) in subjects.into_iter().enumerate() {
            assert_eq!(alerts.subject(row), subject);
        }
        // By the number of the topic, for topics may be called anything.
        let inputs = |topic: Option<TopicId>| Series::inputs(topic.unwrap_or(TopicId(u32::MAX))).subject();
        let routes = topics.map(|topic| Route::from(inputs(topic).0) % KEY_GROUPS);
        assert_eq!([alerts.route(0), alerts.route(1), alerts.route(2)], routes);
    }
}
