//! The `OTEL_*` variables, checked before anything starts: a value that would be passed over is refused by its name.

use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
/// What the specification says.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Spans that wait for the exporter, as the specification says.
const QUEUE_SPANS_DEFAULT: u64 = 2_048;
/// A queue that holds more than this is no bound.
const BATCH_NUMBER_MAX: u64 = 1_000_000;

/// Where spans go, which ones, and what they say of this process.
pub struct Settings {
    pub(super) endpoint: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Duration,
    /// Spans that may wait for the exporter.
    pub(super) queue_spans: usize,
    pub(super) sampler: Sampler,
    pub(super) resource: Resource,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("headers", &names)
            .field("timeout", &self.timeout)
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the environment. `None` when no endpoint is set, or the variables say that nothing is to be exported.
    ///
    /// # Errors
    /// [`Error::Setting`] names the variable and what it may be. The value of one that may hold a secret is not shown.
    pub fn from_env() -> Result<Option<Self>> {
        Self::read(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))
    }

    /// Reads from `variable`; an empty one is not set.
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        // Said of all signals, or of traces alone, which counts more.
        let exporting = |name: &str| {
            let of_traces = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
            let of_all = format!("OTEL_EXPORTER_OTLP_{name}");
            [of_traces, of_all]
                .into_iter()
                .find_map(|name| Some((variable(&name)?, name)))
        };
        if let Some(value) = variable("OTEL_SDK_DISABLED") {
            match value.to_ascii_lowercase().as_str() {
                "true" => return Ok(None),
                "false" => {}
                _ => return refused("OTEL_SDK_DISABLED", value, "true or false"),
            }
        }
        let Some((endpoint, name)) = exporting("ENDPOINT") else {
            return Ok(None);
        };
        match variable("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => return refused("OTEL_TRACES_EXPORTER", other, "otlp or none"),
        }
        let endpoint = place(&endpoint, &name)?;
        if let Some((value, name)) = exporting("PROTOCOL")
            && value != "http/protobuf"
        {
            let form = "http/protobuf, the only protocol of this build (a collector takes it at port 4318)";
            return refused(&name, value, form);
        }
        if let Some((value, name)) = exporting("COMPRESSION")
            && value != "none"
        {
            return refused(&name, value, "none, or left out");
        }
        let timeout = match exporting("TIMEOUT") {
            Some((value, name)) => Duration::from_millis(number(&name, &value, 1, 600_000)?),
            None => TIMEOUT_DEFAULT,
        };
        let headers = match exporting("HEADERS") {
            Some((value, name)) => headers(&value, &name)?,
            None => Vec::new(),
        };
        // The batches read these themselves, and pass over what they cannot read.
        for (name, least) in [
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1),
            ("OTEL_BSP_SCHEDULE_DELAY", 1),
            ("OTEL_BSP_EXPORT_TIMEOUT", 0),
        ] {
            if let Some(value) = variable(name) {
                number(name, &value, least, BATCH_NUMBER_MAX)?;
            }
        }
        const QUEUE_SIZE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
        let queue_spans = match variable(QUEUE_SIZE) {
            Some(value) => number(QUEUE_SIZE, &value, 1, BATCH_NUMBER_MAX)?,
            None => QUEUE_SPANS_DEFAULT,
        };
        Ok(Some(Self {
            endpoint,
            headers,
            timeout,
            queue_spans: usize::try_from(queue_spans).unwrap_or(usize::MAX),
            sampler: sampler(&variable)?,
            resource: resource(&variable)?,
        }))
    }
}

fn refused<T>(name: &str, value: impl std::fmt::Display, form: &str) -> Result<T> {
    Err(Error::setting(name, value, form))
}

/// The URL that spans are posted to. What is said of all signals has the path of this one behind it.
fn place(endpoint: &str, name: &str) -> Result<String> {
    let endpoint = endpoint.trim();
    let form = "an absolute URL like http://127.0.0.1:4318, without user, password or query";
    let url = endpoint.parse::<Uri>().ok().filter(|url| {
        let authority = url.authority().map(|authority| authority.as_str());
        matches!(url.scheme_str(), Some("http" | "https"))
            && authority.is_some_and(|authority| !authority.contains('@'))
            && url.host().is_some_and(|host| !host.is_empty())
            && url.query().is_none()
    });
    let Some(url) = url else {
        // A password could stand in it.
        let shown = if endpoint.contains(['@', '?']) {
            "…"
        } else {
            endpoint
        };
        return refused(name, shown, form);
    };
    if url.scheme_str() == Some("https") && !cfg!(feature = "tls") {
        return refused(name, endpoint, "http://, or a build with the feature `tls`");
    }
    Ok(match name {
        ENDPOINT => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
        _ => endpoint.to_owned(),
    })
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64> {
    let read = value.trim().parse().ok();
    let read = read.filter(|number| (least..=most).contains(number));
    read.map_or_else(
        || {
            refused(
                name,
                value,
                &format!("a whole number from {least} to {most}"),
            )
        },
        Ok,
    )
}

/// `name=value,name=value`, values percent-encoded.
fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, String)>> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items.map(|item| {
        let (name, value) = item.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim(), value.into_owned())).filter(|(name, _)| !name.is_empty())
    })
}

fn headers(text: &str, variable: &str) -> Result<Vec<(String, String)>> {
    // What is wrong may be next to a secret, so none of it is shown.
    let form =
        "name=value,name=value, with names and values of HTTP headers, values percent-encoded";
    pairs(text)
        .map(|pair| {
            let pair = pair.filter(|(name, value)| {
                HeaderName::from_bytes(name.as_bytes()).is_ok()
                    && HeaderValue::from_str(value).is_ok()
            });
            let (name, value) = pair.map_or_else(|| refused(variable, "…", form), Ok)?;
            Ok((name.to_owned(), value))
        })
        .collect()
}

fn sampler(variable: &impl Fn(&str) -> Option<String>) -> Result<Sampler> {
    let ratio = || match variable(SAMPLER_ARG) {
        None => Ok(1.0),
        Some(value) => {
            let ratio: Option<f64> = value.trim().parse().ok();
            let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
            ratio.map_or_else(|| refused(SAMPLER_ARG, value, "a number from 0 to 1"), Ok)
        }
    };
    let name = variable("OTEL_TRACES_SAMPLER");
    let of_root = match name.as_deref().unwrap_or("parentbased_always_on") {
        "always_on" => return Ok(Sampler::AlwaysOn),
        "always_off" => return Ok(Sampler::AlwaysOff),
        "traceidratio" => return Ok(Sampler::TraceIdRatioBased(ratio()?)),
        "parentbased_always_on" => Sampler::AlwaysOn,
        "parentbased_always_off" => Sampler::AlwaysOff,
        "parentbased_traceidratio" => Sampler::TraceIdRatioBased(ratio()?),
        other => {
            let form = "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or parentbased_traceidratio";
            return refused("OTEL_TRACES_SAMPLER", other, form);
        }
    };
    Ok(Sampler::ParentBased(Box::new(of_root)))
}

fn resource(variable: &impl Fn(&str) -> Option<String>) -> Result<Resource> {
    const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let mut attributes = vec![
        KeyValue::new("telemetry.sdk.name", "opentelemetry"),
        KeyValue::new("telemetry.sdk.language", "rust"),
        KeyValue::new("service.name", "millstream"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
    ];
    // The later one of a name counts.
    let text = variable(ATTRIBUTES).unwrap_or_default();
    for pair in pairs(&text) {
        let form = "name=value,name=value, values percent-encoded";
        let (name, value) = pair.map_or_else(|| refused(ATTRIBUTES, &text, form), Ok)?;
        attributes.push(KeyValue::new(name.to_owned(), value));
    }
    if let Some(name) = variable("OTEL_SERVICE_NAME") {
        attributes.push(KeyValue::new("service.name", name));
    }
    Ok(Resource::builder_empty()
        .with_attributes(attributes)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>> {
        Settings::read(|name| {
            let mut given = variables.iter().filter(|(given, _)| *given == name);
            given.next().map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_unless_an_endpoint_is_set_and_nobody_forbids_it() {
        let set = (ENDPOINT, "http://collector:4318");
        for none in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "shop"), (ENDPOINT, " ")],
            &[set, ("OTEL_SDK_DISABLED", "TRUE")],
            &[set, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(read(none).unwrap().is_none(), "{none:?}");
        }
        assert!(
            read(&[set, ("OTEL_SDK_DISABLED", "false")])
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn what_is_said_of_traces_counts_more_than_what_is_said_of_all() {
        let all = read(&[(ENDPOINT, "http://collector:4318/")])
            .unwrap()
            .unwrap();
        assert_eq!(all.endpoint, "http://collector:4318/v1/traces");
        assert_eq!(all.timeout, TIMEOUT_DEFAULT);
        let traces = read(&[
            (ENDPOINT, "http://collector:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other/in"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b%3D, y=2,"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!(traces.endpoint, "http://other/in");
        assert_eq!(traces.timeout, Duration::from_millis(2_500));
        let [x, y] = &traces.headers[..] else {
            panic!("{traces:?}");
        };
        assert_eq!((&*x.0, &*x.1, &*y.0, &*y.1), ("x-key", "a b=", "y", "2"));
        assert!(!format!("{traces:?}").contains("a b="));
    }

    #[test]
    fn the_service_has_the_name_that_it_was_given() {
        let name = |variables: &[(&str, &str)]| {
            let set = [&[(ENDPOINT, "http://c:1")], variables].concat();
            let resource = read(&set).unwrap().unwrap().resource;
            let name = resource.get(&"service.name".into()).unwrap();
            name.to_string()
        };
        assert_eq!(name(&[]), "millstream");
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "a=1,service.name=from%20list");
        assert_eq!(name(&[attributes]), "from list");
        assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "shop")]), "shop");
    }

    #[test]
    fn a_value_that_would_be_passed_over_is_refused_by_its_name() {
        for (name, value) in [
            (ENDPOINT, "collector:4318"),
            (ENDPOINT, "grpc://collector:4317"),
            (ENDPOINT, "http://user:hunter2@collector"),
            (ENDPOINT, "http://collector?key=hunter2"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=hunter2"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=hunter2%0A"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_RESOURCE_ATTRIBUTES", "shop"),
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ] {
            let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
            let mut variables = vec![(name, value), (ENDPOINT, "http://c:1")];
            if name == SAMPLER_ARG {
                variables.push(ratio);
            }
            let error = read(&variables).expect_err(name).to_string();
            assert!(error.contains(name), "{name}: {error}");
            assert!(!error.contains("hunter2"), "{name}: {error}");
        }
    }
}
