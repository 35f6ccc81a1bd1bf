//! A strict pull reader for JSON (RFC 8259) over text that is known to be UTF-8.
//!
//! **Invariants**
//!
//! 1. It accepts exactly the documents of the grammar that are nested at most [`DEPTH_MAX`] deep and whose `\u` escapes spell
//!    Unicode scalar values (a test holds it against an independent reader on random and on mutated documents).
//! 2. It allocates nothing and does not recurse: skipping a value keeps its open brackets in one word.
//! 3. What it returns are slices of the input; an escaped string is unescaped only when somebody asks.
//!
//! Why not a crate: of those tried on paper, none both keeps offsets (an id has to stay a range of the batch's arena), skips without
//! recursion and reports a repeated key; the grammar is one page.
//!
//! Not here: UTF-8 validation (once a record, in [`document`](super::document)), values of numbers beyond [`decimal`].

use super::rule;

/// Deepest nesting that is read. FHIR resources need about 20, each nested Bundle three more.
pub(super) const DEPTH_MAX: u32 = 64;

/// Longest key that can be known, in bytes; a longer one is unknown.
const KEY_MAX: usize = 32;

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

/// A string of the document, still escaped.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    raw: &'a [u8],
    start: usize,
    escaped: bool,
}

/// A position in a document.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
    /// Take the last of repeated keys, rather than fail.
    repeats_allowed: bool,
    /// How often that was needed.
    repeats: u32,
    key: [u8; KEY_MAX],
}

/// Where a walk through an object or array stands.
#[derive(Default)]
pub(super) struct Members {
    begun: bool,
}

/// Keys of one object that were seen, one bit each.
#[derive(Default)]
pub(super) struct Seen(u32);

impl<'a> Text<'a> {
    /// The text, unescaped into `buffer` if need be.
    pub(super) fn plain<'b>(self, buffer: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        if !self.escaped {
            return self.raw;
        }
        buffer.clear();
        self.unescape(|byte| buffer.push(byte));
        buffer
    }

    /// The bytes as they stand in the document, and where, if nothing is escaped.
    pub(super) fn unescaped(self) -> Option<(&'a [u8], usize)> {
        (!self.escaped).then_some((self.raw, self.start))
    }

    /// Equal to `text`, unescaped?
    pub(super) fn is(self, text: &[u8]) -> bool {
        if !self.escaped {
            return self.raw == text;
        }
        let mut rest = text.iter();
        let mut equal = true;
        self.unescape(|byte| equal &= rest.next() == Some(&byte));
        equal && rest.next().is_none()
    }

    /// The escapes were checked when the string was read, so everything here has its second half.
    fn unescape(self, mut put: impl FnMut(u8)) {
        let mut rest = self.raw;
        while let [byte, after @ ..] = rest {
            rest = after;
            if *byte != b'\\' {
                put(*byte);
                continue;
            }
            let [kind, after @ ..] = rest else { return };
            rest = after;
            match kind {
                b'b' => put(8),
                b'f' => put(12),
                b'n' => put(b'\n'),
                b'r' => put(b'\r'),
                b't' => put(b'\t'),
                b'u' => {
                    let mut unit = hex4(rest).unwrap_or_default();
                    rest = rest.get(4..).unwrap_or_default();
                    if (0xD800..0xDC00).contains(&unit) {
                        let low = rest.get(2..).and_then(hex4).unwrap_or_default();
                        rest = rest.get(6..).unwrap_or_default();
                        unit = 0x10000 + ((unit - 0xD800) << 10) + low.wrapping_sub(0xDC00);
                    }
                    let scalar = char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
                    scalar.encode_utf8(&mut [0; 4]).bytes().for_each(&mut put);
                }
                other => put(*other),
            }
        }
    }
}

impl<'a> Reader<'a> {
    /// At byte `at` of a document.
    pub(super) fn new(bytes: &'a [u8], at: usize, repeats_allowed: bool) -> Self {
        Reader { bytes, at, depth: 0, repeats_allowed, repeats: 0, key: [0; KEY_MAX] }
    }

    /// The byte it stands at, counted from the document's start.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Repeated keys that were let through.
    pub(super) fn repeats(&self) -> u32 {
        self.repeats
    }

    /// A failure here.
    #[cold]
    pub(super) fn fault<T>(&self, kind: FaultKind) -> Result<T, Fault> {
        Err(Fault { kind, at: u32::try_from(self.at).unwrap_or(u32::MAX) })
    }

    #[cold]
    fn unexpected<T>(&self, kind: FaultKind) -> Result<T, Fault> {
        self.fault(if self.at >= self.bytes.len() { FaultKind::EndsEarly } else { kind })
    }

    /// The next byte, or NUL (which begins nothing) at the end.
    #[inline(always)]
    fn byte(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// The first byte of what comes next; it tells what it is. NUL at the end.
    #[inline(always)]
    pub(super) fn peek(&mut self) -> u8 {
        loop {
            match self.byte() {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return byte,
            }
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        self.peek();
        if self.at == self.bytes.len() { Ok(()) } else { self.unexpected(FaultKind::Trailing) }
    }

    /// Enters the object or array that begins here.
    #[inline]
    pub(super) fn enter(&mut self) -> Result<Members, Fault> {
        debug_assert!(matches!(self.byte(), b'{' | b'['), "the caller has peeked");
        self.at += 1;
        self.deepen()?;
        Ok(Members::default())
    }

    fn deepen(&mut self) -> Result<(), Fault> {
        if self.depth == DEPTH_MAX {
            return self.fault(FaultKind::Depth);
        }
        self.depth += 1;
        Ok(())
    }

    /// The next key of the object, unescaped; its value comes next. A key that is too long to be known comes back empty.
    /// `None` after the last.
    #[inline(always)]
    pub(super) fn key(&mut self, members: &mut Members) -> Result<Option<&[u8]>, Fault> {
        let next = self.peek();
        if next == b'}' {
            self.at += 1;
            self.depth -= 1;
            return Ok(None);
        }
        self.comma(next, members)?;
        let text = self.key_text()?;
        if text.escaped { Ok(Some(self.unescaped_key(text))) } else { Ok(Some(text.raw)) }
    }

    #[cold]
    fn unescaped_key(&mut self, text: Text<'a>) -> &[u8] {
        let (mut length, buffer) = (0, &mut self.key);
        text.unescape(|byte| {
            if let Some(free) = buffer.get_mut(length) {
                *free = byte;
            }
            length += 1;
        });
        self.key.get(..length).unwrap_or_default()
    }

    #[inline(always)]
    fn comma(&mut self, next: u8, members: &mut Members) -> Result<(), Fault> {
        if members.begun {
            if next != b',' {
                return self.unexpected(FaultKind::NoComma);
            }
            self.at += 1;
        }
        members.begun = true;
        Ok(())
    }

    #[inline(always)]
    fn key_text(&mut self) -> Result<Text<'a>, Fault> {
        if self.peek() != b'"' {
            return self.unexpected(FaultKind::NoKey);
        }
        let text = self.text()?;
        if self.peek() != b':' {
            return self.unexpected(FaultKind::NoColon);
        }
        self.at += 1;
        Ok(text)
    }

    /// Another element of the array comes next?
    #[inline(always)]
    pub(super) fn element(&mut self, members: &mut Members) -> Result<bool, Fault> {
        let next = self.peek();
        if next == b']' {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        self.comma(next, members)?;
        Ok(true)
    }

    /// Marks a key as seen; fails if it was seen before, unless repeats are allowed (then the caller's later value stands).
    #[inline(always)]
    pub(super) fn once(&mut self, seen: &mut Seen, bit: u32) -> Result<(), Fault> {
        let mask = 1 << bit;
        if seen.0 & mask != 0 {
            if !self.repeats_allowed {
                return self.fault(FaultKind::KeyTwice);
            }
            self.repeats += 1;
        }
        seen.0 |= mask;
        Ok(())
    }

    /// The string that begins here.
    #[inline(always)]
    pub(super) fn text(&mut self) -> Result<Text<'a>, Fault> {
        debug_assert_eq!(self.byte(), b'"', "the caller has peeked");
        let start = self.at + 1;
        let end = plain_end(self.bytes, start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Text { raw: &self.bytes[start..end], start, escaped: false });
        }
        self.at = end;
        self.rest_of_text(start)
    }

    /// A string that holds more than plain characters.
    #[inline(never)]
    fn rest_of_text(&mut self, start: usize) -> Result<Text<'a>, Fault> {
        loop {
            match self.byte() {
                b'"' => {
                    let raw = &self.bytes[start..self.at];
                    self.at += 1;
                    return Ok(Text { raw, start, escaped: true });
                }
                b'\\' => self.escape()?,
                _ => return self.unexpected(FaultKind::Control),
            }
            self.at = plain_end(self.bytes, self.at);
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        match self.byte() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                self.at += 1;
                match self.code_unit()? {
                    0xD800..0xDC00 => {
                        if !self.bytes[self.at..].starts_with(b"\\u") {
                            return self.unexpected(FaultKind::Surrogate);
                        }
                        self.at += 2;
                        if !(0xDC00..0xE000).contains(&self.code_unit()?) {
                            return self.unexpected(FaultKind::Surrogate);
                        }
                    }
                    0xDC00..0xE000 => return self.unexpected(FaultKind::Surrogate),
                    _ => {}
                }
            }
            _ => return self.unexpected(FaultKind::Escape),
        }
        Ok(())
    }

    fn code_unit(&mut self) -> Result<u32, Fault> {
        match hex4(&self.bytes[self.at..]) {
            Some(unit) => {
                self.at += 4;
                Ok(unit)
            }
            None => self.unexpected(FaultKind::Escape),
        }
    }

    /// The number that begins here, as it is written.
    #[inline]
    pub(super) fn number(&mut self) -> Result<&'a [u8], Fault> {
        let start = self.at;
        if self.byte() == b'-' {
            self.at += 1;
        }
        let whole = self.at;
        self.digits()?;
        if self.bytes[whole] == b'0' && self.at > whole + 1 {
            return self.unexpected(FaultKind::LeadingZero);
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.byte(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.bytes[start..self.at])
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Fault> {
        if !self.byte().is_ascii_digit() {
            return self.unexpected(FaultKind::NoDigit);
        }
        while self.byte().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    /// Passes the value that begins here, whatever it is, and checks it.
    pub(super) fn skip(&mut self) -> Result<(), Fault> {
        let outside = self.depth;
        // The open brackets, innermost lowest: 1 is an object. One word holds them all.
        let mut objects: u64 = 0;
        loop {
            match self.peek() {
                b'"' => {
                    self.text()?;
                }
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    self.deepen()?;
                    objects = objects << 1 | u64::from(open == b'{');
                    let next = self.peek();
                    if next != open + 2 {
                        if open == b'{' {
                            self.key_text()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    self.depth -= 1;
                    objects >>= 1;
                }
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                }
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => return self.unexpected(FaultKind::NoValue),
            }
            if self.close(outside, &mut objects)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what ends here. True when the value that was to be skipped is complete, false when another value comes next.
    #[inline(always)]
    fn close(&mut self, outside: u32, objects: &mut u64) -> Result<bool, Fault> {
        while self.depth > outside {
            let object = *objects & 1 == 1;
            match self.peek() {
                b',' => {
                    self.at += 1;
                    if object {
                        self.key_text()?;
                    }
                    return Ok(false);
                }
                b'}' if object => {}
                b']' if !object => {}
                _ => return self.unexpected(FaultKind::NoComma),
            }
            self.at += 1;
            self.depth -= 1;
            *objects >>= 1;
        }
        Ok(true)
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Fault> {
        if !self.bytes[self.at..].starts_with(word) {
            return self.unexpected(FaultKind::NoValue);
        }
        self.at += word.len();
        Ok(())
    }
}

fn hex4(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.iter().try_fold(0, |unit, &byte| Some(unit << 4 | char::from(byte).to_digit(16)?))
}

/// The first byte from `at` on that a string cannot simply contain: a quote, a backslash, a control character. The length if there is none.
///
/// Eight bytes at a time. `(x - 1) & !x` has the high bit of a byte set if that byte of `x` is zero; a borrow can set it wrongly
/// only above a byte that is set rightly, so the lowest set bit is always right (Mycroft's test for a zero byte). The three tests
/// share `!x`: exchanging bits below the high one leaves that as it is.
#[inline(always)]
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes were taken"));
        let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        let control = word.wrapping_sub(ONES * 0x20);
        let stop = (quote | backslash | control) & !word & HIGH;
        if stop != 0 {
            return at + (stop.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        at += 1;
    }
    at
}

/// The number that a JSON number literal spells, correctly rounded; `None` if it is beyond the range of `f64`.
///
/// Up to 15 digits and a power of ten up to 22 both sides are exact in `f64`, and one multiplication or division rounds correctly
/// (Clinger 1990, "How to Read Floating Point Numbers Accurately"); all else goes to the standard library.
pub(super) fn decimal(literal: &[u8]) -> Option<f64> {
    let exact = short_decimal(literal);
    let value = match exact {
        Some(value) => value,
        None => std::str::from_utf8(literal).ok()?.parse().ok()?,
    };
    value.is_finite().then_some(value)
}

fn short_decimal(literal: &[u8]) -> Option<f64> {
    const TENS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (negative, digits) = match literal {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > 16 {
        return None;
    }
    let (mut mantissa, mut point) = (0u64, None);
    for (at, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => mantissa = mantissa * 10 + u64::from(byte - b'0'),
            b'.' => point = Some(at),
            _ => return None,
        }
    }
    let fraction = point.map_or(0, |at| digits.len() - at - 1);
    // Sixteen bytes without a point are sixteen digits: too many.
    if point.is_none() && digits.len() > 15 {
        return None;
    }
    let value = mantissa as f64 / TENS[fraction];
    Some(if negative { -value } else { value })
}
