//! The `score` stage.
