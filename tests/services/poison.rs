//! Records that nobody should send.
