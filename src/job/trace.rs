//! The trace that a job belongs to, carried from whoever caused it to whoever does it (W3C Trace Context).

/// Longest `tracestate` that is carried, bytes: what the recommendation asks at least.
pub(crate) const TRACESTATE_BYTES_MAX: usize = 512;

/// A place in a trace, as it travels in headers and with jobs. The `parent` is well-formed.
// Only what takes HTTP requests in, or knows spans, has one.
#[cfg(any(feature = "gateway", feature = "otel-spans"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) parent: String,
    pub(crate) state: Option<String>,
}

#[cfg(feature = "gateway")]
impl TraceContext {
    /// Nothing of a `traceparent` that is not well-formed; a `tracestate` that cannot be carried is left behind.
    pub(crate) fn new(parent: impl Into<String>, state: Option<String>) -> Option<Self> {
        let parent = parent.into();
        trace_id(&parent)?;
        let state = state.filter(|state| is_tracestate(state));
        Some(Self { parent, state })
    }
}

/// The trace id of a well-formed `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zeros. A later version may say
/// more behind these four.
pub(crate) fn trace_id(traceparent: &str) -> Option<&str> {
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, length: usize| hex(text, length) && text.bytes().any(|b| b != b'0');
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let more = parts.next().is_some();
    let whole = hex(version, 2)
        && version != "ff"
        && !(version == "00" && more)
        && is_id(trace, 32)
        && is_id(parent, 16)
        && hex(flags, 2)
        && traceparent.len() <= TRACESTATE_BYTES_MAX
        && traceparent.bytes().all(|byte| byte.is_ascii_graphic());
    whole.then_some(trace)
}

/// Whether a `tracestate` can be carried: its content is for its vendors.
pub(crate) fn is_tracestate(text: &str) -> bool {
    (1..=TRACESTATE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_says() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        for good in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-what-comes",
        ] {
            assert_eq!(trace_id(good), Some(trace), "{good}");
        }
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-a b",
            "00-0af7651916cd43dd8448eb211c80319ü-b7ad6b7169203331-01",
        ] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
        assert!(is_tracestate("a=1,b=2") && !is_tracestate("") && !is_tracestate("a\n"));
        assert!(!is_tracestate(&"a".repeat(513)));
    }
}
