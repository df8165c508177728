//! Weighted Maglev hashing.
