//! What Redis's errors mean: a table from the words of an error to the next step.

use fred::error::{Error as FredError, ErrorKind};

use crate::error::Error;

/// What a failed command means for the next step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The server does not know the script: send its text.
    NoScript,
    /// Not sent: there is no connection at the moment, and one is being made.
    Away,
    /// Not carried out, and worth another try soon.
    Busy,
    /// Not carried out, and not before somebody frees memory or disk, brings a replica back, or lets us in again.
    Full,
    /// The stream or the consumer group is not there.
    NoGroup,
    /// Perhaps carried out.
    Unknown,
    /// Not carried out, and another try would end the same.
    Broken,
}

impl Fault {
    /// Its word among the metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NoScript => "no_script",
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::NoGroup => "no_group",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        }
    }
}

/// For a command that was not sent, because there is no connection. The client library would keep it and send it whenever
/// there is one: long after its caller was told that it failed.
pub(super) fn away() -> FredError {
    FredError::new(ErrorKind::Canceled, AWAY)
}

const AWAY: &str = "no connection";

/// Reads Redis's error text. Old servers wrap script errors and proxies add prefixes, so it is searched, not matched at its start.
pub(super) fn fault_of(error: &FredError) -> Fault {
    const TABLE: &[(&str, Fault)] = &[
        // First, because it quotes a key, and a key may be called anything.
        ("WRONGTYPE", Fault::Broken),
        ("NOSCRIPT", Fault::NoScript),
        ("NOGROUP", Fault::NoGroup),
        ("UNBLOCKED", Fault::NoGroup),
        ("LOADING", Fault::Busy),
        ("BUSY ", Fault::Busy),
        ("READONLY", Fault::Busy),
        ("MASTERDOWN", Fault::Busy),
        ("CLUSTERDOWN", Fault::Busy),
        ("TRYAGAIN", Fault::Busy),
        ("MOVED", Fault::Busy),
        ("max number of clients", Fault::Busy),
        ("OOM", Fault::Full),
        ("MISCONF", Fault::Full),
        ("NOREPLICAS", Fault::Full),
        // A password or a right that is being changed: what a worker has to say stays true until it is let in again.
        ("NOAUTH", Fault::Full),
        ("NOPERM", Fault::Full),
        ("WRONGPASS", Fault::Full),
    ];
    let text = error.details();
    if text == AWAY {
        return Fault::Away;
    }
    if let Some((_, fault)) = TABLE.iter().find(|(word, _)| text.contains(word)) {
        return *fault;
    }
    match error.kind() {
        ErrorKind::IO
        | ErrorKind::Timeout
        | ErrorKind::Canceled
        | ErrorKind::Routing
        | ErrorKind::Cluster
        | ErrorKind::Protocol
        | ErrorKind::Parse => Fault::Unknown,
        ErrorKind::Backpressure => Fault::Busy,
        // The client has words of its own for a connection that failed: "Too many failed write attempts."
        ErrorKind::Unknown if !is_from_server(text) => Fault::Unknown,
        _ => Fault::Broken,
    }
}

/// Whether the server says that it is not, or not now, the one to ask, or does not know us: what makes the client library connect anew
/// on its own connections.
pub(super) fn is_demoted(error: &FredError) -> bool {
    let text = error.details();
    let words = ["READONLY", "MASTERDOWN", "LOADING", "NOAUTH"];
    words.iter().any(|word| text.contains(word)) && !text.contains("WRONGTYPE")
}

/// The server's errors begin with a word in capitals: `ERR`, `WRONGTYPE`.
fn is_from_server(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    first.len() >= 3
        && first
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Whether a call failed because the stream or its consumer group is not there.
pub(crate) fn is_no_group(error: &Error) -> bool {
    matches!(error, Error::Protocol { reason, .. } if reason.contains("NOGROUP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_errors_are_told_apart_wherever_the_word_stands() {
        let fault = |text: &str| fault_of(&FredError::new(ErrorKind::Unknown, text.to_owned()));
        for (text, expected) in [
            ("NOSCRIPT No matching script.", Fault::NoScript),
            (
                "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write",
                Fault::Busy,
            ),
            ("UNBLOCKED the stream key no longer exists", Fault::NoGroup),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Fault::Full,
            ),
            ("WRONGTYPE Operation against a key", Fault::Broken),
            ("ERR max number of clients reached", Fault::Busy),
            ("NOPERM this user has no permissions", Fault::Full),
            ("ERR unknown command", Fault::Broken),
            ("Too many failed write attempts.", Fault::Unknown),
        ] {
            assert_eq!(fault(text), expected, "{text}");
        }
        assert_eq!(
            fault_of(&FredError::new(ErrorKind::Timeout, "")),
            Fault::Unknown
        );
        assert_eq!(fault_of(&away()), Fault::Away);
    }
}
