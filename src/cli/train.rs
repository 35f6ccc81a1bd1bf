//! The `train` verb.
