//! A redis-server of one's own.
