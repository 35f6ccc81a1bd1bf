//! How long each stage is at work, from timely's own log.
//!
//! Timely says when it starts and stops every operator. An operator that another one contains (the dataflow contains them all) runs within
//! its time, so each is charged what is left after those within it: the sum is the worker's time outside sleep, and nothing is counted twice.
//!
//! An operator is charged to the stage that it is named after (`decode`, `tables::readings`); one with a name of timely's or differential's own
//! (`Broadcast`, `Arrange`) to the stage named last before it, for a stage makes its operators in a row. The dataflow itself, which moves
//! messages and tracks progress, stands as [`TIMELY`].
//!
//! Invariants: labels are the names that the graph gives, in lower case, and [`TIMELY`]; the counters move once a step of the worker.
//!
//! What it does not do: threads of sinks count their own time (`runtime/delivery.rs`), under the sink's name.

use std::time::Duration;

use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

use super::metrics::Metrics;

/// What no stage is charged with.
pub const TIMELY: &str = "timely";

/// Begins to count on a worker. To be called before its dataflow is built: operators are named when they are made.
pub(super) fn watch(worker: &Worker, metrics: Metrics) {
    let Some(mut register) = worker.log_register() else { return };
    let mut busy = Busy::default();
    register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        busy.take(events.iter_mut().flatten().map(|(at, event)| (*at, &*event)));
        for (stage, time) in busy.drain() {
            metrics.stage_busy.with_label_values(&[stage]).inc_by(time.as_secs_f64());
        }
    });
}

/// The machine: events in, time by stage out.
#[derive(Default)]
struct Busy {
    /// The stage of each operator, by its number, which timely counts up from 0.
    stages: Vec<usize>,
    /// The stages' names, and the time since it was last asked for.
    times: Vec<(String, Duration)>,
    /// The stage that was named last.
    last: usize,
    /// What runs, from the outermost on: the operator, its start, and the time of those within it.
    running: Vec<(usize, Duration, Duration)>,
}

impl Busy {
    fn take<'a>(&mut self, events: impl Iterator<Item = (Duration, &'a TimelyEvent)>) {
        for (at, event) in events {
            match event {
                TimelyEvent::Operates(operates) => self.named(operates.id, operates.addr.len(), &operates.name),
                TimelyEvent::Schedule(schedule) => match schedule.start_stop {
                    StartStop::Start => self.running.push((schedule.id, at, Duration::ZERO)),
                    StartStop::Stop => self.stopped(schedule.id, at),
                },
                _ => {}
            }
        }
    }

    /// An operator was made, so many scopes deep.
    fn named(&mut self, id: usize, depth: usize, name: &str) {
        let stage = name.split("::").next().unwrap_or_default();
        let ours = !stage.is_empty() && stage.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let slot = match (depth, ours) {
            (0 | 1, _) => self.slot(TIMELY),
            (_, true) => {
                self.last = self.slot(stage);
                self.last
            }
            (_, false) => self.last,
        };
        if self.stages.len() <= id {
            self.stages.resize(id + 1, 0);
        }
        self.stages[id] = slot;
    }

    fn slot(&mut self, name: &str) -> usize {
        // The first slot is timely's: what has no name yet is charged there.
        if self.times.is_empty() {
            self.times.push((TIMELY.to_owned(), Duration::ZERO));
        }
        self.times.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.times.push((name.to_owned(), Duration::ZERO));
            self.times.len() - 1
        })
    }

    fn stopped(&mut self, id: usize, at: Duration) {
        let Some((running, started, within)) = self.running.pop() else { return };
        debug_assert_eq!(running, id, "operators end in the opposite order of their starts");
        let whole = at.saturating_sub(started);
        if let Some((_, _, of_those_within)) = self.running.last_mut() {
            *of_those_within += whole;
        }
        let slot = self.stages.get(id).copied().unwrap_or_else(|| self.slot(TIMELY));
        self.times[slot].1 += whole.saturating_sub(within);
    }

    /// The time of each stage since this was last asked, where there was some.
    fn drain(&mut self) -> impl Iterator<Item = (&str, Duration)> {
        let times = self.times.iter_mut().map(|(stage, time)| (stage.as_str(), std::mem::take(time)));
        times.filter(|(_, time)| !time.is_zero())
    }
}

#[cfg(test)]
mod tests {
    //! What these prove: every moment is charged once, to the innermost operator; and which stage that operator belongs to.

    use std::collections::BTreeMap;

    use timely::dataflow::operators::Probe;
    use timely::dataflow::operators::vec::{Broadcast, Map, ToStream};
    use timely::logging::{OperatesEvent, ScheduleEvent};

    use super::*;
    use crate::runtime::metrics::samples;

    fn made(id: usize, depth: usize, name: &str) -> TimelyEvent {
        OperatesEvent { id, addr: vec![0; depth], name: name.into() }.into()
    }

    /// The dataflow 0 with the operators 1, 2 and so on.
    fn busy(names: &[&str]) -> Busy {
        let mut busy = Busy::default();
        let operators = (1..).zip(names).map(|(id, name)| made(id, 2, name));
        let events: Vec<TimelyEvent> = operators.chain([made(0, 1, "Dataflow")]).collect();
        busy.take(events.iter().map(|event| (Duration::ZERO, event)));
        busy
    }

    /// Seconds by stage after a script such as `0+1 1+2 3-2 5-1`: at second 0 operator 1 starts, and so on.
    fn run(busy: &mut Busy, script: &str) -> BTreeMap<String, u64> {
        for word in script.split(' ') {
            let at = word.find(['+', '-']).unwrap();
            let (second, id): (u64, usize) = (word[..at].parse().unwrap(), word[at + 1..].parse().unwrap());
            let event = if word.contains('+') { ScheduleEvent::start(id) } else { ScheduleEvent::stop(id) };
            busy.take([(Duration::from_secs(second), &event.into())].into_iter());
        }
        busy.drain().map(|(stage, time)| (stage.to_owned(), time.as_secs())).collect()
    }

    #[test]
    fn each_is_charged_what_those_within_it_leave() {
        let mut busy = busy(&["decode", "patient"]);
        let told = run(&mut busy, "0+0 1+1 4-1 6+2 11-2 12-0");
        assert_eq!(told, [("decode".into(), 3), ("patient".into(), 5), ("timely".into(), 4)].into());
        assert_eq!(run(&mut busy, "20+0 20-0"), [].into(), "nothing is told twice");
        // The log may be handed over in the middle of an activation.
        assert_eq!(run(&mut busy, "30+0 31+1"), [].into());
        assert_eq!(run(&mut busy, "33-1 34-0"), [("decode".into(), 2), ("timely".into(), 2)].into());
    }

    #[test]
    fn operators_without_a_stage_of_their_own_belong_to_the_one_named_before() {
        let mut busy =
            busy(&["source", "Broadcast", "audit::counts", "Arrange", "tables::readings", "tables::windows"]);
        let told = run(&mut busy, "0+1 1-1 1+2 3-2 3+3 6-3 6+4 10-4 10+5 15-5 15+6 21-6");
        assert_eq!(told, [("source".into(), 3), ("audit".into(), 7), ("tables".into(), 11)].into());
    }

    #[test]
    fn a_real_worker_is_at_work_in_the_operators_that_are() {
        let metrics = Metrics::new();
        let told = metrics.clone();
        timely::execute_directly(move |worker| {
            watch(worker, told.clone());
            worker.dataflow::<u64, _, _>(|scope| {
                let slow = (0..20_u64).to_stream(scope).container::<Vec<_>>();
                let slow = crate::runtime::driver::batches(
                    slow,
                    "decode",
                    crate::runtime::checkpoint::Seat::loose(()),
                    |(), _, number: u64, out| {
                        std::thread::sleep(Duration::from_millis(1));
                        out.push(number);
                    },
                );
                slow.broadcast().map(|number| number + 1).probe();
            });
            while worker.has_dataflows() {
                worker.step();
            }
        });
        let told = samples(&metrics.stage_busy);
        let of = |name: &str| told.iter().find(|sample| sample.label("operator") == name).map(|sample| sample.value);
        assert!(of("decode").is_some_and(|seconds| seconds >= 0.02), "it slept for 20 ms: {told:?}");
        assert!(of(TIMELY).is_some_and(|seconds| seconds < of("decode").unwrap()), "{told:?}");
    }
}
