//! What data quality is told of inputs that end in `decode`: a flaw, and in which pane.
//!
//! Such an input makes no reading, and nothing of it may be known but a rule and a position. That there was one in a pane of `audit.hop` is a count, and no
//! one's: so the time is cut down to the start of the pane before it leaves, and inputs with the same flaws in the same pane are one entry.
//!
//! The pane is that of
//!
//! 1. the effective time, if it could be read and is not ahead of the broker's by more than `decode.clock_ahead`; else
//! 2. the latest event time accepted from the partition before it: about where its neighbours are; else
//! 3. the broker's timestamp. An input of which not even that is known is not counted here.
//!
//! All three are functions of the partition's own content, so that how it was cut into batches changes nothing.

use super::rule;
use crate::time::{EventSpan, EventTime, IngestTime};
use crate::vocabulary::TopicId;
use crate::vocabulary::flaws::{Flaw, Flawed, Flaws};

/// What an input that broke a rule counts under.
pub(super) fn of_rule(rule: &'static str) -> Flaws {
    let flaw = match rule {
        rule::VALUE_MISSING => Flaw::SignalMissing,
        rule::IMPLAUSIBLE | rule::SYSTOLIC_NOT_ABOVE_DIASTOLIC | rule::VALUE_NOT_FINITE => Flaw::ValueOutOfRange,
        rule::UNIT_MISSING => Flaw::UnitMissing,
        rule::UNIT_OTHER => Flaw::UnitOther,
        rule::CLOCK_AHEAD => Flaw::ClockAhead,
        _ => Flaw::Rejected,
    };
    Flaws::input(Flaw::Rejected).with(flaw, true)
}

/// A signal is named and has no value: no rule is broken.
pub(super) const ABSENT: Flaws = Flaws::input(Flaw::SignalMissing);

/// When an input is counted, by what is known of its time.
#[derive(Clone, Copy)]
pub(super) struct When {
    /// Its effective time, if it can be believed.
    pub(super) measured: Option<EventTime>,
    /// The latest that was accepted from its partition.
    pub(super) latest: Option<EventTime>,
    /// The broker's timestamp.
    pub(super) received: Option<IngestTime>,
}

impl When {
    fn known(self) -> Option<EventTime> {
        let received = self.received.map(|at| EventTime::from_micros(at.micros()));
        self.measured.or(self.latest).or(received)
    }
}

/// Counts an input; `hop` is the length of a pane.
pub(super) fn count(into: &mut Vec<Flawed>, topic: TopicId, flaws: Flaws, when: When, hop: EventSpan) {
    let Some(at) = when.known().map(|at| at.floor_to(hop)) else { return };
    match into.last_mut() {
        Some(last) if (last.topic, last.at, last.flaws) == (topic, at, flaws) => last.count += 1,
        _ => into.push(Flawed { topic, at, flaws, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::flaws::MEASURES;

    #[test]
    fn rules_have_the_flaws_that_the_table_says() {
        let named = |rule: &'static str| of_rule(rule).numbers().map(|at| MEASURES[at]).collect::<Vec<_>>().join(" ");
        let special: Vec<String> = rule::REJECTED
            .into_iter()
            .filter(|rule| named(rule) != "readings rejected")
            .map(|rule| format!("{rule}: {}", named(rule)))
            .collect();
        expect_test::expect![[r#"
            clock_ahead: readings rejected clock_ahead
            value_missing: readings signal_missing rejected
            value_not_finite: readings rejected value_out_of_range
            unit_missing: readings rejected unit_missing
            unit_other: readings rejected unit_other
            implausible: readings rejected value_out_of_range
            systolic_not_above_diastolic: readings rejected value_out_of_range"#]]
        .assert_eq(&special.join("\n"));
    }

    #[test]
    fn the_best_time_that_is_known_says_in_which_pane() {
        let minute = EventSpan::from_seconds(60);
        let at = |seconds: i64| EventTime::from_micros(seconds * 1_000_000);
        let (measured, latest) = (Some(at(61)), Some(at(125)));
        let received = Some(IngestTime::from_millis(190_000));
        let mut counted = Vec::new();
        for when in [
            When { measured, latest, received },
            When { measured, latest: None, received: None },
            When { measured: None, latest, received },
            When { measured: None, latest: None, received },
            When { measured: None, latest: None, received: None },
        ] {
            count(&mut counted, TopicId(1), ABSENT, when, minute);
        }
        let counted: Vec<(i64, i32)> =
            counted.iter().map(|flawed| (flawed.at.micros() / 1_000_000, flawed.count)).collect();
        assert_eq!(counted, [(60, 2), (120, 1), (180, 1)]);
    }
}
