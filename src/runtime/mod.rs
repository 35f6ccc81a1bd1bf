//! What runs the graph: workers, epochs, delivery threads, metrics, health. Domain-free.

pub mod delivery;
pub mod driver;
pub mod failure;
pub mod metrics;
pub mod stop;
