//! What a run answered, as far as the terminal shows it.

use serde_json::Value;

/// One moment of a run.
#[derive(Debug)]
pub(super) struct View {
    snapshot: Value,
    metrics: String,
    /// Why it cannot take work; empty if it can.
    pub(super) problems: Vec<String>,
    /// Why it could not be asked again, since this was told.
    pub(super) lost: Option<String>,
}

impl View {
    /// `None` if it is no snapshot of a run.
    pub(super) fn new(snapshot: &str, metrics: &str, ready: &str) -> Option<View> {
        let snapshot: Value = serde_json::from_str(snapshot).ok()?;
        let ready: Value = serde_json::from_str(ready).ok()?;
        let problems = ready["problems"].as_array()?.iter();
        let problems = problems.filter_map(|problem| problem["reason"].as_str().map(str::to_owned)).collect();
        snapshot["stages"].as_array()?;
        Some(View { snapshot, metrics: metrics.to_owned(), problems, lost: None })
    }

    /// It does not answer any more: what was told stands, and this.
    pub(super) fn lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// A part of the snapshot, by its path.
    pub(super) fn at(&self, path: &str) -> &Value {
        path.split('.').fold(&self.snapshot, |part, key| &part[key])
    }

    pub(super) fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or("–")
    }

    pub(super) fn count(&self, path: &str) -> u64 {
        self.at(path).as_u64().unwrap_or(0)
    }

    pub(super) fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    /// The largest value of a metric over its series; `None` if it has none.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        let values = self.metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let series = rest.starts_with(['{', ' ']);
            series.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        values.reduce(f64::max)
    }

    /// Seconds since a moment that a metric tells; `None` before there was one.
    pub(super) fn age(&self, name: &str) -> Option<f64> {
        let at = self.metric(name).filter(|at| *at > 0.0)?;
        Some((self.count("at_seconds") as f64 - at).max(0.0))
    }
}
