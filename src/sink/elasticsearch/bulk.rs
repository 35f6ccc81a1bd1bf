//! The queue of documents between an epoch and the bulk API: what goes into a request, and what becomes of it. Pure.
//!
//! ```text
//! offer ──> waiting ──take──> Batch ──(somebody sends it)──> settle ──> written, already newer, rejected
//!              ^                                               │
//!              └───────── again: to the front, in order ───────┘
//! ```
//!
//! Invariants: every document offered leaves exactly once, by an answer that settles it or by [`Batcher::too_large`]; documents to
//! be sent again keep their order and come before all that wait; a batch holds at least one document, and one more only within both limits;
//! answers are paired with documents by position, and the ids must agree.
//!
//! It owns no socket, clock or thread, and does not know what a document says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::config::TableName;
use crate::time::Epoch;

use super::document::{Document, DocumentId};
use super::response::{ItemAnswer, Verdict};

/// One document on its way.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    /// The table that its row is of.
    pub table: TableName,
    /// The index it belongs to.
    pub index: Arc<str>,
    /// Its `_id`.
    pub id: DocumentId,
    /// Its version.
    pub epoch: Epoch,
    /// Action line and source line, as they stand in the request.
    lines: Vec<u8>,
}

impl std::fmt::Debug for Item {
    /// Without the source.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.index, self.id, self.epoch)
    }
}

impl Item {
    /// `source` is one JSON object without a newline; `index` holds nothing that JSON would escape.
    pub fn new(table: TableName, index: Arc<str>, id: DocumentId, epoch: Epoch, source: &[u8]) -> Self {
        debug_assert!(!source.contains(&b'\n'), "a source is one line");
        let action = format!(
            "{{\"index\":{{\"_index\":\"{index}\",\"_id\":\"{id}\",\"version\":{epoch},\"version_type\":\"external\"}}}}\n"
        );
        let mut lines = Vec::with_capacity(action.len() + source.len() + 1);
        lines.extend_from_slice(action.as_bytes());
        lines.extend_from_slice(source);
        lines.push(b'\n');
        Item { table, index, id, epoch, lines }
    }

    /// A document's.
    pub fn of(document: Document) -> Self {
        let Document { table, id, index, epoch, source, .. } = document;
        Item::new(table, index, id, epoch, &source)
    }
}

/// What one request carries. Never empty.
#[derive(Debug)]
pub struct Batch {
    items: Vec<Item>,
}

impl Batch {
    /// Number of documents.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The request's body before compression.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.bytes());
        self.items.iter().for_each(|item| body.extend_from_slice(&item.lines));
        body
    }

    fn bytes(&self) -> usize {
        self.items.iter().map(|item| item.lines.len()).sum()
    }
}

/// What a batch's answers came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Documents written.
    pub written: usize,
    /// Documents that the index holds in this version or a newer one.
    pub already_newer: usize,
    /// Both of them, by table.
    pub done: BTreeMap<TableName, u64>,
    /// Documents that wait again.
    pub again: usize,
    /// Documents that will never be accepted, with their answers.
    pub rejected: Vec<(Item, ItemAnswer)>,
    /// The first document's index that does not exist; the document waits again.
    pub index_missing: Option<Arc<str>>,
    /// True if some may not be written with these credentials; they wait again.
    pub forbidden: bool,
}

/// The queue.
#[derive(Debug)]
pub struct Batcher {
    waiting: VecDeque<Item>,
    bytes_max: usize,
    documents_max: usize,
}

impl Batcher {
    /// Requests of at most `bytes_max` bytes (before compression) and `documents_max` documents, at least one document each.
    pub fn new(bytes_max: usize, documents_max: usize) -> Self {
        Batcher { waiting: VecDeque::new(), bytes_max, documents_max: documents_max.max(1) }
    }

    /// Adds a document at the end.
    pub fn offer(&mut self, item: Item) {
        self.waiting.push_back(item);
    }

    /// Documents waiting.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next request, from the front; `None` if nothing waits.
    pub fn take(&mut self) -> Option<Batch> {
        let mut items = vec![self.waiting.pop_front()?];
        let mut bytes = items[0].lines.len();
        while items.len() < self.documents_max
            && let Some(next) = self.waiting.front()
            && bytes + next.lines.len() <= self.bytes_max
        {
            bytes += next.lines.len();
            items.extend(self.waiting.pop_front());
        }
        Some(Batch { items })
    }

    /// Pairs a batch with its answers.
    ///
    /// # Panics
    /// If there is not one answer a document, or an answer names another document: pairing on would credit one document with another's answer.
    pub fn settle(&mut self, batch: Batch, answers: Vec<ItemAnswer>) -> Settled {
        assert_eq!(batch.len(), answers.len(), "one answer a document");
        let mut settled = Settled::default();
        let mut again = Vec::new();
        // Both are consumed whole and have the same length: nothing is filtered before the pairing.
        for (item, answer) in batch.items.into_iter().zip(answers) {
            if let Some(id) = &answer.id {
                assert_eq!(*id, item.id.to_string(), "answers keep the order of the request");
            }
            let verdict = answer.verdict();
            if matches!(verdict, Verdict::Written | Verdict::AlreadyNewer) {
                *settled.done.entry(item.table).or_default() += 1;
            }
            match verdict {
                Verdict::Written => settled.written += 1,
                Verdict::AlreadyNewer => settled.already_newer += 1,
                Verdict::Rejected => settled.rejected.push((item, answer)),
                Verdict::Again => again.push(item),
                Verdict::IndexMissing => {
                    settled.index_missing.get_or_insert_with(|| item.index.clone());
                    again.push(item);
                }
                Verdict::Forbidden => {
                    settled.forbidden = true;
                    again.push(item);
                }
            }
        }
        settled.again = again.len();
        self.push_front(again);
        settled
    }

    /// A batch whose fate is unknown waits again, at the front.
    pub fn put_back(&mut self, batch: Batch) {
        self.push_front(batch.items);
    }

    /// The destination says that the request is too large. A single document is handed back: it can never be sent. Otherwise all
    /// wait again and requests become half as large, for good: the destination's limit does not grow.
    ///
    /// The limit never falls below half of the destination's: it is halved only from a request that was above it.
    pub fn too_large(&mut self, mut batch: Batch) -> Option<Item> {
        if batch.len() == 1 {
            return batch.items.pop();
        }
        self.bytes_max = batch.bytes() / 2;
        self.push_front(batch.items);
        None
    }

    fn push_front(&mut self, items: Vec<Item>) {
        items.into_iter().rev().for_each(|item| self.waiting.push_front(item));
    }
}

#[cfg(test)]
mod tests {
    //! What these prove: the invariants above, by scripts with a printed answer, and conservation on random answers.

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn item(number: u8, source_bytes: usize) -> Item {
        let mut id = [0; 16];
        id[15] = number;
        Item::new(TableName::Readings, "i".into(), DocumentId(id), 7, &vec![b'x'; source_bytes])
    }

    fn numbers(items: &[Item]) -> Vec<u8> {
        items.iter().map(|item| item.id.0[15]).collect()
    }

    fn answer(status: u16) -> ItemAnswer {
        ItemAnswer { id: None, status, error_type: "none" }
    }

    /// Bytes of an item whose source is empty.
    fn overhead() -> usize {
        item(0, 0).lines.len()
    }

    /// `offer N BYTES`, `take`, `settle STATUS…`, `large`; prints what each request holds and what became of it.
    fn check(documents_max: usize, bytes_max: usize, script: &str, expect: Expect) {
        let mut batcher = Batcher::new(bytes_max, documents_max);
        let mut batch = None;
        let mut out = String::new();
        for step in script.split(';').map(str::trim) {
            let words: Vec<&str> = step.split_whitespace().collect();
            let number = |at: usize| words[at].parse::<usize>().unwrap();
            match words[0] {
                "offer" => batcher.offer(item(number(1) as u8, number(2) - overhead())),
                "take" => {
                    batch = batcher.take();
                    let held = batch.as_ref().map(|batch| numbers(&batch.items));
                    out += &format!("take {held:?}, {} left\n", batcher.waiting());
                }
                "settle" => {
                    let answers = words[1..].iter().map(|status| answer(status.parse().unwrap())).collect();
                    let settled = batcher.settle(batch.take().unwrap(), answers);
                    out += &format!(
                        "written {} newer {} again {} rejected {:?} missing {:?} forbidden {}\n",
                        settled.written,
                        settled.already_newer,
                        settled.again,
                        settled
                            .rejected
                            .iter()
                            .map(|(item, answer)| (item.id.0[15], answer.status))
                            .collect::<Vec<_>>(),
                        settled.index_missing,
                        settled.forbidden,
                    );
                }
                "large" => {
                    let alone = batcher.too_large(batch.take().unwrap());
                    out += &format!("too large, alone: {:?}\n", alone.map(|item| item.id.0[15]));
                }
                other => panic!("{other}"),
            }
        }
        expect.assert_eq(&out);
    }

    #[test]
    fn retried_documents_go_back_to_the_front_in_order() {
        check(
            3,
            10_000,
            "offer 0 200; offer 1 200; offer 2 200; offer 3 200; take; settle 429 400 503; take",
            expect![[r#"
                take Some([0, 1, 2]), 1 left
                written 0 newer 0 again 2 rejected [(1, 400)] missing None forbidden false
                take Some([0, 2, 3]), 0 left
            "#]],
        );
    }

    #[test]
    fn a_request_ends_at_either_limit_but_holds_one_document() {
        check(
            10,
            500,
            "offer 0 200; offer 1 300; offer 2 201; offer 3 300; offer 4 900; offer 5 200; take; take; take; take; take; take",
            expect![[r#"
                take Some([0, 1]), 4 left
                take Some([2]), 3 left
                take Some([3]), 2 left
                take Some([4]), 1 left
                take Some([5]), 0 left
                take None, 0 left
            "#]],
        );
    }

    #[test]
    fn a_request_too_large_is_halved_until_a_document_stands_alone() {
        check(
            10,
            10_000,
            "offer 0 200; offer 1 200; offer 2 1000; offer 3 200; take; large; take; large; take; settle 201; \
             take; settle 201; take; large; take; settle 201",
            expect![[r#"
                take Some([0, 1, 2, 3]), 0 left
                too large, alone: None
                take Some([0, 1]), 2 left
                too large, alone: None
                take Some([0]), 3 left
                written 1 newer 0 again 0 rejected [] missing None forbidden false
                take Some([1]), 2 left
                written 1 newer 0 again 0 rejected [] missing None forbidden false
                take Some([2]), 1 left
                too large, alone: Some(2)
                take Some([3]), 0 left
                written 1 newer 0 again 0 rejected [] missing None forbidden false
            "#]],
        );
    }

    #[test]
    fn what_stops_the_run_leaves_its_documents_waiting() {
        check(
            10,
            10_000,
            "offer 0 200; offer 1 200; offer 2 200; offer 3 200; take; settle 409 404 403 200; take",
            expect![[r#"
                take Some([0, 1, 2, 3]), 0 left
                written 1 newer 1 again 2 rejected [] missing Some("i") forbidden true
                take Some([1, 2]), 0 left
            "#]],
        );
    }

    #[test]
    fn an_item_is_two_lines_with_external_version() {
        let (index, id) = ("bp-2026.01".into(), DocumentId([0xab; 16]));
        let item = Item::new(TableName::Readings, index, id, 1_767_225_600_000, b"{\"a\":1}");
        expect![[r#"
            {"index":{"_index":"bp-2026.01","_id":"abababababababababababababababab","version":1767225600000,"version_type":"external"}}
            {"a":1}
        "#]]
        .assert_eq(std::str::from_utf8(&item.lines).unwrap());
        assert!(!format!("{item:?}").contains("\"a\""));
    }

    #[test]
    fn an_answer_too_few_is_noticed() {
        let mut batcher = Batcher::new(1_000, 10);
        batcher.offer(item(0, 1));
        batcher.offer(item(1, 1));
        let batch = batcher.take().unwrap();
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batcher.settle(batch, vec![answer(201)])));
        assert!(panicked.is_err());
    }

    #[test]
    fn an_answer_for_another_document_is_noticed() {
        let mut batcher = Batcher::new(1_000, 10);
        batcher.offer(item(0, 1));
        let batch = batcher.take().unwrap();
        let other = ItemAnswer { id: Some(DocumentId([9; 16]).to_string()), ..answer(201) };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batcher.settle(batch, vec![other])));
        assert!(panicked.is_err());
    }

    proptest! {
        #[test]
        fn every_document_leaves_exactly_once(
            sizes in proptest::collection::vec(0_usize..400, 1..60),
            statuses in proptest::collection::vec(prop_oneof![Just(201_u16), Just(409), Just(429), Just(503), Just(400)], 1..40),
            documents_max in 1_usize..9,
        ) {
            let mut batcher = Batcher::new(600, documents_max);
            for (number, size) in sizes.iter().enumerate() {
                batcher.offer(item(number as u8, *size));
            }
            let mut statuses = statuses.into_iter();
            let mut left = 0;
            while let Some(batch) = batcher.take() {
                prop_assert!(batch.len() <= documents_max);
                prop_assert!(batch.len() == 1 || batch.bytes() <= 600);
                let held = numbers(&batch.items);
                prop_assert!(held.windows(2).all(|pair| pair[0] < pair[1]), "order is kept");
                let answers: Vec<_> = held.iter().map(|_| answer(statuses.next().unwrap_or(201))).collect();
                let settled = batcher.settle(batch, answers);
                let done: u64 = settled.done.values().sum();
                prop_assert_eq!(done as usize, settled.written + settled.already_newer);
                left += settled.written + settled.already_newer + settled.rejected.len();
            }
            prop_assert_eq!(left, sizes.len());
        }
    }
}
