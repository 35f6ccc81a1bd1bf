//! The `patient` stage.
