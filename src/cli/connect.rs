//! From the global flags and the config file to a connection.

use millstream::{Millstream, config};

use super::args::Globals;
use super::settings::{self, Plain, RedisSettings};

/// Connects for a command that stores no payload, and needs nothing of the config file but where Redis is.
pub(crate) async fn connect(globals: &Globals) -> anyhow::Result<Millstream> {
    let file = settings::load(globals)?;
    let redis = RedisSettings::merge(globals, file.as_ref()).with_keys_at_hand(file.as_ref());
    connect_to(&redis, config::PAYLOAD_BYTES_MAX_DEFAULT).await
}

/// Connects for a command that stores payloads: without the key of an encrypted queue it must not begin.
pub(crate) async fn connect_to_store(globals: &Globals) -> anyhow::Result<Millstream> {
    let file = settings::load(globals)?;
    let redis = RedisSettings::merge(globals, file.as_ref());
    let redis = redis.with_keys(file.as_ref(), Plain::Refused)?;
    connect_to(&redis, config::PAYLOAD_BYTES_MAX_DEFAULT).await
}

/// Connects to `redis`, for payloads of up to `payload_bytes_max`.
pub(crate) async fn connect_to(
    redis: &RedisSettings,
    payload_bytes_max: usize,
) -> anyhow::Result<Millstream> {
    let mut builder = Millstream::builder(&redis.url)
        .namespace(&redis.namespace)
        .allow_eviction(redis.allow_eviction)
        .payload_bytes_max(payload_bytes_max);
    for (queue, ring) in &redis.rings {
        builder = builder.encrypt(queue, ring.clone());
    }
    Ok(builder.connect().await?)
}

/// How to call redis-cli for the server at `url`; a password stays out of it.
pub(crate) fn redis_cli(url: &str) -> String {
    if let Some(path) = url
        .strip_prefix("unix://")
        .or_else(|| url.strip_prefix("unix:"))
        .or_else(|| url.strip_prefix("redis+unix://"))
    {
        let path = path.split(['?', '#']).next().unwrap_or(path);
        return format!("redis-cli -s {path}");
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
    let tls = if scheme.starts_with("rediss") {
        " --tls"
    } else {
        ""
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (address, "6379"),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let database = rest
        .split_once('/')
        .map(|(_, path)| path.split(['?', '#']).next().unwrap_or(path))
        .filter(|number| number.parse::<u32>().is_ok_and(|number| number > 0));
    let mut line = format!("redis-cli{tls}");
    if host != "127.0.0.1" && host != "localhost" {
        line.push_str(&format!(" -h {host}"));
    }
    if port != "6379" {
        line.push_str(&format!(" -p {port}"));
    }
    if let Some(number) = database {
        line.push_str(&format!(" -n {number}"));
    }
    if !login.is_empty() {
        line.push_str(" --askpass");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_cli_is_called_for_the_same_server_and_without_its_password() {
        for (url, line) in [
            ("redis://127.0.0.1:6379", "redis-cli"),
            ("redis://localhost:7000/2", "redis-cli -p 7000 -n 2"),
            (
                "rediss://me:pa:ss@cache.example:6380",
                "redis-cli --tls -h cache.example -p 6380 --askpass",
            ),
            ("redis://[::1]:6379", "redis-cli -h ::1"),
            ("unix:/run/redis.sock", "redis-cli -s /run/redis.sock"),
        ] {
            assert_eq!(redis_cli(url), line);
        }
    }
}
