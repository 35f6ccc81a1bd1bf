//! A word that no program says by itself, put wherever a person could be named; and the search for it, however it is written.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// The word. An id may hold it.
pub(crate) const CANARY: &str = "Zk4nariQ";

/// Spellings of the word that must be nowhere: raw, hexadecimal, percent-encoded, as JSON escapes, as a list of bytes, UTF-16, base64.
pub(crate) fn spellings() -> Vec<Vec<u8>> {
    let bytes = CANARY.as_bytes();
    let each = |format: &dyn Fn(u8) -> String| bytes.iter().map(|byte| format(*byte)).collect::<String>();
    let list = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let mut texts = vec![CANARY.to_owned(), each(&|byte| format!("{byte:02x}")), each(&|byte| format!("%{byte:02x}"))];
    texts.extend([each(&|byte| format!("\\u{byte:04x}")), list.replace(' ', ""), list]);
    texts.push(each(&|byte| format!("{}\0", byte as char)));
    // In base64 a word looks different at each of three places; the characters at its edges depend on its neighbours.
    texts.extend((0..3).map(|before| {
        let encoded = BASE64_STANDARD.encode([&b"\0\0"[..before], bytes].concat());
        let whole = (before + bytes.len()) * 8 / 6;
        encoded[(before * 8).div_ceil(6)..whole].to_owned()
    }));
    texts.into_iter().map(String::into_bytes).collect()
}

/// Where the word, or any beginning of it that is long enough to be no accident, stands; letters of either case.
pub(crate) fn leak(haystack: &[u8]) -> Option<String> {
    let lower = haystack.to_ascii_lowercase();
    let found = |spelling: &Vec<u8>| {
        let at = memchr::memmem::find(&lower, &spelling.to_ascii_lowercase())?;
        let around = &haystack[at.saturating_sub(80)..(at + 80).min(haystack.len())];
        Some(String::from_utf8_lossy(around).into_owned())
    };
    spellings().iter().find_map(found)
}

/// A FHIR example with the word in its ids, its narrative, its notes, its extensions, its URLs and wherever else a text can stand.
pub(crate) fn marked(example: &str) -> String {
    let extra = format!(
        "{{\"text\":{{\"status\":\"generated\",\"div\":\"<div>{CANARY}</div>\"}},\"note\":[{{\"text\":\"{CANARY} fell\"}}],\
         \"identifier\":[{{\"system\":\"http://{CANARY}.example\",\"value\":\"{CANARY}\"}}],\"language\":\"{CANARY}\",\
         \"extension\":[{{\"url\":\"http://{CANARY}.example/x\",\"valueString\":\"{CANARY}\"}}],\"{CANARY}\":\"{CANARY}\","
    );
    let marked = example.replacen('{', &extra, 1);
    let marked =
        marked.replace("Patient/p1", &format!("Patient/{CANARY}-p1")).replace("\"o1\"", &format!("\"{CANARY}-o1\""));
    let marked = marked
        .replace("\"c1\"", &format!("\"{CANARY}-c1\""))
        .replace("Condition/c1", &format!("Condition/{CANARY}-c1"));
    marked.replace("\"p1\"", &format!("\"{CANARY}-p1\"")).replace("urn:uuid:", &format!("urn:uuid:{CANARY}"))
}
