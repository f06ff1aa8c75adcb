//! The gateway and the handlers that the binary ships, over real sockets and against real Redis servers.

#![cfg(all(feature = "webhooks", feature = "private-redis"))]

mod api;
#[cfg(feature = "cli")]
mod canary;
mod chain;
mod circuit;
mod dedupe;
mod hostile;
mod intake;
mod outage;
mod readiness;
mod refusals;
mod sdk;
mod shutdown;
#[cfg(feature = "cli")]
mod siege;
mod support;
#[cfg(feature = "tls")]
mod tls;
#[cfg(all(feature = "otel", feature = "cli"))]
mod traces;
