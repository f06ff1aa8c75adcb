//! What goes wrong, with which request, and how often.

use std::time::Duration;

use tokio::sync::watch;

/// What is done to a request, or to its answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection is cut before the server sees the request.
    DropBefore,
    /// The server carries it out; then the connection is cut instead of the answer.
    DropAfter,
    /// The same, and the client is sent a reset (RST) instead of an orderly end.
    Reset,
    /// The request, and what follows it on this connection, comes to the server later.
    Late(Duration),
    /// The answer, and what follows it on this connection, comes later.
    Delay(Duration),
    /// The answer comes as on a slow line, at so many bytes a second, and what follows it later.
    Slow(usize),
    /// Half of the answer comes, then the connection is cut.
    Truncate,
    /// From this request on the connection takes everything and passes nothing on to the server.
    SwallowRequests,
    /// From this answer on the connection passes nothing on to the client.
    SwallowReplies,
    /// From this request on nothing is read from the client: what it writes backs up.
    Stuck,
    /// From this request on the connection takes a few KiB a second, and passes nothing on: to the client's system it is
    /// alive.
    Trickle,
    /// The server does not see the request; the client is told this error.
    Refuse(&'static str),
    /// Only for `message`, what a subscription hears: it is not passed on.
    Eat,
}

/// A fault in wait for a request.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    on: &'static str,
    fault: Fault,
    /// Requests that pass unharmed before.
    spared: u32,
    once: bool,
}

impl Rule {
    /// The next request that goes by this name: a command (`EVALSHA`), a script (`enqueue`), `read`, `own`, `message`,
    /// or `*` for any.
    pub(crate) fn once(on: &'static str, fault: Fault) -> Self {
        Self {
            on,
            fault,
            spared: 0,
            once: true,
        }
    }

    /// Every request that goes by this name.
    pub(crate) fn always(on: &'static str, fault: Fault) -> Self {
        Self {
            once: false,
            ..Self::once(on, fault)
        }
    }

    /// Not the first such request but the `n`th.
    pub(crate) fn nth(self, n: u32) -> Self {
        Self {
            spared: n - 1,
            ..self
        }
    }
}

/// A rule at work.
pub(super) struct Armed {
    rule: Rule,
    hits: watch::Sender<u32>,
}

impl Armed {
    pub(super) fn new(rule: Rule) -> (Self, Hits) {
        let (hits, told) = watch::channel(0);
        (Self { rule, hits }, Hits(told))
    }

    /// The fault, if it is this request's turn.
    pub(super) fn fault_for(&mut self, names: &[String]) -> Option<Fault> {
        if self.rule.on != "*" && names.iter().all(|name| name != self.rule.on) {
            return None;
        }
        if self.rule.spared > 0 {
            self.rule.spared -= 1;
            return None;
        }
        if self.rule.once && *self.hits.borrow() > 0 {
            return None;
        }
        self.hits.send_modify(|hits| *hits += 1);
        Some(self.rule.fault.clone())
    }
}

/// How often a rule has struck.
pub(crate) struct Hits(watch::Receiver<u32>);

impl Hits {
    pub(crate) fn count(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits for the first.
    pub(crate) async fn first(&mut self) {
        let struck = self.0.wait_for(|hits| *hits > 0).await;
        struck.expect("the rule was removed before it struck");
    }
}
