//! They prove: the page is well-formed HTML that needs nothing from anywhere, holds what the tables hold, lets no text become markup, and never shows a
//! pseudonym; what is missing is said. The reader of the page is an HTML parser of its own ([`scraper`]).
//!
//! `WINDKESSEL_TEST_REPORT=folder` leaves tables and page there, to be looked at.

use std::path::Path;

use scraper::{ElementRef, Html, Selector};
use tempfile::TempDir;

use self::fixture::{HOSTILE, SHIFTED, WINDOWS, findings, window, write_ndjson, write_parquet};
use super::*;
use crate::sink::testing::NEW_YEAR;
use crate::time::EventTime;
use crate::vocabulary::Pseudonym;
use crate::vocabulary::findings::{Finding, Shift, Span, Verdict};

pub(crate) mod fixture;

fn question(folder: &Path) -> Question {
    let folder = Some(folder.to_owned());
    let folders = Folders { parquet: folder.clone(), ndjson: folder };
    Question { folders, range: ALWAYS, audit: None, now: EventTime::from_micros(NEW_YEAR + 1_400_000_000_000) }
}

fn page_of(folder: &Path) -> String {
    render(&Audit::read(&question(folder)))
}

/// Tables of the whole fixture, and their page.
fn whole() -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    write_parquet(folder.path(), 1, &findings(WINDOWS, 7));
    let page = page_of(folder.path());
    (folder, page)
}

fn select<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    page.select(&Selector::parse(selector).unwrap()).collect()
}

fn text(element: ElementRef<'_>) -> String {
    element.text().collect::<Vec<_>>().join("").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The exact values in an element, in their order.
fn values(element: ElementRef<'_>) -> Vec<f64> {
    element.select(&Selector::parse("data").unwrap()).map(|data| data.attr("value").unwrap().parse().unwrap()).collect()
}

#[test]
fn the_page_is_well_formed_and_asks_for_nothing() {
    let (folder, page) = whole();
    if let Some(kept) = std::env::var_os("WINDKESSEL_TEST_REPORT") {
        let kept = Path::new(&kept);
        write_parquet(kept, 1, &findings(WINDOWS, 7));
        std::fs::write(kept.join("report.html"), &page).unwrap();
    }
    drop(folder);
    let parsed = Html::parse_document(&page);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    for scheme in ["http:", "https:", "//", "url(", "@import", "javascript:"] {
        let found = page.replace("http://www.w3.org/2000/svg", "").find(scheme);
        assert_eq!(found, None, "{scheme}");
    }
    for element in select(&parsed, "*") {
        let name = element.value().name();
        assert!(!["script", "link", "img", "iframe", "object", "embed", "base", "form"].contains(&name), "{name}");
        for (attribute, value) in element.value().attrs() {
            assert!(!attribute.starts_with("on"), "{attribute}");
            assert!(attribute != "src" && (attribute != "href" || value.starts_with('#')), "{attribute}={value}");
        }
    }
    let ids: Vec<_> = select(&parsed, "[id]").iter().map(|element| element.attr("id").unwrap()).collect();
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len(), "{ids:?}");
    for link in select(&parsed, "a") {
        let target = link.attr("href").unwrap().trim_start_matches('#');
        assert!(ids.contains(&target), "{target}");
    }
}

#[test]
fn it_can_be_read_without_eyes() {
    let (_folder, page) = whole();
    let parsed = Html::parse_document(&page);
    assert_eq!(select(&parsed, "h1").len(), 1);
    assert_eq!(select(&parsed, "html[lang=en]").len(), 1);
    let mut last = 1;
    for heading in select(&parsed, "h1, h2, h3") {
        let level = heading.value().name()[1..].parse().unwrap();
        assert!(level <= last + 1, "{}", text(heading));
        last = level;
    }
    for table in select(&parsed, "table") {
        assert_eq!(table.select(&Selector::parse("caption").unwrap()).count(), 1, "{}", text(table));
    }
    assert!(select(&parsed, "th:not([scope])").is_empty());
    let drawings = select(&parsed, "svg");
    assert!(drawings.len() > 40);
    for drawing in drawings {
        assert_eq!(drawing.attr("role"), Some("img"));
        let said: Vec<_> = drawing.child_elements().take(2).map(|child| (child.value().name(), text(child))).collect();
        assert!(
            matches!(&said[..], [("title", title), ("desc", desc)] if title.len() > 4 && desc.len() > 4),
            "{said:?}"
        );
    }
}

/// The shifts of a window as the fixture wrote them.
fn shifts(at: i64) -> Vec<Shift> {
    let all = findings(WINDOWS, 7).into_iter().flat_map(|(_, found)| found);
    all.filter_map(|finding| match finding {
        Finding::Shift(shift) if shift.current == window(at) => Some(shift),
        _ => None,
    })
    .collect()
}

#[test]
fn drift_is_that_of_the_tables_in_the_last_window_with_enough() {
    let (_folder, page) = whole();
    let parsed = Html::parse_document(&page);
    let expected = shifts(WINDOWS - 1);
    assert_eq!(expected.len(), 36);
    for shift in &expected {
        let row = format!(r#".groups tr[data-feature="{}"][data-group="{}"]"#, shift.feature, shift.group);
        let row = select(&parsed, &row)[0];
        let (r, c) = (&shift.reference_side, &shift.current_side);
        let change = c.mean.zip(r.mean).map(|(current, reference)| current - reference);
        let count = |count: u64| Some(count as f64);
        let figures = [
            r.mean,
            c.mean,
            change,
            shift.statistics.effect_size,
            shift.statistics.wasserstein,
            shift.statistics.psi,
            count(c.readings),
            count(c.patients.unwrap()),
            count(r.readings),
            count(r.patients.unwrap()),
        ];
        assert_eq!(values(row), figures.into_iter().flatten().collect::<Vec<_>>(), "{} {}", shift.feature, shift.group);
        let said = if shift.verdict == Verdict::Insufficient { "too little data" } else { shift.verdict.name() };
        assert!(text(row).ends_with(said), "{}", text(row));
    }
    let systolic = expected.iter().find(|shift| shift.feature == "systolic" && shift.group == "all").unwrap();
    let s = &systolic.statistics;
    for (column, value) in [
        ("psi", s.psi),
        ("jensen_shannon", s.jensen_shannon),
        ("kolmogorov_smirnov", s.kolmogorov_smirnov),
        ("kolmogorov_smirnov_p", s.kolmogorov_smirnov_p),
        ("wasserstein", s.wasserstein),
        ("hellinger", s.hellinger),
        ("chi2", s.chi2),
        ("chi2_p", s.chi2_p),
        ("effect_size", s.effect_size),
    ] {
        let row = format!(r#".statistics[data-feature="systolic"] tr[data-column="{column}"]"#);
        assert_eq!(values(select(&parsed, &row)[0]), [value.unwrap()], "{column}");
    }
}

#[test]
fn what_has_moved_is_named_with_its_place_its_size_and_its_beginning() {
    let (_folder, page) = whole();
    let parsed = Html::parse_document(&page);
    let rows: Vec<String> = select(&parsed, ".moved tbody tr").into_iter().map(text).collect();
    let systolic = rows.iter().find(|row| row.starts_with("Systolic")).unwrap();
    assert!(systolic.contains("age: 80+") && systolic.contains("mmHg (mean"), "{systolic}");
    assert!(systolic.contains(&numbers::instant(window(SHIFTED).0)), "{systolic}");
    assert!(!page.contains("may be incomplete"), "it has as many readings as usual");
    assert!(rows.iter().any(|row| row.starts_with("Fairness by age")), "{rows:?}");
    assert!(rows.iter().any(|row| row.starts_with("Data quality: late")), "{rows:?}");
    assert!(rows.iter().any(|row| row.starts_with("Performance")), "{rows:?}");
    let open = format!("3 open: Late, {}; Late, files; Systolic, age: 80+.", fixture::HOSTILE);
    assert!(text(select(&parsed, "#alerts")[0]).contains(&open), "{}", text(select(&parsed, "#alerts")[0]));
}

#[test]
fn fairness_and_performance_are_those_of_the_tables() {
    let (_folder, page) = whole();
    let parsed = Html::parse_document(&page);
    let all = findings(WINDOWS, 7).into_iter().flat_map(|(_, found)| found);
    let (mut groups, mut performances) = (0, 0);
    for finding in all {
        match finding {
            Finding::Fairness(row) if row.current == window(WINDOWS - 1) => {
                let shown = format!(r#"#fairness tr[data-attribute="{}"][data-group="{}"]"#, row.attribute, row.group);
                let cell = |column: &str| values(select(&parsed, &format!("{shown} td[data-column={column}]"))[0]);
                let rates = [("selection_rate", row.selection), ("tpr", row.tpr), ("fpr", row.fpr), ("ppv", row.ppv)];
                for (column, rate) in rates {
                    let expected: Vec<f64> = [rate.rate, rate.low, rate.high].into_iter().flatten().collect();
                    assert_eq!(cell(column), expected, "{} {column}", row.group);
                }
                let marked = text(select(&parsed, &shown)[0]).contains("4/5");
                assert_eq!(marked, row.below_four_fifths.unwrap() && row.group != row.reference_group, "{}", row.group);
                groups += 1;
            }
            // Outcomes come late: the window is an earlier one.
            Finding::Performance(row) if row.current == window(WINDOWS - 3) && row.group == "all" => {
                let shown =
                    |column| values(select(&parsed, &format!("#performance .statistics tr[data-column={column}]"))[0]);
                let (now, before) = (row.measured.auroc.unwrap(), row.reference_measured.auroc.unwrap());
                assert_eq!(shown("auroc"), [now, before, now - before, row.estimated.auroc.unwrap()]);
                let (now, before) = (row.measured.ece.unwrap(), row.reference_measured.ece.unwrap());
                assert_eq!(shown("ece"), [now, before, now - before], "it is not estimated");
                performances += 1;
            }
            _ => {}
        }
    }
    assert_eq!((groups, performances), (15, 1));
}

#[test]
fn quality_is_that_of_the_tables_and_files_are_one_topic() {
    let (_folder, page) = whole();
    let parsed = Html::parse_document(&page);
    let counts = |topic: &str, measure: &str| {
        let rows = select(&parsed, "#quality tbody tr");
        let row =
            rows.iter().find(|row| row.attr("data-topic") == Some(topic) && row.attr("data-measure") == Some(measure));
        values(*row.unwrap())
    };
    let mut sum = (0, 0);
    for (_, found) in findings(WINDOWS, 7) {
        for finding in found {
            let Finding::Quality(row) = finding else { continue };
            if row.current == window(WINDOWS - 1) && row.measure == "late" {
                let (inputs, flawed) = row.current_counts;
                match row.topic.unwrap().0 {
                    0 => assert_eq!(counts("bp-obs", "late")[3..], [flawed as f64, inputs as f64]),
                    1 => assert_eq!(counts(HOSTILE, "late")[3..], [flawed as f64, inputs as f64]),
                    _ => sum = (sum.0 + inputs, sum.1 + flawed),
                }
            }
        }
    }
    assert_eq!(counts("files", "late")[3..], [sum.1 as f64, sum.0 as f64]);
    assert!(!page.contains("file-"), "a file may hold one person");
}

#[test]
fn a_hostile_text_stays_a_text_and_no_pseudonym_is_shown() {
    let (folder, page) = whole();
    let readings = std::fs::read_dir(folder.path().join("readings")).unwrap().count();
    assert!(readings > 3, "there are pseudonyms to be shown");
    assert!(!page.contains("<script"), "a topic has become markup");
    assert!(page.contains("&lt;script&gt;"));
    let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let longest = page.split(|c| !hexadecimal(c)).map(str::len).max().unwrap();
    assert!(longest < 32, "a run of {longest} hexadecimal digits");
    for patient in 0..5 {
        assert!(!page.contains(&Pseudonym([patient; 16]).to_string()));
    }
    let header = {
        let audit = Audit { made_at: EventTime::from_micros(NEW_YEAR), ..Audit::read(&question(folder.path())) };
        let flows = [r#"x"}</style><b>"#.to_owned()].into();
        render(&Audit { provenance: read::Provenance { flows, ..audit.provenance.clone() }, ..audit })
    };
    assert!(header.contains(r#"audit of xstyleb""#) && Html::parse_document(&header).errors.is_empty());
}

#[test]
fn of_each_finding_the_highest_epoch_counts_whatever_the_file() {
    let found = findings(40, 7);
    let older: Vec<_> = findings(40, 8).into_iter().map(|(epoch, found)| (epoch - 900, found)).collect();
    let (alone, both) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_parquet(alone.path(), 1, &found);
    // The older rows come in the file whose name is read last.
    write_parquet(both.path(), 2, &found);
    write_parquet(both.path(), 1, &older);
    let alerts = |page: &str| page.matches("withdrawn").count();
    let (alone, both) = (page_of(alone.path()), page_of(both.path()));
    assert_eq!(alerts(&alone), alerts(&both));
    assert!(alone == both, "an older row stands");
    let folder = TempDir::new().unwrap();
    write_parquet(folder.path(), 1, &older);
    assert!(alone != page_of(folder.path()), "the older rows say something else");
}

#[test]
fn ndjson_is_read_where_there_is_no_parquet() {
    let (parquet, ndjson) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let found = findings(34, 7);
    write_parquet(parquet.path(), 1, &found);
    write_ndjson(ndjson.path(), &found);
    let main = |page: &str| {
        let parsed = Html::parse_document(page);
        ["#drift", "#quality", "#performance", "#fairness", "#alerts"].map(|id| select(&parsed, id)[0].html())
    };
    for (one, other) in main(&page_of(parquet.path())).iter().zip(main(&page_of(ndjson.path()))) {
        assert!(*one == other, "{} and {} bytes", one.len(), other.len());
    }
}

#[test]
fn files_of_a_checkpoint_that_is_not_listed_yet_are_passed_by() {
    let folder = TempDir::new().unwrap();
    write_parquet(folder.path(), 1, &findings(43, 7));
    let before = page_of(folder.path());
    let lists = folder.path().join("_committed");
    let aside = TempDir::new().unwrap();
    write_parquet(aside.path(), 1, &findings(44, 7));
    let name = format!("{}-g1-w0-0.parquet", 1_000 + 44);
    std::fs::copy(aside.path().join("shifts").join(&name), folder.path().join("shifts").join(&name)).unwrap();
    assert!(page_of(folder.path()) == before, "a file of no list was read");
    std::fs::remove_dir_all(&lists).unwrap();
    assert!(page_of(folder.path()) != before, "without lists every file counts");
}

#[test]
fn what_is_missing_or_damaged_is_said_and_the_rest_is_shown() {
    let folder = TempDir::new().unwrap();
    write_parquet(folder.path(), 1, &findings(36, 7));
    std::fs::remove_dir_all(folder.path().join("fairness")).unwrap();
    let damaged = folder.path().join(format!("performance/{}-g1-w0-0.parquet", 1_036));
    std::fs::write(&damaged, b"PAR1 not quite PAR1").unwrap();
    std::fs::remove_dir_all(folder.path().join("alerts")).unwrap();
    std::fs::create_dir_all(folder.path().join("alerts")).unwrap();
    let page = page_of(folder.path());
    let parsed = Html::parse_document(&page);
    let said = text(select(&parsed, "#left-out")[0]);
    assert!(said.contains("There is no table fairness."), "{said}");
    assert!(said.contains("The file 1036-g1-w0-0.parquet of performance is damaged; rows may be missing."), "{said}");
    assert!(text(select(&parsed, "#fairness")[0]).contains("No rows"));
    assert!(text(select(&parsed, "#alerts")[0]).contains("No alert has begun or ended."));
    assert!(text(select(&parsed, "#performance")[0]).contains(&numbers::span(window(35))));
    let empty = TempDir::new().unwrap();
    let audit = Audit::read(&question(empty.path()));
    assert!(audit.is_empty());
    assert!(Html::parse_document(&render(&audit)).errors.is_empty());
}

#[test]
fn columns_that_an_older_release_did_not_write_are_said() {
    use parquet::arrow::ArrowWriter;
    let folder = TempDir::new().unwrap();
    let rows = fixture::tables().findings(findings(30, 7).pop().unwrap().1, 9);
    let shifts = rows.iter().find(|rows| rows.table == crate::config::TableName::Shifts).unwrap();
    // The first eleven columns and the epoch: what the first release had.
    let old = shifts.batch.project(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, shifts.batch.num_columns() - 1]).unwrap();
    std::fs::create_dir_all(folder.path().join("shifts")).unwrap();
    let file = std::fs::File::create(folder.path().join("shifts/old.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, old.schema(), None).unwrap();
    writer.write(&old).unwrap();
    writer.close().unwrap();
    let page = page_of(folder.path());
    let parsed = Html::parse_document(&page);
    let said = text(select(&parsed, "#left-out")[0]);
    assert!(said.contains("Files of shifts have no usable column bin_edges."), "{said}");
    assert!(text(select(&parsed, "#drift")[0]).contains("No histograms in the table."));
    let row = select(&parsed, r#".groups tr[data-feature="systolic"][data-group="all"]"#)[0];
    let psi = shifts_psi(shifts.batch.column_by_name("psi").unwrap(), 27);
    assert!(values(row).contains(&psi), "{psi} in {:?}", values(row));
}

fn shifts_psi(column: &arrow::array::ArrayRef, at: usize) -> f64 {
    use arrow::array::AsArray;
    column.as_primitive::<arrow::datatypes::Float64Type>().value(at)
}

#[test]
fn a_range_leaves_windows_out_by_their_ends() {
    let folder = TempDir::new().unwrap();
    write_parquet(folder.path(), 1, &findings(40, 7));
    let within = |range: Span| Audit::read(&Question { range, ..question(folder.path()) });
    let audit = within((window(30).0, window(34).1));
    let drift = audit.drift.as_ref().unwrap();
    assert_eq!((drift.window, drift.windows), (window(34), 5));
    let none = within((window(50).0, window(60).1));
    assert!(none.is_empty());
}

/// A thousand windows of forty series.
#[test]
fn a_long_run_stays_a_small_page() {
    let mut found = Vec::new();
    for at in 0..1_000i64 {
        for feature in ["systolic", "diastolic", "mean_arterial", "pulse_pressure"] {
            for group in 0..10 {
                let psi = Some(0.02 + 0.001 * ((at * 7 + group * 13) % 50) as f64);
                let statistics = crate::vocabulary::findings::Statistics { psi, ..Default::default() };
                found.push(Finding::Shift(Shift {
                    feature,
                    unit: "mmHg",
                    group: if group == 0 { "all".into() } else { format!("ward={group}") },
                    current: window(at),
                    reference: window(at - 1),
                    statistics,
                    statistic: "psi",
                    verdict: Verdict::None,
                    ..Shift::default()
                }));
            }
        }
    }
    let folder = TempDir::new().unwrap();
    write_parquet(folder.path(), 1, &[(5_000, found)]);
    let page = page_of(folder.path());
    assert!(page.contains("1,000 windows"), "none is left out of the history");
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
}

#[test]
fn a_pdf_is_printed_or_said_to_need_a_browser() {
    let (folder, page) = whole();
    let (html, target) = (folder.path().join("report.html"), folder.path().join("report.pdf"));
    std::fs::write(&html, page).unwrap();
    let none = pdf::print(None, &html, &target).unwrap_err().to_string();
    assert!(none.contains("apt-get install chromium") && none.contains("--browser"), "{none}");
    std::fs::write(&target, "an older one").unwrap();
    let failed = pdf::print(Some("false".into()), &html, &target).unwrap_err().to_string();
    assert!(failed.contains("ended with exit status: 1") && !target.exists(), "{failed}");
    let Some(browser) = pdf::find(&std::env::var_os("PATH").unwrap()) else {
        println!("skipped: no Chromium to print with");
        return;
    };
    pdf::print(Some(browser), &html, &target).unwrap();
    let printed = std::fs::read(&target).unwrap();
    assert!(printed.starts_with(b"%PDF-") && printed.len() > 20_000, "{} bytes", printed.len());
}

/// Contrast of two colours `#rrggbb`. Source: WCAG 2.2, "contrast ratio" and "relative luminance".
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn every_text_stands_out_from_its_ground_in_light_and_dark() {
    let style = include_str!("page/report.css");
    let blocks: Vec<&str> = style.split(":root {").skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
    assert_eq!(blocks.len(), 3, "light, dark, paper");
    for block in &blocks[..2] {
        let colour = |name: &str| {
            let value = block.split(&format!("--{name}: ")).nth(1).unwrap();
            value.split(';').next().unwrap()
        };
        for (text, grounds) in [
            ("text", &["ground", "card", "row-watch", "row-act"][..]),
            ("quiet", &["ground", "card", "idle-soft"]),
            ("accent", &["ground"]),
            ("good", &["good-soft"]),
            ("watch", &["watch-soft", "card"]),
            ("act", &["act-soft", "row-act", "card"]),
        ] {
            for ground in grounds {
                let found = contrast(colour(text), colour(ground));
                assert!(found >= 4.5, "{text} on {ground}: {found:.2}");
            }
        }
        // A drawing's line needs 3 (WCAG 2.2, 1.4.11).
        for line in ["current", "strongest", "act", "watch"] {
            assert!(contrast(colour(line), colour("card")) >= 3.0, "{line}");
        }
    }
}

#[test]
fn a_number_without_unit_has_none_and_keeps_its_digits() {
    let side = |readings, mean| crate::vocabulary::findings::Side {
        readings,
        mean: Some(mean),
        standard_deviation: Some(0.05),
        bins: vec![890, 10],
        ..Default::default()
    };
    let shift = Shift {
        feature: "probability",
        unit: "1",
        group: "all".into(),
        current: window(1),
        reference: window(0),
        reference_side: side(900, 0.0121),
        current_side: side(225, 0.0087),
        bin_edges: vec![0.0, 0.5, 1.0],
        statistic: "psi",
        verdict: Verdict::None,
        ..Shift::default()
    };
    let folder = TempDir::new().unwrap();
    write_parquet(folder.path(), 1, &[(5_000, vec![Finding::Shift(shift)])]);
    let page = page_of(folder.path());
    let said = text(select(&Html::parse_document(&page), "#drift")[0]);
    assert!(said.contains("mean 0.012 → 0.009, −0.003; spread (SD) 0.050 → 0.050."), "{said}");
    assert!(page.contains("The window has only 25.0 % of the readings"), "both are six hours long");
    assert!(said.contains("readings by bin") && !said.contains("by bin,") && said.contains("1 window in"), "{said}");
}
