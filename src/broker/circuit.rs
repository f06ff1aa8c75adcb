//! What a worker lets the others know of its circuit.

use std::time::Duration;

use super::{Broker, cut};
use crate::error::Result;
use crate::job::millis;
use crate::redis::Patience;
use crate::redis::script::{self, Call};

/// What became of a circuit, for the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitEvent {
    Opened,
    Closed,
}

impl CircuitEvent {
    fn name(self) -> &'static str {
        match self {
            Self::Opened => "circuit_opened",
            Self::Closed => "circuit_closed",
        }
    }
}

impl Broker {
    /// Notes that `worker` claims nothing because `target` is down, for as long as `hold` says; zero takes it back.
    pub async fn note_circuit(
        &self,
        worker: &str,
        target: &str,
        hold: Duration,
        event: Option<CircuitEvent>,
        detail: &str,
        patience: Patience,
    ) -> Result<()> {
        let call = Call::new(&script::CIRCUIT)
            .key("circuits", &self.keys.circuits)
            .key("events", &self.keys.events)
            .text("circuit", &format!("{worker} {target}"))
            .number("hold_ms", millis(hold).cast_signed())
            .text("event", event.map_or("", CircuitEvent::name))
            .text("detail", cut(detail));
        self.redis.call(call, patience).await.map(drop)
    }
}
