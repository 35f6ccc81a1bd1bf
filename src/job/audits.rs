//! Scheduled audits: when a period of event time has ended, a page and a row of it are made from the files of recorded checkpoints.
//!
//! ```text
//! files are named ─tell─> [thread] ─ which windows? ─> periods that are due ─> page, row of fairness_reports ─> note in the store
//! ```
//!
//! Invariants:
//!
//! 1. An audit says what stands in committed files, and nothing else; so it needs no part of the checkpoint, and no stage waits for it.
//! 2. The note (`audits/…` in the store) is written when everything that it covers is kept. Whatever a crash interrupts is made again, and takes the place of
//!    what was there: pages by their names, rows by their ids.
//! 3. A database or a disk that is away is waited for, with back-off, until the run ends; the next one goes on.
//! 4. What was in the files when a schedule is first seen is no news: there is no audit of periods that had ended by then.
//!
//! Process 0 does it, for all: in a cluster the folder of the files must be one for all processes.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::{self, Failed};
use crate::config::TableName;
use crate::graph::Plan;
use crate::report::{self, Audit, Digest, Folders, Periods, Question};
use crate::runtime::metrics::unix_seconds;
use crate::runtime::recorder::Recorded;
use crate::runtime::stop::Stop;
use crate::runtime::store::SharedStore;
use crate::runtime::worker::Crew;
use crate::sink::json::instant_text;
use crate::sink::postgres::{self, Fault, History, Kept};
use crate::sink::remote::Backoff;
use crate::sink::{REPORTS, StagedFile};
use crate::time::{Epoch, EventSpan};
use crate::vocabulary::findings::Span;

/// Where notes are in the store.
const FOLDER: &str = "audits/";
/// How long the end of a run waits for audits that are due.
pub(super) const FINISH_MAX: Duration = Duration::from_secs(10);
/// Ceilings of the first wait and of every later one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// How far audits have come.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    /// Files that begin with an epoch up to here have been looked at.
    upto: Epoch,
    periods: Periods,
}

/// The thread that keeps audits.
pub(super) struct Auditor(Arc<Desk>);

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The newest checkpoint whose files are named and say something.
    newest: Epoch,
    /// No more will be told.
    ending: bool,
    /// The thread has gone.
    gone: bool,
}

impl Auditor {
    /// Starts it, if the flow schedules audits and this is the process that keeps them.
    ///
    /// # Errors
    /// A folder that cannot be made; a database that refuses. One that does not answer is waited for.
    pub(super) fn start(plan: &Plan, crew: Crew, store: &SharedStore, stop: &Stop) -> Result<Option<Auditor>, Failed> {
        let (schedule, sink) = (&plan.flow.spec.audit.schedule, &plan.flow.spec.sink);
        let Some(every) = schedule.every.filter(|_| crew.process == 0) else { return Ok(None) };
        let pages = Some(schedule.reports.clone()).filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = &pages {
            let failed = |error| format!("could not make audit.schedule.reports {folder:?}: {error}");
            std::fs::create_dir_all(folder).map_err(failed).map_err(Failed::unavailable)?;
        }
        let mut history = sink.postgres.as_ref().filter(|spec| spec.is_on()).map(History::new);
        if let Some(history) = &mut history {
            let _ = plan.metrics.sink_waiting.with_label_values(&[postgres::SINK]);
            match history.connect() {
                Err(Fault::Refused(why)) => return Err(Failed::unavailable(why)),
                Err(Fault::Passing(why)) => tracing::warn!(target: "audit", "{why}; audits wait for it"),
                Ok(()) => {}
            }
        }
        let folders = Folders {
            parquet: sink.parquet.as_ref().map(|parquet| parquet.path.clone()),
            ndjson: sink.ndjson.as_ref().map(|ndjson| ndjson.path.clone()),
        };
        let desk = Arc::new(Desk::default());
        desk.lock().newest = plan.generation.committed_up_to;
        let (store, stop, plan, shared) = (store.clone(), stop.clone(), plan.clone(), Arc::clone(&desk));
        let keeper = Keeper { desk: shared, store, stop, plan, every, folders, pages, history };
        let thread = std::thread::Builder::new().name("audits".into()).spawn(move || keeper.run());
        thread.map_err(Failed::unavailable)?;
        Ok(Some(Auditor(desk)))
    }

    /// What is to be told of every recorded checkpoint, when its files have their names.
    pub(super) fn teller(&self) -> impl Fn(&Recorded) + Send + 'static {
        let desk = Arc::clone(&self.0);
        move |recorded| {
            let says = |file: &StagedFile| TableName::OF_AUDIT.contains(&file.table);
            if recorded.staged.iter().any(says) {
                desk.lock().newest = recorded.epoch;
                desk.changed.notify_all();
            }
        }
    }

    /// Waits, not for long, until everything that is due is kept.
    pub(super) fn finish(self, at_most: Duration) {
        self.0.lock().ending = true;
        self.0.changed.notify_all();
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), at_most, |state| !state.gone);
        if !waited.unwrap_or_else(PoisonError::into_inner).0.gone {
            tracing::warn!(target: "audit", "scheduled audits are not all kept: the next run keeps them");
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a checkpoint above `upto`; `None` if there will be none.
    fn next(&self, upto: Epoch) -> Option<Epoch> {
        let state = self.changed.wait_while(self.lock(), |state| state.newest <= upto && !state.ending);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        Some(state.newest).filter(|newest| *newest > upto)
    }

    /// Sleeps, unless the end comes before.
    fn sleep(&self, pause: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), pause, |state| !state.ending));
    }
}

/// The run ends before an audit could be kept.
struct Ended;

/// The thread's side.
struct Keeper {
    desk: Arc<Desk>,
    store: SharedStore,
    stop: Stop,
    plan: Plan,
    every: EventSpan,
    folders: Folders,
    pages: Option<PathBuf>,
    history: Option<History>,
}

impl Drop for Keeper {
    /// Also after a panic: nobody waits for it then.
    fn drop(&mut self) {
        self.desk.lock().gone = true;
        self.desk.changed.notify_all();
    }
}

impl Keeper {
    fn run(mut self) {
        if self.keep_all().is_err() {
            tracing::warn!(target: "audit", "the run ends before every scheduled audit is kept: the next run keeps them");
        }
    }

    fn keep_all(&mut self) -> Result<(), Ended> {
        let mut note = self.persist("state", |keeper| keeper.read_note().map_err(Fault::Passing))?;
        while let Some(newest) = self.desk.next(note.upto) {
            let new = |first: Epoch| first > note.upto && first <= newest;
            report::windows(&self.folders, new).into_iter().for_each(|window| note.periods.saw(window));
            for period in note.periods.due() {
                self.keep(period)?;
                note.periods.done(period);
            }
            note.upto = newest;
            self.persist("state", |keeper| keeper.write_note(&note).map_err(Fault::Passing))?;
        }
        Ok(())
    }

    /// The newest note; without one, or if periods have another length now, what follows from the files that are there.
    fn read_note(&self) -> Result<Note, String> {
        let names = self.store.list(FOLDER).map_err(|error| error.to_string())?;
        if let Some(name) = names.last() {
            let bytes = self.store.get(name).map_err(|error| error.to_string())?.unwrap_or_default();
            let note: Option<Note> = serde_json::from_slice(&bytes).ok();
            if let Some(note) = note.filter(|note| note.periods.is_of(self.every)) {
                return Ok(note);
            }
        }
        let upto = self.plan.generation.committed_up_to;
        let mut periods = Periods::new(self.every);
        report::windows(&self.folders, |first| first <= upto).into_iter().for_each(|window| periods.saw(window));
        periods.begin();
        let note = Note { upto, periods };
        self.write_note(&note)?;
        Ok(note)
    }

    fn write_note(&self, note: &Note) -> Result<(), String> {
        let name = format!("{FOLDER}{:020}-{:010}", note.upto, self.plan.generation.number);
        let bytes = serde_json::to_vec(note).expect("numbers serialise");
        // One that is there is an attempt whose answer was lost: nobody else writes under our generation.
        self.store.create(&name, &bytes).map_err(|error| error.to_string())?;
        let names = self.store.list(FOLDER).map_err(|error| error.to_string())?;
        for older in names.iter().filter(|older| **older < name) {
            self.store.delete(older).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Keeps the audit of one period: the page first, for the row names it.
    fn keep(&mut self, period: Span) -> Result<(), Ended> {
        let flow = self.plan.flow.spec.name.clone();
        let Some(mut digest) = Digest::read(&self.folders, period, cli::now()) else { return Ok(()) };
        digest.summary["flow"] = flow.clone().into();
        let mut report_path = None;
        if let Some(folder) = self.pages.clone() {
            let path = folder.join(page_name(&flow, period));
            let question = Question {
                folders: self.folders.clone(),
                range: period,
                audit: Some(self.plan.flow.spec.audit.clone()),
                now: cli::now(),
            };
            let page = report::render(&Audit::read(&question));
            self.persist(REPORTS, |_| {
                let failed = |error| Fault::Refused(format!("could not write {path:?}: {error}"));
                cli::write_whole(&path, page.as_bytes()).map_err(failed)
            })?;
            self.kept(REPORTS, "pages");
            report_path = Some(path.display().to_string());
        }
        if self.history.is_some() {
            let Digest { reference, summary } = digest;
            let kept = Kept { flow, reference, period, report_path, summary };
            self.persist(postgres::SINK, |keeper| {
                keeper.history.as_mut().map_or(Ok(()), |history| history.write(&kept))
            })?;
            self.kept(postgres::SINK, postgres::TABLE);
        }
        Ok(())
    }

    fn kept(&self, sink: &str, what: &str) {
        self.plan.metrics.sink_records.with_label_values(&[sink, what]).inc();
        self.plan.metrics.sink_last_success.with_label_values(&[sink]).set(unix_seconds());
    }

    /// Attempts until one succeeds or the run ends.
    fn persist<T>(&mut self, sink: &str, mut attempt: impl FnMut(&mut Self) -> Result<T, Fault>) -> Result<T, Ended> {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let waiting = self.plan.metrics.sink_waiting.with_label_values(&[sink]);
        loop {
            let why = match attempt(self) {
                Ok(done) => {
                    waiting.set(0);
                    return Ok(done);
                }
                Err(why) => why,
            };
            if self.desk.lock().ending || self.stop.abandon() {
                tracing::warn!(target: "audit", "{why}");
                return Err(Ended);
            }
            waiting.set(1);
            let pause = backoff.next(getrandom::u64().expect("the operating system has a source of randomness"));
            tracing::warn!(target: "audit", pause_seconds = pause.as_secs_f64(), "{why}; an audit waits");
            self.desk.sleep(pause);
            self.plan.metrics.sink_retries.with_label_values(&[sink]).inc();
        }
    }
}

/// `bp-20260101T000000Z-20260102T000000Z.html`
fn page_name(flow: &str, (start, end): Span) -> String {
    let short = |at| instant_text(at).chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    // Without the six decimals, and with a Z that says where it is.
    let seconds = |at| format!("{}Z", &short(at)[..15]);
    format!("{flow}-{}-{}.html", seconds(start), seconds(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::EventTime;

    #[test]
    fn pages_have_names_that_sort_by_time() {
        let at = |seconds: i64| EventTime::from_micros(seconds * 1_000_000);
        let name = page_name("bp", (at(1_767_225_600), at(1_767_312_000)));
        assert_eq!(name, "bp-20260101T000000Z-20260102T000000Z.html");
    }
}
