//! The gateway: where it listens, whose webhooks it takes, and who may put jobs in.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use millstream::QueueName;
use millstream::gateway::api::tokens::TokenSettings;
use millstream::gateway::field::Field;
use millstream::gateway::rate::RateLimit;
use millstream::gateway::signature::{HmacSettings, Scheme};
use millstream::gateway::source::{SchemeSettings, SourceSettings};
use millstream::gateway::tls::TlsSettings;
use millstream::gateway::{GatewaySettings, LISTEN_DEFAULT};

use super::ConfigFile;
use super::file::{GatewaySection, SourceSection};
use super::secret::{self, Plain};
use crate::cli::failure::usage;
use crate::cli::parse;

/// Flags of the gateway. They win over the config file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Gateway options")]
pub(crate) struct GatewayFlags {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "MILLSTREAM_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Largest request body: 64KiB, 1MiB; at most 64MiB [default: 1MiB]
    #[arg(long, value_parser = parse::max_body, value_name = "SIZE")]
    pub(crate) max_body: Option<usize>,
    /// After SIGTERM: how long to go on taking webhooks while /health/ready says 503 already, so that a load balancer
    /// looks elsewhere first [default: 0s]
    #[arg(long, env = "MILLSTREAM_DRAIN", value_parser = parse::shutdown_timeout, value_name = "DURATION")]
    pub(crate) drain: Option<Duration>,
    /// Take jobs at POST /queues/QUEUE/jobs from who has this bearer token, for all queues: env:NAME or file:/path. Several: any of
    /// them passes. Tokens for some queues are written into a config file, as [tokens.NAME] [default: nobody may]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Vec<String>,
    /// Speak TLS with the certificate in this PEM file, those between it and the root behind it; read again on SIGHUP
    #[arg(
        long,
        env = "MILLSTREAM_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(
        long,
        env = "MILLSTREAM_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub(crate) tls_key: Option<PathBuf>,
}

/// One source without a config file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Source options (one source without a config file)")]
pub(crate) struct SourceFlags {
    /// Take webhooks at POST /webhooks/NAME; their jobs go to --queue
    #[arg(long, value_name = "NAME", requires_all = ["scheme", "secret", "queue"])]
    pub(crate) source: Option<String>,
    /// How they are signed: shopify, github, stripe, slack or standard; hmac needs a config file
    #[arg(long, value_name = "SCHEME", requires = "source")]
    pub(crate) scheme: Option<String>,
    /// The signing secret: env:NAME or file:/path. Several: any of them passes, for rotation
    #[arg(long, value_name = "SECRET", requires = "source")]
    pub(crate) secret: Vec<String>,
    /// How long a delivery id is remembered; a second delivery within it makes no job [default: 72h]
    #[arg(long, value_parser = parse::retention, value_name = "DURATION", requires = "source")]
    pub(crate) dedupe: Option<Duration>,
}

/// A gateway that answers health routes alone.
pub(crate) fn health_only(listen: &str) -> anyhow::Result<GatewaySettings> {
    Ok(GatewaySettings::new(address("--listen", listen)?))
}

/// The gateway by flags and file.
pub(crate) fn merge(
    flags: &GatewayFlags,
    source: &SourceFlags,
    queue: Option<&QueueName>,
    file: Option<&ConfigFile>,
    plain: Plain,
) -> anyhow::Result<GatewaySettings> {
    let section = file.map(|file| &file.sections.gateway);
    let listen = match (
        &flags.listen,
        file.zip(section.and_then(|s| s.listen.as_deref())),
    ) {
        (Some(listen), _) => address("--listen", listen)?,
        (None, Some((file, listen))) => address(&file.place.at(&["gateway", "listen"]), listen)?,
        (None, None) => LISTEN_DEFAULT,
    };
    let mut settings = GatewaySettings::new(listen);
    if let Some(bytes) = flags.max_body.or_else(|| section.and_then(|s| s.max_body)) {
        settings.max_body = bytes;
    }
    if let Some(section) = section {
        limits(&mut settings, section);
    }
    let of = |flag: &Option<PathBuf>, key: Option<&Option<PathBuf>>| {
        flag.clone().or_else(|| key.and_then(Clone::clone))
    };
    let cert = of(&flags.tls_cert, section.map(|s| &s.tls_cert));
    let key = of(&flags.tls_key, section.map(|s| &s.tls_key));
    settings.tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsSettings { cert, key }),
        (None, None) => None,
        _ => {
            return Err(usage(
                "gateway.tls_cert and gateway.tls_key go together; give both or neither",
            ));
        }
    };
    if let Some(drain) = flags.drain {
        settings.drain_delay = drain;
    }
    let mut sources = BTreeMap::new();
    if let Some(file) = file {
        for (name, section) in &file.sections.sources {
            sources.insert(name.clone(), from_section(file, name, section, plain)?);
        }
    }
    // A source of the flags replaces one of the same name in the file.
    if let (Some(name), Some(queue)) = (&source.source, queue) {
        sources.insert(name.clone(), from_flags(source, queue, plain)?);
    }
    settings.sources = sources.into_iter().collect();
    settings.tokens = tokens(flags, file, plain)?;
    match file {
        Some(file) => settings
            .validate()
            .with_context(|| file.place.path.display().to_string())?,
        None => settings.validate()?,
    }
    Ok(settings)
}

/// What `[gateway]` says of a client's time and number; [`GatewaySettings::validate`] knows the bounds.
fn limits(settings: &mut GatewaySettings, section: &GatewaySection) {
    let set = |to: &mut Duration, from: Option<Duration>| *to = from.unwrap_or(*to);
    set(&mut settings.header_timeout, section.header_timeout);
    set(&mut settings.body_timeout, section.body_timeout);
    set(&mut settings.write_timeout, section.write_timeout);
    set(&mut settings.drain_delay, section.drain);
    if let Some(rate) = section.min_body_rate {
        settings.body_rate_min = u64::try_from(rate).unwrap_or(u64::MAX);
    }
    if let Some(connections) = section.max_connections {
        settings.connections_max = connections;
    }
}

/// Who may put jobs in.
fn tokens(
    flags: &GatewayFlags,
    file: Option<&ConfigFile>,
    plain: Plain,
) -> anyhow::Result<Vec<(String, TokenSettings)>> {
    let resolved = |place: &str, references: &[String]| -> anyhow::Result<Vec<String>> {
        let references = references.iter().enumerate();
        let resolve = |(at, reference): (usize, &String)| {
            secret::resolve(reference, plain)
                .map_err(|reason| usage(format!("{place}[{at}]: {reason}")))
        };
        references.map(resolve).collect()
    };
    let mut tokens = Vec::new();
    if let Some(file) = file {
        for (name, section) in &file.sections.tokens {
            let place = file.place.at(&["tokens", name, "secrets"]);
            let secrets = resolved(&place, &section.secrets.0)?;
            let queues = section.queues.iter().map(String::as_str);
            tokens.push((name.clone(), TokenSettings::new(secrets, queues)));
        }
    }
    if !flags.token.is_empty() {
        let secrets = resolved("--token", &flags.token)?;
        tokens.push(("--token".to_owned(), TokenSettings::new(secrets, ["*"])));
    }
    Ok(tokens)
}

fn address(setting: &str, text: &str) -> anyhow::Result<SocketAddr> {
    let refuse = |reason: &str| {
        usage(format!(
            "{setting} = {text:?}: {reason}; write an address and a port, like 127.0.0.1:8080 or [::]:8080"
        ))
    };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    // A name like `localhost:8080`, looked up once.
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| refuse(&error.to_string()))?;
    found.next().ok_or_else(|| refuse("no such address"))
}

fn from_flags(
    flags: &SourceFlags,
    queue: &QueueName,
    plain: Plain,
) -> anyhow::Result<SourceSettings> {
    let given = flags.scheme.as_deref().unwrap_or_default();
    let scheme = SchemeSettings::named(given)
        .ok_or_else(|| usage(format!("--scheme {given:?}: {}", scheme_reason(given))))?;
    let secrets = secrets("--secret", &flags.secret, &scheme, plain)?;
    let mut settings = SourceSettings::new(scheme, secrets, queue.as_str());
    if let Some(dedupe) = flags.dedupe {
        settings.dedupe = dedupe;
    }
    Ok(settings)
}

fn from_section(
    file: &ConfigFile,
    name: &str,
    section: &SourceSection,
    plain: Plain,
) -> anyhow::Result<SourceSettings> {
    let at = |key: &str| file.place.at(&["sources", name, key]);
    let scheme = match section.scheme.as_str() {
        "hmac" => {
            let here = file.place.at(&["sources", name]);
            SchemeSettings::Hmac(hmac(&here, section)?)
        }
        name => SchemeSettings::named(name).ok_or_else(|| {
            let reason = scheme_reason("");
            usage(format!("{} = {name:?}: {reason}", at("scheme")))
        })?,
    };
    for (one, other, both) in [
        (
            "id",
            "id_header",
            section.id.is_some() && section.id_header.is_some(),
        ),
        (
            "topic",
            "topic_header",
            section.topic.is_some() && section.topic_header.is_some(),
        ),
    ] {
        if both {
            return Err(usage(format!(
                "{}: give this or {other}, not both",
                at(one)
            )));
        }
    }
    let generic = matches!(scheme, SchemeSettings::Hmac(_));
    if !generic && let Some(key) = hmac_key(section) {
        return Err(usage(format!(
            "{}: only for scheme = \"hmac\"; remove it",
            at(key)
        )));
    }
    let secrets = secrets(&at("secrets"), &section.secrets.0, &scheme, plain)?;
    let mut settings = SourceSettings::new(scheme, secrets, section.queue.as_str());
    if let Some(dedupe) = section.dedupe {
        settings.dedupe = dedupe;
    }
    settings.id.clone_from(&section.id);
    if let (false, Some(header)) = (generic, &section.id_header) {
        let field = parse::field(&format!("header:{header}"));
        settings.id = Some(
            field.map_err(|reason| usage(format!("{} = {header:?}: {reason}", at("id_header"))))?,
        );
    }
    settings.topic.clone_from(&section.topic);
    settings.group = section.group.clone().unwrap_or_else(Field::none);
    settings.keep_headers.clone_from(&section.keep_headers);
    settings.rate = section.rate.map(|rate| RateLimit {
        burst: section.burst,
        ..RateLimit::new(rate.count, rate.per)
    });
    settings.priority = section.priority.unwrap_or_default();
    if section.burst.is_some() && section.rate.is_none() {
        let burst = at("burst");
        return Err(usage(format!(
            "{burst}: needs a rate, like rate = \"100/s\""
        )));
    }
    Ok(settings)
}

fn hmac(here: &str, section: &SourceSection) -> anyhow::Result<HmacSettings> {
    let header = section.header.as_ref().ok_or_else(|| {
        usage(format!(
            "{here}.header: is missing; name the header that carries the signature"
        ))
    })?;
    let mut settings = HmacSettings::new(header);
    settings.prefix = section.prefix.clone().unwrap_or_default();
    settings.encoding = section.encoding.unwrap_or_default();
    settings.algorithm = section.algorithm.unwrap_or_default();
    settings.id_header.clone_from(&section.id_header);
    settings.topic_header.clone_from(&section.topic_header);
    settings
        .timestamp_header
        .clone_from(&section.timestamp_header);
    settings
        .timestamp_prefix
        .clone_from(&section.timestamp_prefix);
    settings.separator = section.separator;
    settings.signed.clone_from(&section.signed);
    if let Some(tolerance) = section.tolerance {
        settings.tolerance = tolerance;
    }
    // The gateway checks this again; here the message can say where in the file it stands.
    Scheme::hmac(here, &settings)?;
    Ok(settings)
}

/// The first key that only the generic scheme has.
fn hmac_key(section: &SourceSection) -> Option<&'static str> {
    [
        ("header", section.header.is_some()),
        ("prefix", section.prefix.is_some()),
        ("encoding", section.encoding.is_some()),
        ("algorithm", section.algorithm.is_some()),
        ("topic_header", section.topic_header.is_some()),
        ("timestamp_header", section.timestamp_header.is_some()),
        ("timestamp_prefix", section.timestamp_prefix.is_some()),
        ("separator", section.separator.is_some()),
        ("tolerance", section.tolerance.is_some()),
        ("signed", section.signed.is_some()),
    ]
    .into_iter()
    .find_map(|(key, given)| given.then_some(key))
}

fn scheme_reason(flag: &str) -> String {
    let names: Vec<&str> = SchemeSettings::names().collect();
    match flag {
        "hmac" => {
            "needs settings of its own; write it into a config file, as [sources.NAME]".into()
        }
        _ => format!(
            "there is no such scheme; there are {} and hmac",
            names.join(", ")
        ),
    }
}

/// Resolves secrets and has the scheme read them, so that one that is no base64 is refused before anything is connected.
fn secrets(
    place: &str,
    references: &[String],
    scheme: &SchemeSettings,
    plain: Plain,
) -> anyhow::Result<Vec<String>> {
    let reader = Scheme::new(place, scheme)?;
    if references.is_empty() {
        return Err(usage(format!(
            "{place}: is empty; without a secret anybody could send"
        )));
    }
    let mut secrets = Vec::with_capacity(references.len());
    for (index, reference) in references.iter().enumerate() {
        let place = format!("{place}[{index}]");
        let secret = secret::resolve(reference, plain)
            .map_err(|reason| usage(format!("{place}: {reason}")))?;
        reader.secret(&place, &secret)?;
        secrets.push(secret);
    }
    Ok(secrets)
}
