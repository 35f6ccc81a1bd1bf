//! Windkessel: a stream-processing dataflow engine for FHIR observations.
pub mod audit;
pub mod cli;
pub mod config;
pub mod decode;
pub mod identified;
pub mod patient;
pub mod pseudonymise;
pub mod runtime;
pub mod score;
pub mod signals;
pub mod sink;
pub mod source;
pub mod time;
pub mod vocabulary;
