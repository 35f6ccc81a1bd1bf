//! The thread that sends what waits, one after the other, for as long as it takes.
//!
//! | answer | effect |
//! |---|---|
//! | 2xx | sent |
//! | 400, 413, 415, 422 | this alert is refused: it is given up, counted and logged, and the next one follows |
//! | 401, 403 | token and certificates are read again, once at once; then as below |
//! | 408, 425, 429, 5xx, or none | waits with exponential back-off and full jitter, at least as long as `Retry-After` says |
//! | anything else: redirects, 404, 405 … | the same: somebody has to put the URL right, and no alert is lost until then |
//!
//! Limits: a request takes at most 10 s; waits of at most half a second at first, then up to a minute; `Retry-After` counts up to [`RETRY_AFTER_MAX`].

use std::sync::Arc;
use std::time::Duration;

use super::SINK;
use super::client::{Answer, Client};
use super::notice::Notice;
use super::outbox::Shared;
use crate::config::TableName;
use crate::runtime::metrics::{Metrics, unix_seconds};
use crate::runtime::stop::Stop;
use crate::sink::remote::{Backoff, Unanswered};

/// A receiver that asks for a longer pause is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// The pauses and time-outs; shorter in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) backoff_first: Duration,
    pub(super) backoff_max: Duration,
    pub(super) request: Duration,
}

pub(super) const PACE: Pace = Pace {
    backoff_first: Duration::from_millis(500),
    backoff_max: Duration::from_secs(60),
    request: Duration::from_secs(10),
};

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sent,
    /// It will never take this alert.
    Refused(u16),
    /// It does not take us.
    Forbidden(u16),
    /// It may take it later: why not now, and how long it asks to be left alone.
    Later(&'static str, u16, Option<Duration>),
}

fn judge(answer: Result<Answer, Unanswered>) -> Verdict {
    match answer {
        Err(unanswered) => Verdict::Later(unanswered.reason(), 0, None),
        Ok(Answer { status, retry_after }) => match status {
            200..=299 => Verdict::Sent,
            400 | 413 | 415 | 422 => Verdict::Refused(status),
            401 | 403 => Verdict::Forbidden(status),
            300..=399 => Verdict::Later(
                "it redirects, which is not followed: sink.webhook.url must name the address that it leads to",
                status,
                retry_after,
            ),
            408 | 425 | 429 | 500..=599 => Verdict::Later("it is overloaded or not ready", status, retry_after),
            _ => Verdict::Later("it does not take alerts there: is sink.webhook.url right?", status, retry_after),
        },
    }
}

/// Sends.
pub(super) struct Poster {
    shared: Arc<Shared>,
    client: Client,
    backoff: Backoff,
    stop: Stop,
    metrics: Metrics,
    waiting: bool,
    /// Secrets were read again since something was sent.
    renewed: bool,
}

impl Poster {
    pub(super) fn new(shared: Arc<Shared>, client: Client, pace: Pace, stop: Stop, metrics: Metrics) -> Self {
        // Shown as 0 from the start; not set, for another worker may be waiting.
        let _ = metrics.sink_waiting.with_label_values(&[SINK]);
        let backoff = Backoff::new(pace.backoff_first, pace.backoff_max);
        Poster { shared, client, backoff, stop, metrics, waiting: false, renewed: false }
    }

    /// Sends until the end is declared. With `look` it says at once what would keep the first alert, which may be weeks away.
    pub(super) fn run(mut self, look: bool) {
        if let Some(why) = look.then(|| self.client.look().err()).flatten() {
            tracing::warn!(target: "sink::webhook", "{why}; alerts will wait for it");
        }
        while let Some(notice) = self.shared.next() {
            if self.stop.abandon() {
                return;
            }
            self.attempt(&notice);
        }
    }

    fn attempt(&mut self, notice: &Notice) {
        self.metrics.sink_batches.with_label_values(&[SINK]).inc();
        match judge(self.client.post(notice)) {
            Verdict::Sent => {
                self.metrics.sink_records.with_label_values(&[SINK, TableName::Alerts.name()]).inc();
                self.metrics.sink_bytes.with_label_values(&[SINK]).inc_by(notice.body.len() as u64);
                self.metrics.sink_last_success.with_label_values(&[SINK]).set(unix_seconds());
                self.renewed = false;
                self.answered(notice);
            }
            Verdict::Refused(status) => {
                give_up(&self.metrics, notice, "refused", status);
                self.answered(notice);
            }
            Verdict::Forbidden(status) => {
                let first = !std::mem::replace(&mut self.renewed, true);
                self.renew();
                if !first {
                    self.wait("it refuses the token: sink.webhook.token_file must hold a valid one", status, None);
                }
            }
            Verdict::Later(why, status, retry_after) => {
                self.wait(why, status, retry_after);
                // A rotated authority is the usual cause of lost trust, an edited file one of a wrong URL.
                self.renew();
            }
        }
    }

    fn renew(&mut self) {
        if let Err(error) = self.client.renew() {
            // It may be read while it is written anew; until it can be, those of before stand.
            tracing::warn!(target: "sink::webhook", %error, "could not read certificates and secrets again; trying with those of before");
        }
    }

    fn answered(&mut self, notice: &Notice) {
        self.backoff.reset();
        if std::mem::take(&mut self.waiting) {
            tracing::info!(target: "sink::webhook", "the receiver answers again");
            self.metrics.sink_waiting.with_label_values(&[SINK]).dec();
        }
        self.shared.done(&notice.id);
    }

    fn wait(&mut self, reason: &'static str, status: u16, retry_after: Option<Duration>) {
        let random = getrandom::u64().expect("the operating system has a source of randomness");
        let pause = self.backoff.next(random).max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
        if !std::mem::replace(&mut self.waiting, true) {
            self.metrics.sink_waiting.with_label_values(&[SINK]).inc();
        }
        tracing::warn!(target: "sink::webhook", reason, status, pause_seconds = pause.as_secs_f64(), "alerts wait for their receiver");
        self.shared.failed();
        self.shared.sleep(pause);
        if !self.shared.has_ended() {
            self.metrics.sink_retries.with_label_values(&[SINK]).inc();
        }
    }
}

/// Says that an alert is not sent any more; `status` is 0 without an answer.
pub(super) fn give_up(metrics: &Metrics, notice: &Notice, reason: &'static str, status: u16) {
    metrics.sink_rejected_items.with_label_values(&[SINK, reason]).inc();
    tracing::error!(target: "sink::webhook", id = notice.id, epoch = notice.epoch, reason, status, "an alert was given up; it stands in the table alerts");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16) -> Verdict {
        judge(Ok(Answer { status, retry_after: Some(Duration::from_secs(7)) }))
    }

    #[test]
    fn only_what_is_wrong_with_an_alert_itself_gives_it_up() {
        for status in 100..600_u16 {
            let verdict = of(status);
            assert_eq!(verdict == Verdict::Sent, (200..300).contains(&status), "{status}");
            assert_eq!(matches!(verdict, Verdict::Refused(_)), [400, 413, 415, 422].contains(&status), "{status}");
            if let Verdict::Later(_, _, pause) = verdict {
                assert_eq!(pause, Some(Duration::from_secs(7)));
            }
        }
        assert!(matches!(of(401), Verdict::Forbidden(401)));
        let unanswered = judge(Err(Unanswered::Tls));
        assert!(matches!(unanswered, Verdict::Later(why, 0, None) if why.contains("certificate is not trusted")));
    }
}
