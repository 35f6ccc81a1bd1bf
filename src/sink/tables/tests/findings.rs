//! Golden rows of the audit's tables. They prove what is null when, and that lists keep their order.

use super::*;
use crate::vocabulary::findings::*;

fn hour(hours: i64) -> EventTime {
    EventTime::from_micros(NEW_YEAR) + EventSpan::from_seconds(3_600 * hours)
}

fn check_all(found: Vec<Finding>, expected: Expect) {
    let mut lines = String::new();
    for rows in tables(None, false).findings(found, 6) {
        let json = json::rows(&rows.batch, &BTreeMap::new()).unwrap();
        lines += &format!("{}\n{}", rows.table.name(), std::str::from_utf8(json.bytes()).unwrap());
    }
    expected.assert_eq(&lines);
}

#[test]
fn a_shift_is_a_row_with_both_windows() {
    let side = |readings, bins: &[u64]| Side {
        readings,
        patients: Some(readings / 4),
        mean: Some(121.5),
        standard_deviation: Some(17.25),
        bins: bins.to_vec(),
    };
    let full = Shift {
        feature: "systolic",
        unit: "mmHg",
        group: "sex=female".into(),
        reference: (hour(0), hour(24)),
        current: (hour(24), hour(25)),
        reference_side: side(12_000, &[5_000, 7_000]),
        current_side: side(480, &[180, 300]),
        bin_edges: vec![0.0, 120.0, 300.0],
        statistics: Statistics {
            psi: Some(0.25),
            jensen_shannon: Some(0.125),
            kolmogorov_smirnov: Some(0.5),
            kolmogorov_smirnov_p: Some(0.0),
            wasserstein: Some(0.75),
            hellinger: Some(0.0625),
            chi2: Some(9.5),
            chi2_p: Some(0.002),
            effect_size: Some(-0.5),
        },
        statistic: "psi",
        verdict: Verdict::Act,
    };
    let bare = Shift {
        reference_side: Side::default(),
        current_side: Side::default(),
        bin_edges: Vec::new(),
        statistics: Statistics::default(),
        verdict: Verdict::Insufficient,
        ..full.clone()
    };
    check_all(
        vec![Finding::Shift(full), Finding::Shift(bare)],
        expect![[r#"
        shifts
        {"feature":"systolic","group":"sex=female","reference_start":"2026-01-01T00:00:00.000000Z","reference_end":"2026-01-02T00:00:00.000000Z","current_start":"2026-01-02T00:00:00.000000Z","current_end":"2026-01-02T01:00:00.000000Z","reference_count":12000,"current_count":480,"psi":0.25,"jensen_shannon":0.125,"verdict":"act","unit":"mmHg","reference_patients":3000,"current_patients":120,"reference_mean":121.5,"reference_standard_deviation":17.25,"current_mean":121.5,"current_standard_deviation":17.25,"effect_size":-0.5,"kolmogorov_smirnov":0.5,"kolmogorov_smirnov_p":0.0,"wasserstein":0.75,"hellinger":0.0625,"chi2":9.5,"chi2_p":0.002,"statistic":"psi","bin_edges":[0.0,120.0,300.0],"reference_bins":[5000,7000],"current_bins":[180,300],"epoch":6}
        {"feature":"systolic","group":"sex=female","reference_start":"2026-01-01T00:00:00.000000Z","reference_end":"2026-01-02T00:00:00.000000Z","current_start":"2026-01-02T00:00:00.000000Z","current_end":"2026-01-02T01:00:00.000000Z","reference_count":0,"current_count":0,"verdict":"insufficient","unit":"mmHg","statistic":"psi","bin_edges":[],"reference_bins":[],"current_bins":[],"epoch":6}
    "#]],
    );
}

#[test]
fn the_other_findings_are_rows_of_their_own_tables() {
    let quality = Quality {
        topic: Some(TopicId(1)),
        measure: "late",
        reference: (hour(0), hour(24)),
        current: (hour(24), hour(25)),
        reference_counts: (0, 0),
        current_counts: (400, 100),
        verdict: Verdict::Insufficient,
    };
    let goodness = Goodness { accuracy: Some(0.75), ..Goodness::default() };
    let performance = Performance {
        group: "age=80+",
        reference: (hour(0), hour(24)),
        current: (hour(24), hour(25)),
        readings: 400,
        labelled: 20,
        measured: goodness,
        estimated: Goodness { auroc: Some(0.5), ..Goodness::default() },
        ..Performance::default()
    };
    let rate = |rate| Rate { rate: Some(rate), low: Some(rate - 0.1), high: Some(rate + 0.1) };
    let fairness = Fairness {
        attribute: "sex",
        group: "sex=male",
        reference_group: "sex=female",
        current: (hour(24), hour(25)),
        readings: 400,
        patients: Some(31),
        selection: rate(0.25),
        differences: [Some(-0.25), None, None, None],
        ratios: [Some(0.5), None, None, None],
        below_four_fifths: Some(true),
        verdict: Verdict::Watch,
        ..Fairness::default()
    };
    let alert = Alert {
        table: "shifts",
        feature: "systolic",
        group: Part::Group("all"),
        current: (hour(24), hour(25)),
        statistic: "psi",
        value: Some(0.5),
        windows_held: 3,
        state: AlertState::Withdrawn,
    };
    let found = vec![
        Finding::Alert(alert),
        Finding::Fairness(fairness),
        Finding::Quality(quality),
        Finding::Performance(performance),
    ];
    check_all(
        found,
        expect![[r#"
        quality
        {"topic":"other","measure":"late","reference_start":"2026-01-01T00:00:00.000000Z","reference_end":"2026-01-02T00:00:00.000000Z","current_start":"2026-01-02T00:00:00.000000Z","current_end":"2026-01-02T01:00:00.000000Z","reference_inputs":0,"reference_count":0,"current_inputs":400,"current_count":100,"current_rate":0.25,"verdict":"insufficient","epoch":6}
        performance
        {"group":"age=80+","reference_start":"2026-01-01T00:00:00.000000Z","reference_end":"2026-01-02T00:00:00.000000Z","current_start":"2026-01-02T00:00:00.000000Z","current_end":"2026-01-02T01:00:00.000000Z","readings_count":400,"scored_count":0,"labelled_count":20,"positives_count":0,"selected_count":0,"alarms_count":0,"accuracy":0.75,"estimated_auroc":0.5,"verdict":"insufficient","epoch":6}
        fairness
        {"attribute":"sex","group":"sex=male","reference_group":"sex=female","current_start":"2026-01-02T00:00:00.000000Z","current_end":"2026-01-02T01:00:00.000000Z","readings_count":400,"patients_count":31,"labelled_count":0,"positives_count":0,"selection_rate":0.25,"selection_rate_low":0.15,"selection_rate_high":0.35,"selection_rate_difference":-0.25,"selection_rate_ratio":0.5,"below_four_fifths":true,"verdict":"watch","epoch":6}
        alerts
        {"table":"shifts","feature":"systolic","group":"all","current_start":"2026-01-02T00:00:00.000000Z","current_end":"2026-01-02T01:00:00.000000Z","state":"withdrawn","statistic":"psi","value":0.5,"windows_held":3,"epoch":6}
    "#]],
    );
}
