//! The score of a job in a zset: a moment in unix ms, of which due times have eighths.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::redis::reply::{Value, text_of};

#[derive(Clone, Copy, Debug)]
pub(super) struct Score(f64);

impl Score {
    pub(super) const FIRST: Self = Self(0.0);
    pub(super) const LAST: Self = Self(f64::INFINITY);

    pub(super) fn of_ms(ms: u64) -> Self {
        Self(ms as f64)
    }

    pub(super) fn of(value: &Value) -> Option<Self> {
        text_of(value)?.parse().ok()
    }

    /// Unix ms, rounded up: a job is due no sooner.
    pub(super) fn ms(self) -> u64 {
        self.0.ceil() as u64
    }
}

/// As Redis reads and writes it, with all its digits.
impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Score {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.parse::<f64>() {
            Ok(score) if !score.is_nan() => Ok(Self(score)),
            _ => Err(()),
        }
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}
