//! What runs the graph: workers, epochs, delivery threads, metrics, health. Domain-free.

pub mod metrics;
pub mod stop;
