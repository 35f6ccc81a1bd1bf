//! Dashboards that are generated from short descriptions: what Kibana and Grafana import is long, and nobody reviews it.
//!
//! ```text
//! schemas/kibana/*.toml ── source ─> lens ─> saved ─> docker/kibana/windkessel.ndjson
//! schemas/grafana/*.toml ─ grafana ─────────────────> docker/grafana/dashboards/windkessel.json
//! ```
//!
//! Invariants: the same descriptions give the same bytes; a panel names only fields that the index template maps with a type that can be
//! counted, or nothing is generated. Pure: no file is read, nothing is asked.
//!
//! What it does not do: it imports nothing. `docker/kibana/import` does, for the compose stack.

mod grafana;
mod lens;
mod saved;
pub mod source;
#[cfg(test)]
mod tests;

pub use grafana::grafana;
pub use saved::kibana;
