//! What runs the graph: workers, epochs, delivery threads, metrics, health. Domain-free.

pub mod http;
pub mod live;
pub mod metrics;
pub mod progress;
pub mod stop;
pub mod summary;
