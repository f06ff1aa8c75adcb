//! So many jobs in so much time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config;
use crate::error::Error;

/// So many jobs, or points, a second, minute or hour: `50/s`, `600/m`, `1000/h`. 1 to 1,000,000 of them.
///
/// It is the rate at which a bucket fills up; how much it holds, and so how many jobs may start at once after a quiet time, is the
/// burst that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Per,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
    Hour,
}

impl Rate {
    /// So many a second.
    pub const fn per_second(count: u32) -> Self {
        let per = Per::Second;
        Self { count, per }
    }

    /// So many a minute.
    pub const fn per_minute(count: u32) -> Self {
        let per = Per::Minute;
        Self { count, per }
    }

    /// So many an hour.
    pub const fn per_hour(count: u32) -> Self {
        let per = Per::Hour;
        Self { count, per }
    }

    /// How many in [`Rate::per`].
    pub const fn count(self) -> u32 {
        self.count
    }

    /// In how much time.
    pub const fn per(self) -> Duration {
        Duration::from_secs(match self.per {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 3600,
        })
    }

    /// What the bucket holds unless it is said: what comes in a second, at least 1.
    pub fn burst_default(self) -> u32 {
        (u64::from(self.count) / self.per().as_secs()).max(1) as u32
    }

    pub(crate) fn check(self, setting: &str) -> Result<(), Error> {
        if (1..=config::RATE_MAX).contains(&self.count) {
            return Ok(());
        }
        let range = format!("1 to {} a second, minute or hour", config::RATE_MAX);
        Err(Error::setting(setting, self, range))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            Per::Second => 's',
            Per::Minute => 'm',
            Per::Hour => 'h',
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl FromStr for Rate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || {
            let form =
                "write a whole number per second, minute or hour, like 50/s, 600/m or 1000/h";
            Error::setting("rate", text, form)
        };
        let (count, unit) = text.split_once('/').ok_or_else(refuse)?;
        let count = count.trim().parse().map_err(|_| refuse())?;
        let rate = match unit.trim() {
            "s" => Self::per_second(count),
            "m" => Self::per_minute(count),
            "h" => Self::per_hour(count),
            _ => return Err(refuse()),
        };
        rate.check("rate")?;
        Ok(rate)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written() {
        for text in ["50/s", "600/m", "1000/h", "1000000/s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for bad in ["", "50", "0/s", "-1/s", "50/d", "/s", "1.5/s", "1000001/s"] {
            let said = bad.parse::<Rate>().expect_err(bad).to_string();
            assert!(said.contains(bad), "{said}");
        }
    }

    #[test]
    fn a_bucket_holds_what_comes_in_a_second_and_at_least_one() {
        let bursts = [("50/s", 50), ("600/m", 10), ("1/m", 1), ("30/h", 1)];
        for (text, burst) in bursts {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.burst_default(), burst, "{text}");
        }
    }
}
