//! Alerts: what people were told, and what still stands.

use maud::{Markup, html};

use super::column;
use crate::config::TableName;
use crate::report::gather::{self, Audit};
use crate::report::numbers;
use crate::report::rows::Alert;
use crate::report::thresholds;
use crate::vocabulary::findings::AlertState;

/// Alerts that are shown; of more, the newest.
const ALERTS_SHOWN_MAX: usize = 100;

/// The section.
pub(super) fn render(audit: &Audit) -> Markup {
    html! {
        section #alerts aria-labelledby="alerts-title" {
            h2 #alerts-title { "Alerts" }
            @match &audit.alerts {
                None => { p.empty { "No alert has begun or ended." } }
                Some(alerts) => {
                    @let open = audit.open_alerts();
                    p {
                        @if open.is_empty() { "All that were raised have been cleared or withdrawn." } @else {
                            strong { (open.len()) " open" } ": "
                            (open.iter().take(8).map(|alert| about(alert)).collect::<Vec<_>>().join("; "))
                            @if open.len() > 8 { "; and " (open.len() - 8) " more" } "."
                        }
                    }
                    (table(alerts))
                    @if alerts.len() > ALERTS_SHOWN_MAX { p.quiet { (alerts.len() - ALERTS_SHOWN_MAX) " older ones are left out." } }
                }
            }
        }
    }
}

fn about(alert: &Alert) -> String {
    format!("{}, {}", numbers::heading(&alert.feature), whose(alert))
}

/// The group, or the topic as the section of data quality has it.
fn whose(alert: &Alert) -> String {
    match alert.table == TableName::Quality.name() {
        true => gather::topic(&alert.group).to_owned(),
        false => numbers::group(&alert.group),
    }
}

fn table(alerts: &[Alert]) -> Markup {
    html! {
        div.scroll { table.data {
            caption.hidden { "Alerts, newest first" }
            thead { tr {
                th scope="col" { "Window, UTC" }
                th scope="col" { "State" }
                th scope="col" { "Of" }
                th scope="col" { "What" }
                th scope="col" { "Group or topic" }
                th scope="col" { "Statistic" }
                (column("Value", ""))
                (column("Held for", "windows"))
            } }
            tbody { @for alert in alerts.iter().take(ALERTS_SHOWN_MAX) {
                tr data-feature=(alert.feature) data-group=(whose(alert)) {
                    th scope="row" class="when" { (numbers::span(alert.current)) }
                    td { (state(alert.state)) }
                    td { (numbers::words(&alert.table)) }
                    td { (numbers::heading(&alert.feature)) }
                    td { (whose(alert)) }
                    td { (thresholds::title(&alert.statistic)) }
                    td.number { (numbers::data(alert.value, numbers::statistic)) }
                    td.number { (numbers::data_count(Some(alert.windows_held))) }
                }
            } }
        } }
    }
}

fn state(state: Option<AlertState>) -> Markup {
    let (class, text) = match state {
        Some(AlertState::Raised) => ("act", "raised"),
        Some(AlertState::Cleared) => ("none", "cleared"),
        Some(AlertState::Withdrawn) => ("insufficient", "withdrawn"),
        None => ("insufficient", "unknown state"),
    };
    html! { span class={ "tag " (class) } { (text) } }
}
