//! The flow hash.
