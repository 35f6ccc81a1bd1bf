//! `windkessel report`: the audit's tables as one page that opens anywhere, prints well and asks the network for nothing.
//!
//! ```text
//! shifts/ quality/ performance/ fairness/ alerts/ ─read─> rows ─standing─> newest of each finding ─gather─> Audit ─page─> HTML ─pdf─> PDF
//! ```
//!
//! Invariants:
//!
//! 1. A figure on the page is one of the tables, or the difference or the ratio of two of them. Nothing is estimated here; each exact value is in the
//!    page beside the rounded one (`<data value>`).
//! 2. Of each finding the row with the highest epoch counts.
//! 3. What is missing, damaged or left out is said on the page. No table is needed.
//! 4. Whatever the tables hold is text: it is escaped, and the page forbids scripts and every request by its own policy.
//! 5. No pseudonym is read, and no topic of a single file is named.
//! 6. The page has a bounded size, however long the run was: [`chart::history::POINTS_MAX`], `SERIES_SHOWN_MAX`, `ALERTS_SHOWN_MAX`, [`standing`].
//!
//! [`Digest`] is what the history of scheduled audits keeps of the same tables; [`Periods`] says of when.
//!
//! It does not judge: verdicts are the engine's. [`chart`] draws for the live page as well.

pub mod chart;
mod digest;
mod gather;
mod numbers;
mod page;
pub mod pdf;
mod periods;
pub(crate) mod read;
mod rows;
mod standing;
#[cfg(test)]
pub(crate) mod tests;
mod thresholds;

pub use digest::{Digest, windows};
pub use gather::{Audit, Question};
pub use page::render;
pub use periods::Periods;
pub use read::{ALWAYS, Folders};
pub use thresholds::Thresholds;
