//! Which of two waiting jobs runs first.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which of two waiting jobs runs first; see [`crate::NewJob::priority`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Priority {
    /// Before all others.
    High,
    /// As it comes.
    #[default]
    Normal,
    /// When nothing else waits; but one of ten jobs that a worker takes is a low one, if there is any.
    Low,
}

impl Priority {
    /// The word in flags, JSON and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Priority {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::High, Self::Normal, Self::Low];
        let found = all.into_iter().find(|priority| priority.name() == text);
        found.ok_or_else(|| Error::setting("priority", text.escape_debug(), "high, normal or low"))
    }
}
