//! Walks that somebody chose.
