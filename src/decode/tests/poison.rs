//! No bytes make the decoder panic, and damaged documents are rejected.

use proptest::prelude::*;

use super::*;

const READING: &str = r#"{"resourceType":"Observation","id":"o1","meta":{"versionId":"1","profile":[null]},"status":"final",
 "code":{"coding":[{"system":"http:\/\/loinc.org","code":"85354-9"}]},"subject":{"reference":"Patient/p1","display":"J\u00f6rg \ud83d\ude00"},
 "effectiveDateTime":"2026-01-01T08:30:00+01:00","component":[
 {"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":128.5,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},
 {"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},"valueQuantity":{"value":83e0,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}}]}
"#;

const BUNDLE: &str = r#"{"resourceType":"Bundle","type":"history","entry":[{"fullUrl":"urn:uuid:a","resource":{"resourceType":"Patient","id":"p1"}},
 {"request":{"method":"DELETE","url":"Observation/o1"}},{"resource":{"resourceType":"Bundle","entry":[{"resource":
 {"resourceType":"Observation","id":"o1","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},
 "subject":{"reference":"urn:uuid:a"},"effectivePeriod":{"start":"2026-01-01"},"valueQuantity":{"value":61,"code":"/min"}}}]}}]}"#;

/// The number of outcomes of a batch, and of those the rejected.
fn outcomes(out: &Decoded) -> (usize, u64) {
    let entries = out.observations.entries.iter().filter(|entry| !matches!(entry, Entry::Patient(_))).count();
    let ends = out.tally.total(Outcome::Ignored) + out.tally.total(Outcome::Rejected);
    (entries + ends as usize, out.tally.total(Outcome::Rejected))
}

#[test]
fn a_document_cut_anywhere_is_rejected_unless_only_white_space_was_cut() {
    for whole in [READING, BUNDLE] {
        for length in 0..=whole.len() {
            let cut = &whole.as_bytes()[..length];
            let complete = length >= whole.trim_end().len();
            let out = decode(&spec(), cut);
            assert_eq!(out.rejections.is_empty(), complete, "cut at {length}");
            if !complete {
                assert_eq!(outcomes(&out), (1, 1), "cut at {length}");
            }
        }
    }
}

#[test]
fn bottomless_nesting_is_rejected_in_known_and_in_unknown_places() {
    for bracket in ["[", "{\"a\":"] {
        let deep = bracket.repeat(20_000);
        for place in
            ["\"extension\":", "\"component\":", "\"component\":[{\"code\":", "\"subject\":", "\"meta\":{\"profile\":"]
        {
            let out = decode(&spec(), format!("{{\"resourceType\":\"Observation\",{place}{deep}").as_bytes());
            assert_eq!(out.rejections[0].rule, rule::JSON_DEPTH, "{place}");
        }
        let out = decode(&spec(), format!("{{{}{deep}", "\"a\":").as_bytes());
        assert_eq!(out.rejections[0].rule, rule::JSON_DEPTH);
        let out = decode(&spec(), deep.as_bytes());
        assert_eq!(out.rejections[0].rule, rule::JSON_DEPTH);
        let bundle = format!(
            "{{\"resourceType\":\"Bundle\",\"entry\":[{{\"resource\":{}",
            "{\"resourceType\":\"Bundle\",\"entry\":[{\"resource\":".repeat(5_000)
        );
        assert_eq!(decode(&spec(), bundle.as_bytes()).rejections[0].rule, rule::JSON_DEPTH);
    }
}

#[test]
fn bundles_may_nest_as_deep_as_the_document_may() {
    let nested = |depth: usize| {
        let (open, close) = ("{\"resourceType\":\"Bundle\",\"entry\":[{\"resource\":", "}]}");
        format!("{}{{\"resourceType\":\"Encounter\"}}{}", open.repeat(depth), close.repeat(depth))
    };
    let mut out = decode(&spec(), nested(21).as_bytes());
    assert_eq!(out.tally.drain().collect::<Vec<_>>(), [(Outcome::Ignored, rule::OTHER_RESOURCE, 1)]);
    assert_eq!(decode(&spec(), nested(22).as_bytes()).rejections[0].rule, rule::JSON_DEPTH);
}

#[test]
fn large_narrative_is_passed_by() {
    let narrative = "x".repeat(5 << 20);
    let text = READING.replacen('{', &format!("{{\"text\":{{\"div\":\"{narrative}\"}},"), 1);
    let out = decode(&spec(), text.as_bytes());
    assert_eq!(outcomes(&out), (1, 0));
    assert_eq!(out.observations.entries.len(), 1);
}

#[test]
fn a_document_of_fifty_megabytes_is_read() {
    let entry = format!("{{\"resource\":{}}},", READING.trim_end());
    let count = (50 << 20) / entry.len();
    let bundle = format!("{{\"entry\":[{}null],\"resourceType\":\"Bundle\"}}", entry.repeat(count));
    let out = decode(&spec(), bundle.as_bytes());
    assert_eq!(out.observations.entries.len(), count);
    assert_eq!(outcomes(&out), (count + 1, 0));
}

#[test]
fn a_history_of_many_deletions_is_looked_through_once() {
    let entries: String = (0..50_000)
        .map(|at| format!("{{\"request\":{{\"method\":\"DELETE\",\"url\":\"Observation/o{at}\"}}}},"))
        .collect();
    let out = decode(&spec(), format!("{{\"resourceType\":\"Bundle\",\"entry\":[{entries}null]}}").as_bytes());
    assert_eq!(out.observations.entries.len(), 50_000);
}

#[test]
fn rejections_carry_no_text_of_the_record() {
    // The type says so; this holds the type: every text in it is static.
    fn is_static(_: &'static str) {}
    let out = decode(&spec(), b"{\"resourceType\":\"Observation\",\"status\":\"secret");
    is_static(out.rejections[0].rule);
    is_static(out.rejections[0].detail);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn flipped_bytes_never_panic_and_end_exactly_once(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        bundle in any::<bool>(),
        lenient in any::<bool>(),
    ) {
        let mut bytes = if bundle { BUNDLE } else { READING }.as_bytes().to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        let mut spec = spec();
        if lenient {
            spec.duplicate_keys = Choice::Accept;
        }
        let (ends, _) = outcomes(&decode(&spec, &bytes));
        prop_assert!(ends == 1 || bundle && ends > 1);
    }

    #[test]
    fn any_bytes_end_exactly_once(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(outcomes(&decode(&spec(), &bytes)).0, 1);
    }

    /// Pieces of the real thing in any order, so that more than the first byte is tried.
    #[test]
    fn shuffled_pieces_never_panic(
        pieces in proptest::collection::vec(
            prop::sample::select(READING.split_inclusive([',', ':', '{', '[']).collect::<Vec<_>>()),
            0..60,
        ),
    ) {
        let _ = outcomes(&decode(&spec(), pieces.concat().as_bytes()));
    }
}
