//! What runs the graph: workers, epochs, delivery threads, metrics, health, the live page. Domain-free but for what it shows.

pub mod busy;
pub mod checkpoint;
pub mod clock;
pub mod cluster;
pub mod delivery;
pub mod driver;
pub mod epoch_log;
pub mod failpoint;
pub mod failure;
mod host;
pub mod http;
pub mod live;
pub mod memory;
pub mod metrics;
pub mod progress;
mod reader;
pub mod recorder;
pub mod recovery;
pub mod secret;
#[cfg(test)]
mod simulation;
pub mod state_files;
pub mod stop;
pub mod store;
pub mod summary;
pub mod survive;
#[cfg(test)]
mod tests;
pub mod watchdog;
pub mod worker;
