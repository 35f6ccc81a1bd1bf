//! The whole program, driven as a user drives it, without any server: needs Rust and a C compiler only.
//!
//! * [`replay`]: files in, rows out, compared with the oracle.
//! * [`dashboards`]: what Kibana is given.
//! * [`demo`]: the embedded broker.
//! * [`again`]: what a run reads that goes on where another stopped.
//! * [`cli`]: exit codes, messages, signals.
//! * [`cluster`]: several processes, killed, stopped, asked to end.
//! * [`crash`]: killed again and again, with every guard and without one.
//! * [`memory`]: under a real limit.
//! * [`outcomes`]: what came of patients, and what that makes of the scores.
//! * [`page`]: the live page in a real browser.
//! * [`profile`]: a saved reference.
//! * [`prometheus`]: a real one scrapes a run.
//! * [`quality`]: flaws of the input, counted.
//! * [`reads`]: how far an answer of a run reaches, over restarts.
//! * [`canary`]: nothing that identifies anybody gets out.
//! * [`allocations`]: what a record costs, without a clock.
//! * [`top`]: a run in the terminal.
//! * [`webhook`]: alerts, to somebody who is not always there.
//! * [`tidy`]: the rules of the house.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as a test does")]
#![expect(clippy::print_stderr, reason = "a test says its seed")]

mod again;
mod allocations;
mod canary;
mod cli;
mod cluster;
mod crash;
mod dashboards;
mod demo;
mod memory;
#[path = "../oracle/mod.rs"]
mod oracle;
mod outcomes;
mod page;
mod profile;
mod prometheus;
mod quality;
mod reads;
mod replay;
#[allow(dead_code, reason = "each of the two binaries uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod tidy;
mod top;
mod webhook;
