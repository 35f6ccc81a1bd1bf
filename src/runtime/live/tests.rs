//! The hub: what it counts, what it keeps, and that it stays bounded whatever comes.

use super::sample::{Row, quality, readings, shifts, ward};
use super::*;

const NOW: Duration = Duration::from_secs(1_790_000_000);
const AT: i64 = 1_790_000_000_000_000;

fn live() -> Arc<Live> {
    Live::new("test", Metrics::new())
}

fn shown(live: &Live) -> Snapshot {
    live.snapshot_at(NOW + Duration::from_secs(1), false)
}

#[test]
fn readings_are_counted_by_second_and_category() {
    let live = live();
    let rows = [Row::new(1, AT, 118.0, 70.0), Row::new(2, AT + 1, 150.0, 95.0), Row::new(3, AT + 2, 110.0, 70.0)];
    live.take(&readings(&rows, false), NOW);
    let snapshot = shown(&live);
    assert_eq!((snapshot.readings.count, snapshot.readings.history.last()), (3, Some(&3)));
    assert_eq!(snapshot.categories.names, ["normal", "stage 2"]);
    assert_eq!(snapshot.categories.counts, [vec![2], vec![1]]);
    assert_eq!(snapshot.alerts.len(), 1);
    let alert = &snapshot.alerts[0];
    assert_eq!(alert.reasons, ["hypertension_systolic", "hypertension_diastolic"]);
    assert_eq!(alert.effective_at.as_deref(), Some("2026-09-21T14:13:20Z"));
    assert_eq!((alert.systolic_mmhg, alert.diastolic_mmhg), (Some(150.0), Some(95.0)));
    assert_eq!(alert.patient.len(), 32);
}

#[test]
fn plain_and_dictionary_text_read_alike() {
    let rows = ward(5, 3_000, AT, 7_200_000_000);
    let (plain, coded) = (live(), live());
    plain.take(&readings(&rows, false), NOW);
    coded.take(&readings(&rows, true), NOW);
    let (plain, coded) = (shown(&plain), shown(&coded));
    assert_eq!(plain.categories, coded.categories);
    assert_eq!(plain.alerts, coded.alerts);
    let counted: u64 = plain.categories.counts.iter().flatten().sum();
    assert_eq!(counted + plain.categories.outside, 3_000);
}

#[test]
fn the_newest_fifty_alerts_stay_whatever_the_batches() {
    let rows: Vec<Row> = (0..130).map(|id| Row::new(id, AT + id as i64, 160.0, 80.0)).collect();
    for size in [1, 7, 49, 50, 51, 130] {
        let live = live();
        rows.chunks(size).for_each(|chunk| live.take(&readings(chunk, true), NOW));
        let expected: Vec<String> = rows.iter().rev().take(ALERTS_MAX).map(|row| alert_of(row).observation).collect();
        let kept: Vec<String> = shown(&live).alerts.into_iter().map(|alert| alert.observation).collect();
        assert_eq!(kept, expected, "batches of {size}");
    }
}

fn alert_of(row: &Row) -> Alert {
    columns::Readings::of(&readings(std::slice::from_ref(row), false)).alerts(1).remove(0)
}

#[test]
fn a_correction_takes_the_earlier_alert_away() {
    let live = live();
    live.take(&readings(&[Row::new(1, AT, 190.0, 80.0), Row::new(2, AT, 191.0, 80.0)], false), NOW);
    let corrected = Row { status: "corrected", replaces: true, ..Row::new(1, AT, 119.0, 79.0) };
    let withdrawn = Row { status: "entered-in-error", replaces: true, ..Row::new(2, AT, 191.0, 80.0) };
    live.take(&readings(&[corrected], true), NOW);
    assert_eq!(shown(&live).alerts.len(), 1);
    live.take(&readings(&[withdrawn], true), NOW);
    let snapshot = shown(&live);
    assert_eq!(snapshot.alerts, []);
    assert_eq!(snapshot.readings.count, 3, "a withdrawal is no reading");
}

#[test]
fn both_histograms_of_a_shift_are_shown_if_they_fit_their_edges() {
    let live = live();
    live.take(&shifts(&[("systolic", "all", Some(0.05)), ("systolic", "sex=female", None)]), NOW);
    let shown = shown(&live).shifts;
    assert_eq!(shown[0].unit.as_deref(), Some("mmHg"));
    let bins = shown[0].bins.as_ref().unwrap();
    assert_eq!(
        (bins.edges.len(), &bins.reference[..], &bins.current[..]),
        (4, &[10.0, 30.0, 20.0][..], &[1.0, 2.0, 5.0][..])
    );
    assert_eq!(shown[1].bins, None);
}

#[test]
fn partitions_are_told_with_the_event_time_that_they_have_reached() {
    let live = live();
    for (partition, lag, reached) in [("0", 0, Some(500.0)), ("1", 7, None), ("2", 0, Some(400.0))] {
        live.metrics.source_lag.with_label_values(&["bp-obs", partition]).set(lag);
        if let Some(reached) = reached {
            live.metrics.source_watermark.with_label_values(&["bp-obs", partition]).set(reached);
        }
    }
    let told = shown(&live).source.lags.into_iter().map(|lag| (lag.partition, lag.records, lag.watermark_seconds));
    let expected = [("1", 7, None), ("2", 0, Some(400.0)), ("0", 0, Some(500.0))];
    assert_eq!(told.collect::<Vec<_>>(), expected.map(|(name, lag, reached)| (name.to_owned(), lag, reached)));
}

#[test]
fn the_newest_shift_of_each_feature_and_group_stands() {
    let live = live();
    live.take(&shifts(&[("systolic", "all", Some(0.05)), ("systolic", "sex=female", None)]), NOW);
    live.take(&shifts(&[("systolic", "all", Some(0.31))]), NOW);
    let kept: Vec<_> = shown(&live).shifts.into_iter().map(|s| (s.group, s.psi, s.verdict)).collect();
    assert_eq!(
        kept,
        [("all".into(), Some(0.31), "act".to_owned()), ("sex=female".into(), None, "insufficient".to_owned())]
    );
}

#[test]
fn a_flaw_is_told_while_the_newest_window_says_that_it_has_risen() {
    let live = live();
    let told =
        || shown(&live).flaws.into_iter().map(|flaw| format!("{} {} {}", flaw.topic, flaw.measure, flaw.verdict));
    let told = || told().collect::<Vec<_>>();
    let late = |hour, verdict| ("bp-obs", "late", hour, 0.3, verdict);
    live.take(
        &quality(&[late(5, "act"), ("bp-obs", "duplicate", 5, 0.0, "none"), ("ward", "late", 5, 0.1, "watch")]),
        NOW,
    );
    assert_eq!(told(), ["bp-obs late act", "ward late watch"]);
    live.take(&quality(&[late(4, "none")]), NOW);
    assert_eq!(told().len(), 2, "that was said of an older window");
    live.take(&quality(&[late(6, "insufficient")]), NOW);
    assert_eq!(told(), ["ward late watch"]);
    let many: Vec<String> = (0..2 * FLAWS_MAX).map(|topic| format!("ward-{topic}")).collect();
    live.take(&quality(&many.iter().map(|topic| (topic.as_str(), "late", 6, 0.5, "act")).collect::<Vec<_>>()), NOW);
    assert_eq!(told().len(), FLAWS_MAX);
}

#[test]
fn more_groups_than_the_limit_never_push_out_all() {
    let live = live();
    let groups: Vec<String> = (0..SHIFTS_MAX + 40).map(|group| format!("ward={group}")).collect();
    let many: Vec<_> = groups.iter().map(|group| ("diastolic", group.as_str(), Some(0.0))).collect();
    live.take(&shifts(&many), NOW);
    live.take(&shifts(&[("systolic", "all", Some(0.2)), ("diastolic", "all", Some(0.2))]), NOW);
    let kept = shown(&live).shifts;
    assert_eq!(kept.len(), SHIFTS_MAX);
    assert_eq!(kept.iter().filter(|shift| shift.group == "all").count(), 2);
}

#[test]
fn an_empty_or_strange_batch_does_no_harm() {
    let live = live();
    live.take(&readings(&[], true), NOW);
    live.take(&shifts(&[]), NOW);
    let strange = Rows { table: TableName::Readings, ..shifts(&[("systolic", "all", None)]) };
    live.take(&strange, NOW);
    assert_eq!(shown(&live).alerts, []);
}

#[test]
fn figures_come_from_the_metrics() {
    let live = live();
    live.metrics.inputs.with_label_values(&["contributed", ""]).inc_by(90);
    live.metrics.inputs.with_label_values(&["rejected", "unit_missing"]).inc_by(2);
    live.metrics.inputs.with_label_values(&["rejected", "subject_missing"]).inc_by(7);
    (0..20).for_each(|p| live.metrics.source_lag.with_label_values(&["bp-obs", &p.to_string()]).set(p));
    live.metrics.sink_waiting.with_label_values(&["parquet"]).set(1);
    let snapshot = shown(&live);
    let rejected: Vec<_> = snapshot.outcomes.rejected.iter().map(|r| (r.reason.as_str(), r.count)).collect();
    assert_eq!(rejected, [("subject_missing", 7), ("unit_missing", 2)]);
    let counts: Vec<_> = snapshot.outcomes.counts.iter().map(|o| o.count).collect();
    assert_eq!(counts, [90, 0, 0, 0, 0, 9]);
    assert_eq!(
        (snapshot.source.lag, snapshot.source.partitions, snapshot.source.lags.len()),
        (190, 20, PARTITIONS_MAX)
    );
    assert_eq!(snapshot.source.lags[0].partition, "19");
    assert_eq!(snapshot.sinks, [SinkState { sink: "parquet".into(), records: 0, waiting: true }]);
}

#[test]
fn a_full_snapshot_is_small() {
    let live = live();
    for seed in 0..8 {
        live.take(&readings(&ward(seed, 4_000, AT, 40 * 86_400_000_000), true), NOW);
    }
    let json = serde_json::to_string(&shown(&live)).unwrap();
    assert!(json.len() < 48 * 1024, "{} bytes", json.len());
}
