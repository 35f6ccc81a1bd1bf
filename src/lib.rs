//! Windkessel: a stream-processing dataflow engine for FHIR observations, on timely and differential dataflow.
//!
//! ```text
//! Kafka ─┐                                        ┌─ windows ──┐
//! files ─┼─> source ─> decode ─> pseudonymise ─>  │  patient   ├─> score ─┬─> sinks
//! gen.  ─┘     │          │           (exchange   │ (keyed     │          │
//!      cuts ─> epoch log  └─> rejected  by key)   └─ baseline ─┘          └─> audit ─> sinks
//! ```
//!
//! The modules, in the order in which data flows. A stage is a plain state machine and one short `render`; [`graph`] is the page
//! that joins them; timely's API appears only in [`runtime`], in `render`s and in [`audit`].
//!
//! It is not a medical device: see `docs/clinical.md`.

// What flows, and when.
pub mod comorbidities;
pub mod identified;
pub mod signals;
pub mod time;
pub mod vocabulary;
pub mod watermark;

// Where it flows.
pub mod audit;
pub mod decode;
pub mod graph;
pub mod patient;
pub mod pseudonymise;
pub mod score;
pub mod sink;
pub mod source;

// What is made of it afterwards.
pub mod report;

// What makes it flow.
pub mod cli;
pub mod config;
pub mod dashboards;
pub mod job;
pub mod runtime;
