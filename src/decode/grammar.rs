//! The grammar of JSON (RFC 8259) over text that is known to be UTF-8, as functions from a place in it to the place behind.
//!
//! Everything here takes the text and a position by value and returns the next position, so that a loop over it keeps both in registers;
//! what is rare (blanks, escapes) is kept out of line. Nothing allocates or recurses: [`skip`] keeps its open brackets in one word.

use super::rule;

/// Deepest nesting that is read. FHIR resources need about 20, each nested Bundle three more. At most 64, the bits of a word.
pub(super) const DEPTH_MAX: u32 = 64;

/// Why a document cannot be read on. Small, so that results travel in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// Byte of the document at which it was noticed.
    pub(super) at: u32,
}

/// What is wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    NotUtf8,
    EndsEarly,
    Trailing,
    NoValue,
    NoKey,
    NoColon,
    NoComma,
    Control,
    Escape,
    Surrogate,
    NoDigit,
    LeadingZero,
    Depth,
    KeyTwice,
    TypeTwice,
}

impl Fault {
    /// A fault at a byte of the document.
    #[cold]
    pub(super) fn new(kind: FaultKind, at: usize) -> Self {
        Fault { kind, at: u32::try_from(at).unwrap_or(u32::MAX) }
    }

    /// The rule that is broken, and what to say of the place.
    pub(super) fn rule(self) -> (&'static str, &'static str) {
        let syntax = |detail| (rule::JSON_SYNTAX, detail);
        match self.kind {
            FaultKind::NotUtf8 => (rule::NOT_UTF8, "the record is not UTF-8"),
            FaultKind::EndsEarly => syntax("the document ends early"),
            FaultKind::Trailing => syntax("something follows the document"),
            FaultKind::NoValue => syntax("a value is missing"),
            FaultKind::NoKey => syntax("a key is missing"),
            FaultKind::NoColon => syntax("a colon is missing"),
            FaultKind::NoComma => syntax("a comma or a closing bracket is missing"),
            FaultKind::Control => syntax("a control character stands in a string"),
            FaultKind::Escape => syntax("an escape is unknown"),
            FaultKind::Surrogate => syntax("half of a surrogate pair is missing"),
            FaultKind::NoDigit => syntax("a digit is missing"),
            FaultKind::LeadingZero => syntax("a number begins with 0"),
            FaultKind::Depth => (rule::JSON_DEPTH, "nested more than 64 deep"),
            FaultKind::KeyTwice => (rule::DUPLICATE_KEY, "a key occurs twice in one object"),
            FaultKind::TypeTwice => (rule::DUPLICATE_KEY, "resourceType occurs twice"),
        }
    }
}

/// A fault of this kind, or an early end if there is nothing at all.
#[cold]
pub(super) fn unexpected(bytes: &[u8], at: usize, kind: FaultKind) -> Fault {
    Fault::new(if at >= bytes.len() { FaultKind::EndsEarly } else { kind }, at)
}

/// The byte at `at`, or NUL (which begins nothing) behind the end.
#[inline(always)]
pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The first place from `at` on that is not blank.
#[inline(always)]
pub(super) fn solid(bytes: &[u8], at: usize) -> usize {
    if byte(bytes, at) > b' ' { at } else { past_blanks(bytes, at) }
}

#[inline(never)]
fn past_blanks(bytes: &[u8], mut at: usize) -> usize {
    while matches!(byte(bytes, at), b' ' | b'\n' | b'\r' | b'\t') {
        at += 1;
    }
    at
}

/// The closing quote of the string whose first character is at `at`, and whether anything in it is escaped.
#[inline(always)]
pub(super) fn string(bytes: &[u8], at: usize) -> Result<(usize, bool), Fault> {
    let end = plain_end(bytes, at);
    if byte(bytes, end) == b'"' { Ok((end, false)) } else { Ok((escaped_string(bytes, end)?, true)) }
}

/// The same in text of which it is not known that it is UTF-8, what stands before the string apart; `None` if it is no string.
#[inline(always)]
pub(super) fn unchecked_string(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let end = ascii_end(bytes, at);
    if byte(bytes, end) == b'"' { Some((end, false)) } else { checked_string(bytes, at) }
}

#[inline(never)]
fn checked_string(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let (end, escaped) = string(bytes, at).ok()?;
    // The quotes around it are ASCII, so it is UTF-8 for itself or not at all.
    std::str::from_utf8(&bytes[at..end]).ok()?;
    Some((end, escaped))
}

/// The closing quote of a string that holds more than plain characters.
#[inline(never)]
fn escaped_string(bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
    loop {
        match byte(bytes, at) {
            b'"' => return Ok(at),
            b'\\' => at = escape(bytes, at + 1)?,
            _ => return Err(unexpected(bytes, at, FaultKind::Control)),
        }
        at = plain_end(bytes, at);
    }
}

/// The place behind the escape whose backslash is right before `at`. `\u` must spell a scalar value.
fn escape(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let unit = |at| code_unit(bytes, at).ok_or_else(|| unexpected(bytes, at, FaultKind::Escape));
    let half = |at| unexpected(bytes, at, FaultKind::Surrogate);
    match byte(bytes, at) {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 1),
        b'u' => match unit(at + 1)? {
            0xD800..0xDC00 if !bytes[at + 5..].starts_with(b"\\u") => Err(half(at + 5)),
            0xD800..0xDC00 if !(0xDC00..0xE000).contains(&unit(at + 7)?) => Err(half(at + 7)),
            0xD800..0xDC00 => Ok(at + 11),
            0xDC00..0xE000 => Err(half(at)),
            _ => Ok(at + 5),
        },
        _ => Err(unexpected(bytes, at, FaultKind::Escape)),
    }
}

/// The UTF-16 code unit that four hexadecimal digits spell.
pub(super) fn code_unit(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.iter().try_fold(0, |unit, &byte| Some(unit << 4 | char::from(byte).to_digit(16)?))
}

/// The first place from `at` on that a string cannot simply contain: a quote, a backslash, a control character, the end.
#[inline(always)]
fn plain_end(bytes: &[u8], at: usize) -> usize {
    stop(bytes, at, 0)
}

/// The same, stopping at what is not ASCII as well.
#[inline(always)]
fn ascii_end(bytes: &[u8], at: usize) -> usize {
    stop(bytes, at, HIGH)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = ONES << 7;

/// Eight bytes at a time. `x - n` sets the high bit of a byte below `n`; a borrow can set it wrongly only above a byte that is set
/// rightly, so the lowest set bit is always right (after Mycroft's test for a zero byte). Exchanging bit 1 puts the quote (0x22)
/// right behind the control characters, at 0x20, and what was there beyond it: one comparison finds both.
/// Bytes that have a bit of `others` stop as well.
#[inline(always)]
fn stop(bytes: &[u8], mut at: usize, others: u64) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote_or_control = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
        let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        let stops = (quote_or_control | backslash) & !word & HIGH | word & others;
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    last_stop(bytes, at, others as u8)
}

/// The same within the last bytes of a document.
#[inline(never)]
fn last_stop(bytes: &[u8], mut at: usize, others: u8) -> usize {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\' && byte & others == 0;
    while bytes.get(at).is_some_and(|&byte| plain(byte)) {
        at += 1;
    }
    at
}

/// The place behind the number at `at`.
#[inline]
pub(super) fn number(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let whole = if byte(bytes, at) == b'-' { at + 1 } else { at };
    let mut end = digits(bytes, whole)?;
    if byte(bytes, whole) == b'0' && end > whole + 1 {
        return Err(Fault::new(FaultKind::LeadingZero, whole));
    }
    if byte(bytes, end) == b'.' {
        end = digits(bytes, end + 1)?;
    }
    if matches!(byte(bytes, end), b'e' | b'E') {
        let signed = matches!(byte(bytes, end + 1), b'+' | b'-');
        end = digits(bytes, end + 1 + usize::from(signed))?;
    }
    Ok(end)
}

#[inline]
fn digits(bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
    if !byte(bytes, at).is_ascii_digit() {
        return Err(unexpected(bytes, at, FaultKind::NoDigit));
    }
    while byte(bytes, at).is_ascii_digit() {
        at += 1;
    }
    Ok(at)
}

fn literal(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, Fault> {
    if !bytes[at..].starts_with(word) {
        return Err(unexpected(bytes, at, FaultKind::NoValue));
    }
    Ok(at + word.len())
}

/// The place behind the colon of the key that comes next, and the key's range and whether it is escaped.
#[inline(always)]
pub(super) fn key(bytes: &[u8], at: usize) -> Result<(usize, (usize, usize), bool), Fault> {
    let quote = solid(bytes, at);
    if byte(bytes, quote) != b'"' {
        return Err(unexpected(bytes, quote, FaultKind::NoKey));
    }
    let (end, escaped) = string(bytes, quote + 1)?;
    let colon = solid(bytes, end + 1);
    if byte(bytes, colon) != b':' {
        return Err(unexpected(bytes, colon, FaultKind::NoColon));
    }
    Ok((colon + 1, (quote + 1, end), escaped))
}

/// The place behind the value that begins at `at` (blanks before it allowed), nested at most `depth_max` deep.
#[inline(never)]
pub(super) fn skip(bytes: &[u8], mut at: usize, depth_max: u32) -> Result<usize, Fault> {
    // The open brackets, innermost lowest: 1 is an object.
    let (mut objects, mut open) = (0u64, 0);
    loop {
        at = solid(bytes, at);
        at = match byte(bytes, at) {
            b'"' => string(bytes, at + 1)?.0 + 1,
            bracket @ (b'{' | b'[') => {
                if open == depth_max {
                    return Err(Fault::new(FaultKind::Depth, at));
                }
                let inner = solid(bytes, at + 1);
                // In ASCII a closing bracket is two behind its opening one.
                if byte(bytes, inner) == bracket + 2 {
                    inner + 1
                } else {
                    open += 1;
                    objects = objects << 1 | u64::from(bracket == b'{');
                    at = if bracket == b'{' { key(bytes, inner)?.0 } else { inner };
                    continue;
                }
            }
            b'-' | b'0'..=b'9' => number(bytes, at)?,
            b't' => literal(bytes, at, b"true")?,
            b'f' => literal(bytes, at, b"false")?,
            b'n' => literal(bytes, at, b"null")?,
            _ => return Err(unexpected(bytes, at, FaultKind::NoValue)),
        };
        // After a value: close what ends here, until another value comes or all is closed.
        loop {
            if open == 0 {
                return Ok(at);
            }
            at = solid(bytes, at);
            let (next, object) = (byte(bytes, at), objects & 1 == 1);
            if next == b',' {
                at = if object { key(bytes, at + 1)?.0 } else { at + 1 };
                break;
            }
            if next != if object { b'}' } else { b']' } {
                return Err(unexpected(bytes, at, FaultKind::NoComma));
            }
            at += 1;
            open -= 1;
            objects >>= 1;
        }
    }
}
