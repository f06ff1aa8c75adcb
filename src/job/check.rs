//! What a job may say: everything that can be known before Redis is asked.

use super::new::NewJob;
use super::unique::OnConflict;
use super::{millis, trace};
use crate::config;
use crate::error::{Error, Result};

impl NewJob {
    /// Checks everything that can be known before Redis is asked; [`crate::Queue::enqueue`] does so by itself.
    ///
    /// # Errors
    /// [`Error::InvalidJob`] names the option, its value and its range; [`Error::PayloadTooLarge`].
    pub fn check(&self, payload_bytes_max: usize) -> Result<()> {
        let invalid = |field, value: String, reason: String| {
            Err(Error::InvalidJob {
                field,
                value,
                reason,
            })
        };
        check_name("name", &self.name, config::JOB_NAME_BYTES_MAX)?;
        if self.payload.len() > payload_bytes_max {
            return Err(Error::PayloadTooLarge {
                name: self.name.clone(),
                bytes: self.payload.len(),
                limit: payload_bytes_max,
            });
        }
        if let Some(unique) = &self.unique {
            check_name("unique", &unique.key, config::JOB_NAME_BYTES_MAX)?;
        }
        let needs = match self.on_conflict {
            OnConflict::Replace if self.unique.is_none() => Some("a unique key"),
            OnConflict::Throttle if self.window().is_none() => Some("a unique key held for a time"),
            _ => None,
        };
        if let Some(needs) = needs {
            let (field, value) = ("on_conflict", self.on_conflict.name().to_owned());
            return invalid(field, value, format!("it needs {needs}"));
        }
        if let Some(group) = &self.meta.group {
            check_name("group", group, config::GROUP_BYTES_MAX)?;
        }
        if let Some(cost) = self.meta.cost
            && !(1..=config::COST_MAX).contains(&cost)
        {
            let reason = format!("1 to {}", config::COST_MAX);
            return invalid("cost", cost.to_string(), reason);
        }
        let shown = |text: &str| text.chars().take(64).collect::<String>();
        if let Some(traceparent) = &self.meta.traceparent
            && trace::trace_id(traceparent).is_none()
        {
            let reason = "write it as W3C Trace Context does: 00-<32 hex>-<16 hex>-<2 hex>";
            return invalid("traceparent", shown(traceparent), reason.to_owned());
        }
        if let Some(tracestate) = &self.meta.tracestate
            && !trace::is_tracestate(tracestate)
        {
            let reason = format!("1 to {} bytes of ASCII", trace::TRACESTATE_BYTES_MAX);
            return invalid("tracestate", shown(tracestate), reason);
        }
        let horizon = config::HORIZON_MAX;
        let unique_window = self.window();
        for (field, value) in [
            ("delay", self.delay),
            ("unique_for", unique_window),
            ("expires", self.expires),
            ("deadline", self.deadline),
        ] {
            if let Some(value) = value
                && value > horizon
            {
                let reason = format!("at most {}", humantime::format_duration(horizon));
                return invalid(field, humantime::format_duration(value).to_string(), reason);
            }
        }
        for (field, value) in [
            ("unique_for", unique_window),
            ("expires", self.expires),
            ("deadline", self.deadline),
        ] {
            if value.is_some_and(|value| millis(value) == 0) {
                return invalid(field, "0".into(), "at least 1ms".into());
            }
        }
        if let Some(attempts) = self.meta.max_attempts
            && !(1..=config::MAX_ATTEMPTS_MAX).contains(&attempts)
        {
            return invalid(
                "max_attempts",
                attempts.to_string(),
                format!("1 to {}", config::MAX_ATTEMPTS_MAX),
            );
        }
        if let Some(ttl) = self.meta.result_ms
            && !(1..=millis(config::HORIZON_MAX)).contains(&ttl)
        {
            let reason = format!("1ms to {}", humantime::format_duration(config::HORIZON_MAX));
            return invalid("keep_result", format!("{ttl}ms"), reason);
        }
        if let Some(timeout) = self.meta.timeout_ms
            && !(1..=millis(config::TIMEOUT_MAX)).contains(&timeout)
        {
            let reason = format!("1ms to {}", humantime::format_duration(config::TIMEOUT_MAX));
            return invalid("timeout", format!("{timeout}ms"), reason);
        }
        Ok(())
    }
}

pub(crate) fn check_name(field: &'static str, name: &str, max: usize) -> Result<()> {
    if name.is_empty() || name.len() > max || name.chars().any(char::is_control) {
        let reason = format!("1 to {max} bytes, no control characters");
        return Err(Error::InvalidJob {
            field,
            value: name.chars().take(64).collect::<String>(),
            reason,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_job_out_of_range_is_refused_with_its_field() {
        let year = Duration::from_secs(400 * 24 * 3600);
        let job = || NewJob::raw("a", "x");
        for (field, job) in [
            ("name", NewJob::raw("", "x")),
            ("name", NewJob::raw("a\nb", "x")),
            ("unique", job().unique("")),
            ("group", job().group("")),
            ("group", job().group("a\u{1f}b")),
            ("group", job().group("x".repeat(257))),
            ("delay", job().delay(year * 100)),
            ("unique_for", job().unique_for("k", Duration::ZERO)),
            ("expires", job().expires(Duration::ZERO)),
            ("deadline", job().deadline(Duration::ZERO)),
            ("deadline", job().deadline(year * 100)),
            ("on_conflict", job().on_conflict(OnConflict::Replace)),
            (
                "on_conflict",
                job().unique("k").on_conflict(OnConflict::Throttle),
            ),
            ("max_attempts", job().max_attempts(0)),
            ("timeout", job().timeout(Duration::ZERO)),
            ("traceparent", job().traceparent("00-0-0-0")),
            ("tracestate", job().tracestate("a\n")),
            ("keep_result", job().keep_result(Duration::ZERO)),
        ] {
            match job.check(10) {
                Err(Error::InvalidJob { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{field}: {other:?}"),
            }
        }
        assert!(matches!(
            NewJob::raw("a", vec![0; 11]).check(10),
            Err(Error::PayloadTooLarge {
                bytes: 11,
                limit: 10,
                ..
            })
        ));
        assert!(job().delay(year).check(10).is_ok());
    }
}
