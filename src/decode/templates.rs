//! Learned templates: a machine writes the same message again and again, so most of it need only be compared.
//!
//! ```text
//! {"resourceType":"Observation","id":"█","meta":{"versionId":"█", …,"valueQuantity":{"value":█,"unit":"mmHg", …
//! └────────────── piece ────────────┘ └hole
//! ```
//!
//! A template is learned from a record that the parser read as exactly one plain Observation. Its *tokens* are the strings and numbers
//! that can be others without the parser taking another turn: those that it [passes](Lesson::passed) unread, and those that
//! [`judge`](super::judge) alone reads ([`told`]). All else (keys, codes, units, status, punctuation, blanks) is constant. Tokens that are
//! told are holes from the start; of the others those that were seen to vary, and the rest is compared with the constants.
//!
//! **Invariants**
//!
//! 1. What a template reads is what the parser would read: the constants are equal, and a hole holds a token of the same type that is
//!    checked by the parser's own [`grammar`]; what was read goes to the same `judge`. Whatever does not fit is left to the parser.
//! 2. So no result depends on which templates there are (a test holds both ways against each other on mutated messages).
//! 3. Bytes of holes are not kept. Other bytes of one message a template may be, which nothing prints.
//!
//! **Limits:** [`TEMPLATES_MAX`], [`TOKENS_MAX`], [`SAMPLE_BYTES_MAX`]; learning is paid for by records ([`LESSON_RECORDS`]), and
//! while nothing fits, templates are looked at for one record in [`DROUGHT_STEP`].
//!
//! It knows nothing of envelopes and Bundles.

use super::draft::Draft;
use super::json::Text;
use super::{Settings, grammar, quantity};

/// Templates that a worker keeps; the one that was used longest ago is replaced.
pub(super) const TEMPLATES_MAX: usize = 16;
/// Messages with more strings and numbers that may vary have no template.
const TOKENS_MAX: usize = 128;
/// Longer messages have no template, in bytes.
const SAMPLE_BYTES_MAX: usize = 16 << 10;
/// A lesson costs about as much as reading five records; one in so many records may be one.
const LESSON_RECORDS: u32 = 256;
/// Lessons that may be saved up, for when many shapes begin at once.
const LESSONS_SAVED_MAX: u32 = 128;
/// After so many records in a row that no template fitted …
const DROUGHT_RECORDS: u32 = 512;
/// … they are tried for one record in this many.
const DROUGHT_STEP: u32 = 16;

/// A worker's templates.
pub(super) struct Templates {
    slots: Vec<Template>,
    /// Places in `slots`, the one used last first.
    order: Vec<usize>,
    /// How many leading (piece, hole) pairs the templates in two slots share.
    common: [[usize; TEMPLATES_MAX]; TEMPLATES_MAX],
    /// What the holes of the record in hand hold.
    spans: [Span; TOKENS_MAX],
    lesson: Lesson,
    /// Records that were not spent on lessons yet.
    credit: u32,
    /// Records since one fitted.
    drought: u32,
    /// The record in hand is left to the parser, and nothing is learned from it.
    resting: bool,
    #[cfg(test)]
    fitted: u64,
    #[cfg(test)]
    lessons: u64,
}

/// What is noted while a record is parsed to learn from it.
#[derive(Default)]
pub(super) struct Lesson {
    /// Values that were passed unread.
    passed: Vec<(usize, usize)>,
    tokens: Vec<Token>,
}

/// One string (without its quotes) or number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Token {
    start: usize,
    end: usize,
    number: bool,
}

/// The bytes `start..end` of the sample, up to a hole.
struct Hole {
    start: usize,
    end: usize,
    number: bool,
}

/// What a hole holds, in a record.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
    escaped: bool,
}

impl Span {
    /// Within a record, of which templates know the length.
    #[inline(always)]
    fn new(start: usize, end: usize, escaped: bool) -> Self {
        Span { start: start as u32, end: end as u32, escaped }
    }
}

/// Where a text of a record is found.
#[derive(Clone, Copy, Default)]
enum Spot {
    /// The same as in the sample.
    Constant(Span),
    /// A token, by number.
    Token(u32),
    /// A hole, by number.
    Hole(u32),
    #[default]
    Nowhere,
}

struct Template {
    /// The message that it was learned from, holes blanked.
    sample: Box<[u8]>,
    /// What may vary, ascending; and whether it is a hole.
    tokens: Vec<(Token, bool)>,
    holes: Vec<Hole>,
    /// Where the constants behind the last hole begin.
    tail: usize,
    /// What it says, with texts by token.
    told: Draft<Spot>,
    /// The same with texts by hole.
    form: Draft<Spot>,
}

impl Lesson {
    /// The value at bytes `start..end` was passed: its strings and numbers mean nothing.
    pub(super) fn passed(&mut self, start: usize, end: usize) {
        self.passed.push((start, end));
    }

    /// The tokens of the record, ascending.
    fn collect(&mut self, bytes: &[u8], draft: &Draft<Text<'_>>) {
        self.tokens.clear();
        for &(start, end) in &self.passed {
            tokens(bytes, start, end, &mut self.tokens);
        }
        self.tokens.extend(told(draft).map(|(text, number)| {
            let (start, length) = (text.start(), text.raw().len());
            Token { start, end: start + length, number }
        }));
        self.tokens.sort_unstable();
        self.tokens.dedup();
    }
}

/// The texts that only `judge` reads, wherever they stand; true for numbers.
fn told<'d, 'a>(draft: &'d Draft<Text<'a>>) -> impl Iterator<Item = (Text<'a>, bool)> + 'd {
    let Draft { id, meta, subject, effective, issued, .. } = draft;
    let texts = [*id, meta.version_id, meta.last_updated, subject.reference, subject.value, effective.text, *issued];
    let values = draft.components.iter().map(|component| &component.value).chain([&draft.value]);
    let literals = values.filter_map(|value| value.quantity.as_ref()?.literal());
    texts.into_iter().flatten().map(|text| (text, false)).chain(literals.map(|literal| (literal, true)))
}

/// The strings and numbers, keys not included, within a value that the grammar has passed.
fn tokens(bytes: &[u8], mut at: usize, end: usize, into: &mut Vec<Token>) {
    while at < end {
        match grammar::byte(bytes, at) {
            b'"' => {
                let Ok((close, _)) = grammar::string(bytes, at + 1) else { return };
                let token = Token { start: at + 1, end: close, number: false };
                at = close + 1;
                if at >= end || grammar::byte(bytes, grammar::solid(bytes, at)) != b':' {
                    into.push(token);
                }
            }
            b'-' | b'0'..=b'9' => {
                let Ok(behind) = grammar::number(bytes, at) else { return };
                into.push(Token { start: at, end: behind, number: true });
                at = behind;
            }
            _ => at += 1,
        }
    }
}

impl Templates {
    pub(super) fn new() -> Self {
        Templates {
            slots: Vec::new(),
            order: Vec::new(),
            common: [[0; TEMPLATES_MAX]; TEMPLATES_MAX],
            spans: [Span::default(); TOKENS_MAX],
            lesson: Lesson::default(),
            credit: LESSON_RECORDS * LESSONS_SAVED_MAX,
            drought: 0,
            resting: false,
            #[cfg(test)]
            fitted: 0,
            #[cfg(test)]
            lessons: 0,
        }
    }

    /// Records that fitted a template.
    #[cfg(test)]
    pub(super) fn fitted(&self) -> u64 {
        self.fitted
    }

    /// Records that were learned from.
    #[cfg(test)]
    pub(super) fn lessons(&self) -> u64 {
        self.lessons
    }

    /// Which template a record fits, if one does; [`Templates::draft`] is for it alone.
    #[inline]
    pub(super) fn fit(&mut self, bytes: &[u8]) -> Option<usize> {
        self.credit = (self.credit + 1).min(LESSON_RECORDS * LESSONS_SAVED_MAX);
        self.resting = self.drought >= DROUGHT_RECORDS && !self.drought.is_multiple_of(DROUGHT_STEP);
        self.drought = self.drought.wrapping_add(1);
        if self.resting {
            return None;
        }
        let slot = self.find(bytes)?;
        self.drought = 0;
        #[cfg(test)]
        {
            self.fitted += 1;
        }
        Some(slot)
    }

    /// What the record says that was just found to fit.
    #[inline(always)]
    pub(super) fn draft<'t>(&'t self, slot: usize, bytes: &'t [u8]) -> Draft<Text<'t>> {
        self.slots[slot].draft(bytes, &self.spans)
    }

    /// Looks for a template that fits; what its holes hold is in `spans` then.
    ///
    /// What one template has found out is not looked at again by the next: leading pieces and holes that they share hold or fail for both.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut failed = None;
        for (nth, &slot) in self.order.iter().enumerate() {
            let template = &self.slots[slot];
            if !bytes.ends_with(&template.sample[template.tail..]) {
                continue;
            }
            let from = failed.map_or(0, |(other, at): (usize, usize)| match self.common[other][slot] {
                shared if shared > at => usize::MAX,
                shared => shared,
            });
            if from == usize::MAX {
                continue;
            }
            match template.fit(bytes, &mut self.spans, from) {
                Ok(()) => {
                    self.order[..=nth].rotate_right(1);
                    return Some(slot);
                }
                Err(at) => failed = Some((slot, at)),
            }
        }
        None
    }

    /// Where to note what is passed, if the record that no template fitted is worth a lesson.
    pub(super) fn lesson(&mut self) -> Option<&mut Lesson> {
        if self.credit < LESSON_RECORDS || self.resting {
            return None;
        }
        self.lesson.passed.clear();
        Some(&mut self.lesson)
    }

    /// Learns from a record that was parsed with [`Templates::lesson`] and came to this.
    pub(super) fn learn(&mut self, bytes: &[u8], draft: &Draft<Text<'_>>, settings: &Settings) {
        if self.credit < LESSON_RECORDS || self.resting {
            return;
        }
        self.credit -= LESSON_RECORDS;
        #[cfg(test)]
        {
            self.lessons += 1;
        }
        self.lesson.collect(bytes, draft);
        let tokens = &self.lesson.tokens;
        if tokens.len() > TOKENS_MAX || bytes.len() > SAMPLE_BYTES_MAX {
            return;
        }
        let known = self.slots.iter().position(|template| template.is_like(bytes, tokens));
        let slot = match known {
            Some(slot) => {
                self.slots[slot].widen(bytes, tokens);
                slot
            }
            None => {
                let template = Template::new(bytes, tokens, draft, settings);
                self.place(template)
            }
        };
        if let Some(nth) = self.order.iter().position(|&known| known == slot) {
            self.order[..=nth].rotate_right(1);
        }
        self.compare(slot);
    }

    /// Puts a template into a free slot, or in place of the one that was used longest ago.
    fn place(&mut self, template: Template) -> usize {
        let slot = self.slots.len();
        if slot < TEMPLATES_MAX {
            self.slots.push(template);
            self.order.push(slot);
            return slot;
        }
        let slot = self.order[TEMPLATES_MAX - 1];
        self.slots[slot] = template;
        slot
    }

    /// Notes what the template in a slot shares with the others.
    fn compare(&mut self, slot: usize) {
        for (other, template) in self.slots.iter().enumerate() {
            let shared = self.slots[slot].shared(template);
            self.common[slot][other] = shared;
            self.common[other][slot] = shared;
        }
    }
}

impl Template {
    fn new(bytes: &[u8], tokens: &[Token], draft: &Draft<Text<'_>>, settings: &Settings) -> Self {
        let told: Vec<usize> = told(draft).map(|(text, _)| text.start()).collect();
        let mut told_by_token =
            draft.map(&mut |text: Text<'_>| match tokens.binary_search_by_key(&text.start(), |token| token.start) {
                Ok(at) => Spot::Token(at as u32),
                Err(_) => Spot::Constant(Span::new(text.start(), text.start() + text.raw().len(), text.is_escaped())),
            });
        settle(&mut told_by_token, draft, settings);
        let tokens = tokens.iter().map(|token| (*token, told.contains(&token.start))).collect();
        let blank = Draft::default();
        let sample = bytes.into();
        let mut template = Template { sample, tokens, holes: Vec::new(), tail: 0, told: told_by_token, form: blank };
        template.cut();
        template
    }

    /// Cuts the holes out.
    fn cut(&mut self) {
        self.holes.clear();
        let (mut start, mut by_token) = (0, Vec::new());
        for &(token, hole) in &self.tokens {
            by_token.push(self.holes.len() as u32);
            if hole {
                self.sample[token.start..token.end].fill(b' ');
                self.holes.push(Hole { start, end: token.start, number: token.number });
                start = token.end;
            }
        }
        self.tail = start;
        self.form = self.told.map(&mut |spot| match spot {
            Spot::Token(at) => Spot::Hole(by_token[at as usize]),
            other => other,
        });
    }

    /// Is a record the same but for its tokens?
    fn is_like(&self, bytes: &[u8], tokens: &[Token]) -> bool {
        if tokens.len() != self.tokens.len() {
            return false;
        }
        let (mut ours, mut theirs) = (0, 0);
        for ((our, _), their) in self.tokens.iter().zip(tokens) {
            if our.number != their.number || self.sample[ours..our.start] != bytes[theirs..their.start] {
                return false;
            }
            (ours, theirs) = (our.end, their.end);
        }
        self.sample[ours..] == bytes[theirs..]
    }

    /// Makes holes of the tokens in which a record that is alike differs.
    fn widen(&mut self, bytes: &[u8], tokens: &[Token]) {
        for ((our, hole), their) in self.tokens.iter_mut().zip(tokens) {
            *hole |= self.sample[our.start..our.end] != bytes[their.start..their.end];
        }
        self.cut();
    }

    /// How many leading (piece, hole) pairs are the same.
    fn shared(&self, other: &Template) -> usize {
        let same = |(ours, theirs): &(&Hole, &Hole)| {
            ours.number == theirs.number && self.sample[ours.start..ours.end] == other.sample[theirs.start..theirs.end]
        };
        self.holes.iter().zip(&other.holes).take_while(same).count()
    }

    /// Whether the record fits, from hole number `from` on, those before being known to; else the hole at which it does not.
    /// That it ends as it should was looked at before.
    #[inline]
    fn fit(&self, bytes: &[u8], spans: &mut [Span; TOKENS_MAX], from: usize) -> Result<(), usize> {
        let mut at = if from == 0 { 0 } else { spans[from - 1].end as usize };
        for (nth, (hole, span)) in self.holes.iter().zip(spans.iter_mut()).enumerate().skip(from) {
            let piece = &self.sample[hole.start..hole.end];
            match bytes.get(at..at + piece.len()) {
                Some(same) if same == piece => at += piece.len(),
                _ => return Err(nth),
            }
            let found = if hole.number { number(bytes, at) } else { grammar::unchecked_string(bytes, at) };
            let Some((end, escaped)) = found else { return Err(nth) };
            *span = Span::new(at, end, escaped);
            at = end;
        }
        if bytes.len() - at == self.sample.len() - self.tail { Ok(()) } else { Err(self.holes.len()) }
    }

    /// What the record says that fits.
    #[inline(always)]
    fn draft<'t>(&'t self, bytes: &'t [u8], spans: &[Span; TOKENS_MAX]) -> Draft<Text<'t>> {
        self.form.map(&mut |spot| {
            let (bytes, span) = match spot {
                Spot::Hole(at) => (bytes, spans[at as usize]),
                Spot::Constant(span) => (&*self.sample, span),
                Spot::Token(_) | Spot::Nowhere => return Text::default(),
            };
            Text::new(bytes, (span.start as usize, span.end as usize), span.escaped)
        })
    }
}

/// Units are constants, so what they come to is found out once.
fn settle(told: &mut Draft<Spot>, draft: &Draft<Text<'_>>, settings: &Settings) {
    let whole = (draft.code, &mut told.value, &draft.value);
    let components = told.components.iter_mut().zip(&draft.components);
    let components = components.map(|(ours, theirs)| (theirs.code, &mut ours.value, &theirs.value));
    for (code, ours, theirs) in components.chain([whole]) {
        let (Some(signal), Some(ours), Some(theirs)) = (code.signal, &mut ours.quantity, &theirs.quantity) else {
            continue;
        };
        let signal = settings.table.signal(signal);
        if let Ok(scale) = quantity::scale(theirs, signal, settings.unit_missing, &mut Vec::new()) {
            (ours.scale, ours.unit, ours.system, ours.code) = (Some(scale), None, None, None);
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    grammar::number(bytes, at).ok().map(|end| (end, false))
}
