//! A schedule as it is stored: what every worker of the queue, of this version or another, must know to fire it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Missed, Overlap, SCHEDULE_HEADER, SLOT_HEADER, Schedule, When};
use crate::error::{Error, Result};
use crate::job::{Meta, Priority, millis};

/// The definition beside the payload, JSON. Fields of newer versions are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) when: When,
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overlap: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    pub(crate) payload_bytes: usize,
    #[serde(default)]
    pub(crate) meta: Meta,
}

impl Definition {
    pub(crate) fn of(schedule: &Schedule) -> Self {
        let Schedule {
            when,
            job,
            missed,
            overlap,
            origin,
            ..
        } = schedule;
        Self {
            when: when.clone(),
            name: job.name.clone(),
            missed: (*missed != Missed::default()).then(|| missed.to_string()),
            overlap: (*overlap != Overlap::default()).then(|| overlap.to_string()),
            expires_ms: job.expires.map(millis),
            deadline_ms: job.deadline.map(millis),
            origin: origin.clone(),
            payload_bytes: job.payload.len(),
            meta: job.meta.clone(),
        }
    }

    pub(crate) fn to_stored(&self) -> String {
        serde_json::to_string(self).expect("plain strings and numbers")
    }

    pub(crate) fn from_stored(schedule: &str, stored: &str) -> Result<Self> {
        serde_json::from_str(stored).map_err(|error| Error::Protocol {
            operation: "cron",
            reason: format!("the definition of schedule {schedule:?} cannot be read: {error}"),
        })
    }

    /// A policy of a newer version counts as the default.
    pub(crate) fn missed(&self) -> Missed {
        let missed = self.missed.as_ref().and_then(|text| text.parse().ok());
        missed.unwrap_or_default()
    }

    /// As [`Definition::missed`].
    pub(crate) fn overlap(&self) -> Overlap {
        let overlap = self.overlap.as_ref().and_then(|text| text.parse().ok());
        overlap.unwrap_or_default()
    }

    /// What is stored beside the payload of the job for `slot`.
    pub(crate) fn meta_for(&self, schedule: &str, slot: i64) -> String {
        let mut meta = self.meta.clone();
        let shown = Timestamp::from_millisecond(slot)
            .map_or_else(|_| slot.to_string(), |slot| slot.to_string());
        meta.headers.insert(SCHEDULE_HEADER.into(), schedule.into());
        meta.headers.insert(SLOT_HEADER.into(), shown);
        if meta.priority != Priority::Normal {
            // Entry ids name jobs of one lane only.
            meta.id = Some(uuid::Uuid::now_v7().simple().to_string().into());
        }
        meta.to_stored().into_owned()
    }
}
