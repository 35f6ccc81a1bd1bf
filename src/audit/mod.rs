//! The `audit` stage.
