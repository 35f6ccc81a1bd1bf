//! Which windows begin or end an alert: a verdict that holds for some windows in a row.
//!
//! | verdict of a window | effect |
//! |---|---|
//! | `act` | one more in a row; the `alert_windows`th in a row begins an alert |
//! | `none` | one more quiet window in a row; as many end the alert |
//! | `watch` | ends both rows, so that what wavers between the thresholds neither begins nor ends anything |
//! | `insufficient` | nothing: it says nothing |
//!
//! What is said of a window follows from the verdicts of that window and those before. So a correction of an old window may begin, end or take back an alert
//! of a later one, and whoever asks again is told the same.

use serde::{Deserialize, Serialize};

use crate::audit::judge::Statistic;
use crate::audit::series::Pane;
use crate::vocabulary::findings::{AlertState, Verdict};

/// Where a series stands after some windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    acting: u32,
    quiet: u32,
    /// Whether an alert stands.
    pub alert: bool,
}

impl Run {
    /// Goes on by one window; what begins or ends with it, and for how many windows in a row it has been so. With `windows` 0 nothing ever does.
    pub fn step(&mut self, verdict: Verdict, windows: u32) -> Option<(AlertState, u32)> {
        match verdict {
            Verdict::Insufficient => return None,
            Verdict::Act => (self.acting, self.quiet) = (self.acting.saturating_add(1), 0),
            Verdict::None => (self.acting, self.quiet) = (0, self.quiet.saturating_add(1)),
            Verdict::Watch => (self.acting, self.quiet) = (0, 0),
        }
        if windows == 0 {
            return None;
        }
        if !self.alert && self.acting >= windows {
            self.alert = true;
            return Some((AlertState::Raised, self.acting));
        }
        if self.alert && self.quiet >= windows {
            self.alert = false;
            return Some((AlertState::Cleared, self.quiet));
        }
        None
    }
}

/// What was said of a window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Its verdict.
    pub verdict: Verdict,
    /// The column that the verdict comes from.
    pub statistic: By,
    /// Its value.
    pub value: Option<f64>,
    /// What began or ended with it, as far as was said.
    pub state: Option<AlertState>,
}

/// What a verdict comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// A statistic of drift.
    Drift(Statistic),
    /// The area under the curve.
    Auroc,
    /// The ratio of the selection rates.
    SelectionRateRatio,
    /// The share of a topic's inputs that have a flaw.
    Rate,
}

impl By {
    /// The column's name.
    pub fn name(self) -> &'static str {
        match self {
            By::Drift(statistic) => statistic.name(),
            By::Auroc => "auroc",
            By::SelectionRateRatio => "selection_rate_ratio",
            By::Rate => "current_rate",
        }
    }
}

/// Something to be said of a window that was not said, or was said otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct News {
    /// The window.
    pub window: Pane,
    /// What begins, ends, or was a mistake.
    pub state: AlertState,
    /// Windows in a row.
    pub held: u32,
}

/// Goes through the windows of a series, ascending, from where `run` stands; says what is new, and remembers that it was said. Returns where it ends.
pub fn review<'a>(
    mut run: Run,
    windows: impl IntoIterator<Item = (Pane, &'a mut Said)>,
    alert_windows: u32,
    news: &mut Vec<News>,
) -> Run {
    for (window, said) in windows {
        let now = run.step(said.verdict, alert_windows);
        let state = now.map(|(state, _)| state);
        if state != said.state {
            let held = now.map_or(0, |(_, held)| held);
            news.push(News { window, state: state.unwrap_or(AlertState::Withdrawn), held });
            said.state = state;
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn said(verdicts: &str) -> Vec<Said> {
        let verdict = |letter| match letter {
            'a' => Verdict::Act,
            'w' => Verdict::Watch,
            'n' => Verdict::None,
            _ => Verdict::Insufficient,
        };
        let statistic = By::Drift(Statistic::Psi);
        verdicts.chars().map(|letter| Said { verdict: verdict(letter), statistic, value: None, state: None }).collect()
    }

    fn check(verdicts: &str, alert_windows: u32, expect: Expect) {
        let mut said = said(verdicts);
        let mut news = Vec::new();
        review(Run::default(), (0..).map(Pane).zip(&mut said), alert_windows, &mut news);
        let lines: Vec<String> =
            news.iter().map(|news| format!("{} {} after {}", news.window.0, news.state.name(), news.held)).collect();
        expect.assert_eq(&lines.join(", "));
        let mut again = Vec::new();
        review(Run::default(), (0..).map(Pane).zip(&mut said), alert_windows, &mut again);
        assert!(again.is_empty(), "what was said is not said again");
    }

    #[test]
    fn an_alert_begins_and_ends_after_as_many_windows() {
        check("aanaaaaannnan", 3, expect!["5 raised after 3, 10 cleared after 3"]);
        check("aan", 2, expect!["1 raised after 2"]);
        check("aaaaaa", 0, expect![""]);
        check("anan", 1, expect!["0 raised after 1, 1 cleared after 1, 2 raised after 1, 3 cleared after 1"]);
    }

    #[test]
    fn what_wavers_begins_and_ends_nothing_and_silence_does_not_interrupt() {
        check("aawaawaaw", 3, expect![""]);
        check("aaannwnnwnnw", 3, expect!["2 raised after 3"]);
        check("a?a??a?n?nn", 3, expect!["5 raised after 3, 10 cleared after 3"]);
    }

    #[test]
    fn a_correction_takes_back_and_moves_what_was_said() {
        let mut said = said("aaaa");
        let mut news = Vec::new();
        review(Run::default(), (0..).map(Pane).zip(&mut said), 3, &mut news);
        said[1].verdict = Verdict::None;
        news.clear();
        review(Run::default(), (0..).map(Pane).zip(&mut said), 2, &mut news);
        let states: Vec<(i64, AlertState)> = news.iter().map(|news| (news.window.0, news.state)).collect();
        assert_eq!(states, [(2, AlertState::Withdrawn), (3, AlertState::Raised)]);
    }
}
