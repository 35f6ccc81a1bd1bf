//! The JSON reader against `serde_json`: the same documents are accepted, and the same values are read.

use proptest::prelude::*;
use serde_json::Value;

use super::super::grammar::{DEPTH_MAX, Fault, FaultKind};
use super::super::json::{Reader, decimal};

/// Builds a value with the reader under test, taking the last of repeated keys as `serde_json` does.
fn value(reader: &mut Reader<'_>) -> Result<Value, Fault> {
    Ok(match reader.peek() {
        b'{' => {
            let (mut members, mut map) = (reader.enter()?, serde_json::Map::new());
            while let Some(key) = reader.key(&mut members)? {
                let key = String::from_utf8(key.to_vec()).unwrap();
                let inner = value(reader)?;
                map.insert(key, inner);
            }
            Value::Object(map)
        }
        b'[' => {
            let (mut members, mut list) = (reader.enter()?, Vec::new());
            while reader.element(&mut members)? {
                list.push(value(reader)?);
            }
            Value::Array(list)
        }
        b'"' => Value::String(String::from_utf8(reader.text()?.plain(&mut Vec::new()).to_vec()).unwrap()),
        b'-' | b'0'..=b'9' => {
            let at = reader.at();
            let literal = reader.number()?;
            // Beyond the range of f64 the grammar says yes and the value no; the independent reader knows one answer for both.
            let number = decimal(literal.raw()).ok_or(Fault { kind: FaultKind::NoValue, at: at as u32 })?;
            Value::from(number)
        }
        first => {
            reader.skip()?;
            match first {
                b't' => Value::Bool(true),
                b'f' => Value::Bool(false),
                _ => Value::Null,
            }
        }
    })
}

fn read(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok()?;
    let mut reader = Reader::new(bytes, 0, true);
    let value = value(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

fn skip(bytes: &[u8]) -> Result<(), Fault> {
    let mut reader = Reader::new(bytes, 0, true);
    reader.skip()?;
    reader.end()
}

/// Equal, numbers up to the last bits: without its `float_roundtrip` feature `serde_json` rounds some a unit off. Exact rounding is tested below.
fn alike(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            a == b || ((a - b) / b).abs() < 1e-14 || b.abs() < f64::MIN_POSITIVE && (a - b).abs() < 1e-320
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        (a, b) => a == b,
    }
}

fn agrees(bytes: &[u8]) {
    let (ours, theirs) = (read(bytes), serde_json::from_slice::<Value>(bytes).ok());
    let same = match (&ours, &theirs) {
        (Some(ours), Some(theirs)) => alike(ours, theirs),
        (None, None) => true,
        _ => false,
    };
    assert!(same, "{:?}: {ours:?}, not {theirs:?}", String::from_utf8_lossy(bytes));
    if theirs.is_some() {
        assert_eq!(skip(bytes), Ok(()), "what can be read can be skipped");
    }
}

#[test]
fn the_corners_of_the_grammar() {
    for text in [
        "",
        " ",
        "null",
        "nul",
        "nulll",
        "true",
        "tru",
        "false",
        "True",
        "0",
        "-0",
        "-",
        "01",
        "-01",
        "1.",
        ".5",
        "1.5",
        "1e",
        "1e5",
        "1E+5",
        "1e-5",
        "1e+",
        "+1",
        "1.0e1.0",
        "0x1",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "1e-400",
        "123456789012345678901234567890",
        "0.1",
        "0.30000000000000004",
        "9007199254740993",
        "179.99999999999997",
        "1.7976931348623157e308",
        "4.9e-324",
        "\"\"",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\u0041\"",
        "\"\\u00\"",
        "\"\\u00zz\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83d\\u0041\"",
        "\"\\ud83dx\"",
        "\"\\x\"",
        "\"\\b\\f\\n\\r\\t\\/\\\\\"",
        "\"\t\"",
        "\"\u{0}\"",
        "\"\u{7f}\"",
        "\"é€😀\"",
        "[]",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1,2]",
        "[ 1 , 2 ]",
        "{}",
        "{",
        "}",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{a:1}",
        "{,}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1,\"b\":2}",
        "{\"\":1}",
        "{\"\\u0061\":1}",
        "[}",
        "{]",
        "[{]}",
        "{\"a\":1]",
        "[1}",
        "{} {}",
        "[] x",
        "1 2",
        "//c\n1",
        "[1]/**/",
        "'a'",
        "\u{feff}1",
        "\u{a0}1",
        "[[[[[[]]]]]]",
        "{\"a\":{\"a\":{\"a\":[]}}}",
        "{\"a\":1,\"a\":2}",
        "[-]",
        "[0123]",
    ] {
        agrees(text.as_bytes());
    }
    agrees(b"\"\xff\"");
    agrees(b"\xed\xa0\x80");
}

#[test]
fn nesting_is_read_up_to_its_limit_and_not_beyond() {
    let nested = |depth: usize, open: &str, close: &str| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    let limit = DEPTH_MAX as usize;
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let per = open.matches(['[', '{']).count();
        assert_eq!(skip(nested(limit / per, open, close).as_bytes()), Ok(()));
        let fault = skip(nested(limit / per + 1, open, close).as_bytes()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Depth);
    }
    assert_eq!(skip("[".repeat(1_000_000).as_bytes()).unwrap_err().kind, FaultKind::Depth);
}

#[test]
fn strings_of_every_length_end_where_they_end() {
    for length in 0..40 {
        for special in ["", "\\n", "\\\"", "é", "\u{1}", "\""] {
            for at in 0..=length {
                let text = format!("\"{}{special}{}\"", "a".repeat(at), "b".repeat(length - at));
                agrees(text.as_bytes());
            }
        }
    }
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0u32..100_000, 0u32..6).prop_map(|(n, places)| Value::from(f64::from(n) / 10f64.powi(places as i32))),
        "\\PC{0,24}".prop_map(Value::from),
        ".{0,24}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::vec(("[a-z\\\\\"é]{0,9}", inner), 0..8)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_documents_are_read_alike(document in documents(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }.unwrap();
        agrees(text.as_bytes());
    }

    /// Bytes that matter to the grammar, put in, taken out and exchanged.
    #[test]
    fn mutated_documents_are_read_alike(
        document in documents(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..3, prop::sample::select(b"{}[]\",:\\u0d8- \n\t1eE.+tfn\x00\x1f\xff\xc3".to_vec())), 1..4),
    ) {
        let mut bytes = serde_json::to_vec(&document).unwrap();
        for (at, kind, byte) in changes {
            let at = at.index(bytes.len().max(1));
            match kind {
                0 => bytes.insert(at.min(bytes.len()), byte),
                1 if at < bytes.len() => { bytes.remove(at); }
                _ if at < bytes.len() => bytes[at] = byte,
                _ => {}
            }
        }
        agrees(&bytes);
    }

    #[test]
    fn decimals_are_rounded_as_the_standard_library_rounds(whole in 0u64..10_000_000_000, places in 0usize..12, negative in any::<bool>()) {
        let digits = format!("{whole:012}");
        let (left, right) = digits.split_at(digits.len() - places);
        let left = left.trim_start_matches('0');
        let left = if left.is_empty() { "0" } else { left };
        let text = format!("{}{left}{}{right}", if negative { "-" } else { "" }, if places > 0 { "." } else { "" });
        prop_assert_eq!(decimal(text.as_bytes()).map(f64::to_bits), text.parse::<f64>().ok().map(f64::to_bits));
    }
}
