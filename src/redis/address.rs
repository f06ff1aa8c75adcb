//! Where Redis is, and how every client of this crate connects to it.

use std::borrow::Cow;
use std::time::Duration;

use fred::error::Error as FredError;
use fred::types::Builder;
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectError, ReconnectPolicy, TcpConfig,
};
use socket2::TcpKeepalive;

use crate::config;
use crate::error::{Error, Result};

/// A connection that has been silent for so long is asked whether it lives, and so often.
pub(super) const KEEPALIVE_TIME: Duration = Duration::from_secs(5);
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long what was sent may go unacknowledged before the connection counts as lost.
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where Redis is and how to connect, checked before anything is connected.
#[derive(Clone)]
pub(crate) struct Address {
    config: Config,
    /// For messages: no credentials.
    pub(super) shown: String,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.shown)
    }
}

impl Address {
    /// Reads a URL: `redis://`, `rediss://`, `unix:`, `redis-cluster://`, `redis-sentinel://`, `valkey://`.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let shown = without_credentials(url);
        let refuse = |reason: String| Error::setting("redis-url", &shown, reason);
        let url = match url.strip_prefix("unix:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                if !path.starts_with('/') {
                    return Err(refuse("write unix:/path/to/redis.sock".into()));
                }
                format!("redis+unix://{path}")
            }
            None => url.to_owned(),
        };
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        if !scheme.starts_with("redis") && !scheme.starts_with("valkey") {
            return Err(refuse(
                "write redis://host:port, rediss://host:port or unix:/path/to/redis.sock".into(),
            ));
        }
        if cfg!(not(feature = "tls"))
            && (scheme.starts_with("rediss") || scheme.starts_with("valkeys"))
        {
            return Err(refuse(
                "this build has no TLS: enable the feature `tls`".into(),
            ));
        }
        let mut config =
            Config::from_url(&url).map_err(|error| refuse(error.details().to_owned()))?;
        config.fail_fast = true;
        Ok(Self { config, shown })
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// A client's settings. `command_timeout` zero means none, for readers that block.
    pub(super) fn builder(&self, command_timeout: Duration) -> Builder {
        let mut builder = Builder::from_config(self.config.clone());
        builder.set_performance_config(PerformanceConfig {
            default_command_timeout: command_timeout,
            broadcast_channel_capacity: 1024,
            ..PerformanceConfig::default()
        });
        builder.set_connection_config(ConnectionConfig {
            connection_timeout: config::CONNECT_TIMEOUT_DEFAULT,
            internal_command_timeout: config::CONNECT_TIMEOUT_DEFAULT,
            max_command_attempts: 1,
            reconnect_on_auth_error: true,
            tcp: TcpConfig {
                nodelay: Some(true),
                keepalive: Some(
                    TcpKeepalive::new()
                        .with_time(KEEPALIVE_TIME)
                        .with_interval(KEEPALIVE_INTERVAL),
                ),
                user_timeout: Some(USER_TIMEOUT),
                ..TcpConfig::default()
            },
            reconnect_errors: vec![
                ReconnectError::ReadOnly,
                ReconnectError::MasterDown,
                ReconnectError::Loading,
                ReconnectError::ClusterDown,
            ],
            ..ConnectionConfig::default()
        });
        // Seven tries in the first ten seconds, and never more than 2.5 s between a server's return and the next.
        // Full jitter is not to be had; as much as the first wait keeps a hundred workers apart.
        let mut policy = ReconnectPolicy::new_exponential(0, 50, 2_500, 3);
        policy.set_jitter(50);
        builder.set_policy(policy);
        builder
    }

    pub(super) fn unreachable(&self, error: &FredError) -> Error {
        Error::Unreachable {
            server: self.shown.clone(),
            reason: in_words(error.details()).into_owned(),
        }
    }
}

/// The client passes the errors of the system and of TLS on as Rust writes them down, `Os { …, message: "Connection refused" }`: the
/// words in it.
fn in_words(details: &str) -> Cow<'_, str> {
    if let Some((_, why)) = details.split_once("InvalidCertificate(") {
        let end = why.find(|c: char| !c.is_alphanumeric());
        let why = &why[..end.unwrap_or(why.len())];
        return format!(
            "its certificate is not accepted ({why}; a private authority's is named with SSL_CERT_FILE=/path/to/ca.pem)"
        )
        .into();
    }
    let quoted = ["message: \"", "error: \""]
        .iter()
        .find_map(|mark| details.split_once(mark));
    quoted
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or(details)
        .into()
}

/// The URL without user, password and query.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // An unescaped `/`, `?` or `#` in a password ends the authority too early: then nothing is certain but the scheme.
    if tail.contains('@') {
        return format!("{scheme}://(hidden)");
    }
    let path = tail.split(['?', '#']).next().unwrap_or_default();
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if scheme.is_empty() {
        format!("{host}{path}")
    } else {
        format!("{scheme}://{host}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_errors_are_told_in_words() {
        for (details, words) in [
            (
                r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#,
                "Connection refused",
            ),
            (
                r#"Custom { kind: Uncategorized, error: "failed to lookup" }"#,
                "failed to lookup",
            ),
            (
                "NOAUTH Authentication required.",
                "NOAUTH Authentication required.",
            ),
            (
                "Custom { kind: InvalidData, error: InvalidCertificate(NotValidForNameContext { expected: IpAddress(V4(..)) }) }",
                "its certificate is not accepted (NotValidForNameContext; a private authority's is named with \
                 SSL_CERT_FILE=/path/to/ca.pem)",
            ),
        ] {
            assert_eq!(in_words(details), words);
        }
    }

    #[test]
    fn credentials_never_show() {
        for (url, shown) in [
            (
                "redis://user:hunter2@db:6379/1?password=hunter2",
                "redis://db:6379/1",
            ),
            ("redis://:hunt@er2@db", "redis://db"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
            ("hunter2@db", "db"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
        let error = Address::parse("http://user:hunter2@db")
            .unwrap_err()
            .to_string();
        assert!(
            !error.contains("hunter2") && error.contains("redis://host:port"),
            "{error}"
        );
    }

    #[test]
    fn urls_of_the_contract_are_read() {
        for url in [
            "redis://db",
            "unix:/run/redis.sock",
            "unix:///run/redis.sock",
            "redis-cluster://a:1",
            "redis-sentinel://a:1/0?sentinelServiceName=m",
        ] {
            Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        }
        for url in ["", "6379", "unix:redis.sock", "postgres://db"] {
            assert!(Address::parse(url).is_err(), "{url:?} was accepted");
        }
    }
}
