//! The last file in which an identifier exists.
