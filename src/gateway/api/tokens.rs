//! Who may put jobs into which queue: bearer tokens with a list of queues each.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::HeaderMap;
use hyper::header;

use crate::error::{Error, Result};
use crate::gateway::field;
use crate::gateway::signature::{Compare, Tag};
use crate::job::QueueName;

/// Shortest token, bytes. Anything shorter can be guessed; `openssl rand -hex 32` makes a good one.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Longest token, bytes.
pub const TOKEN_BYTES_MAX: usize = 512;
/// Most tokens of a gateway, all together. Each costs an HMAC per request.
pub const TOKENS_MAX: usize = 64;

/// Who may enqueue, as `[tokens.NAME]` describes it.
#[derive(Clone)]
pub struct TokenSettings {
    /// The tokens themselves, at least one; any of them passes.
    pub secrets: Vec<String>,
    /// The queues that they are good for; `*` is all.
    pub queues: Vec<String>,
}

impl TokenSettings {
    /// These tokens for these queues.
    pub fn new(
        secrets: impl IntoIterator<Item = impl Into<String>>,
        queues: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            secrets: secrets.into_iter().map(Into::into).collect(),
            queues: queues.into_iter().map(Into::into).collect(),
        }
    }
}

impl fmt::Debug for TokenSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSettings")
            .field("secrets", &format_args!("{} hidden", self.secrets.len()))
            .field("queues", &self.queues)
            .finish()
    }
}

/// Why a request may not enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No token, or none that is known.
    Unknown,
    /// A good token that is not for this queue.
    OtherQueues,
}

/// All tokens, shared by all clones, so that new ones reach requests that are on their way.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    compare: Compare,
    known: Arc<ArcSwap<Vec<Known>>>,
}

/// One token.
pub(crate) struct Known {
    tag: Tag,
    /// `None`: all.
    queues: Option<Arc<[String]>>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    pub(crate) fn new(settings: &[(String, TokenSettings)]) -> Result<Self> {
        let compare = Compare::new();
        let known = read(&compare, settings)?;
        Ok(Self {
            compare,
            known: Arc::new(ArcSwap::from_pointee(known)),
        })
    }

    /// Reads new tokens. Nothing changes before [`Tokens::replace`].
    pub(crate) fn read(&self, settings: &[(String, TokenSettings)]) -> Result<Vec<Known>> {
        read(&self.compare, settings)
    }

    /// From now on only these tokens pass.
    pub(crate) fn replace(&self, known: Vec<Known>) {
        self.known.store(Arc::new(known));
    }

    /// Whether a request with these headers may put jobs into `queue`. The work done does not depend on how much of a token is
    /// right.
    pub(crate) fn permit(&self, headers: &HeaderMap, queue: &str) -> Result<(), Denied> {
        let value = field::only(headers, &header::AUTHORIZATION).unwrap_or_default();
        let token = bearer(value).unwrap_or_default();
        let known = self.known.load();
        let mut found = None;
        for candidate in known.iter() {
            if self.compare.equal(token, &candidate.tag) {
                found = Some(candidate);
            }
        }
        match found.ok_or(Denied::Unknown)?.queues.as_deref() {
            Some(queues) if !queues.iter().any(|name| name == queue) => Err(Denied::OtherQueues),
            _ => Ok(()),
        }
    }
}

/// What follows `Bearer `, in either case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

fn read(compare: &Compare, settings: &[(String, TokenSettings)]) -> Result<Vec<Known>> {
    let mut known = Vec::new();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (name, token) in settings {
        let setting = |field: &str| format!("tokens.{name}.{field}");
        if token.secrets.is_empty() {
            let reason = "at least one token; leave the section out to refuse everybody";
            return Err(Error::setting(setting("secrets"), "[]", reason));
        }
        let queues = scope(&setting("queues"), &token.queues)?;
        for (at, secret) in token.secrets.iter().enumerate() {
            let setting = setting(&format!("secrets[{at}]"));
            check(&setting, secret)?;
            if let Some((other, _)) = seen.iter().find(|(_, earlier)| earlier == secret) {
                let reason = format!("the same token as one of tokens.{other}");
                return Err(Error::setting(setting, "(hidden)", reason));
            }
            seen.push((name, secret));
            known.push(Known {
                tag: compare.tag(secret.as_bytes()),
                queues: queues.clone(),
            });
        }
    }
    if known.len() > TOKENS_MAX {
        let reason = format!("at most {TOKENS_MAX}, all sections together");
        return Err(Error::setting(
            "tokens",
            format!("{} tokens", known.len()),
            reason,
        ));
    }
    Ok(known)
}

fn scope(setting: &str, queues: &[String]) -> Result<Option<Arc<[String]>>> {
    if queues.is_empty() {
        let reason = "name the queues that the token is for, or \"*\" for all";
        return Err(Error::setting(setting, "[]", reason));
    }
    if queues.iter().any(|queue| queue == "*") {
        return Ok(None);
    }
    for queue in queues {
        QueueName::new(queue).map_err(|error| match error {
            Error::Setting { value, reason, .. } => Error::setting(setting, value, reason),
            other => other,
        })?;
    }
    Ok(Some(queues.into()))
}

fn check(setting: &str, token: &str) -> Result<()> {
    let refuse = |reason: String| Err(Error::setting(setting, "(hidden)", reason));
    if token.is_empty() {
        return refuse("the token is empty".to_owned());
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse(
            "a token has no white space and nothing but ASCII, since it travels in a header; often it is a newline of the file"
                .to_owned(),
        );
    }
    if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
        return refuse(format!(
            "a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} bytes; `openssl rand -hex 32` makes one"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const LONG: &str = "0123456789abcdef";

    fn of(name: &str, secrets: &[&str], queues: &[&str]) -> (String, TokenSettings) {
        let (secrets, queues) = (secrets.iter().copied(), queues.iter().copied());
        (name.to_owned(), TokenSettings::new(secrets, queues))
    }

    fn asked(tokens: &Tokens, values: &[&str], queue: &str) -> Result<(), Denied> {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(header::AUTHORIZATION, value);
        }
        tokens.permit(&headers, queue)
    }

    #[test]
    fn a_token_is_good_for_its_queues_and_nothing_else_is() {
        let other = "fedcba9876543210";
        let all = "all-the-queues-there-are";
        let tokens = Tokens::new(&[
            of("mail", &[LONG, other], &["mail", "sms"]),
            of("ops", &[all], &["*"]),
        ]);
        let tokens = tokens.unwrap();
        let bearer = |token: &str| format!("Bearer {token}");
        for (values, queue, answer) in [
            (vec![bearer(LONG)], "mail", Ok(())),
            (vec![bearer(other)], "sms", Ok(())),
            (vec![bearer(LONG)], "mail2", Err(Denied::OtherQueues)),
            (vec![bearer(all)], "anything", Ok(())),
            (vec![format!("bearer  {LONG} ")], "mail", Ok(())),
            (vec![bearer(&LONG[1..])], "mail", Err(Denied::Unknown)),
            (
                vec![bearer(&format!("{LONG}0"))],
                "mail",
                Err(Denied::Unknown),
            ),
            (vec![format!("Basic {LONG}")], "mail", Err(Denied::Unknown)),
            (vec![LONG.to_owned()], "mail", Err(Denied::Unknown)),
            (vec!["Bearer ".to_owned()], "mail", Err(Denied::Unknown)),
            (vec!["Bearer".to_owned()], "mail", Err(Denied::Unknown)),
            (
                vec![bearer(LONG), bearer(LONG)],
                "mail",
                Err(Denied::Unknown),
            ),
            (vec![], "mail", Err(Denied::Unknown)),
        ] {
            let given: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(asked(&tokens, &given, queue), answer, "{values:?} {queue}");
        }
        let nobody = Tokens::new(&[]).unwrap();
        assert_eq!(asked(&nobody, &["Bearer "], "mail"), Err(Denied::Unknown));
        assert!(!format!("{tokens:?}").contains(LONG));
    }

    #[test]
    fn a_token_that_cannot_be_one_is_refused_without_being_shown() {
        for (settings, name, says) in [
            (of("a", &[""], &["q"]), "tokens.a.secrets[0]", "empty"),
            (
                of("a", &[LONG, "hunter2"], &["q"]),
                "tokens.a.secrets[1]",
                "16 to 512",
            ),
            (
                of("a", &["hunter2 hunter2 hunter2"], &["q"]),
                "tokens.a.secrets[0]",
                "white space",
            ),
            (
                of("a", &["hunter2hunter2hunter2\n"], &["q"]),
                "tokens.a.secrets[0]",
                "newline",
            ),
            (
                of("a", &[LONG, LONG], &["q"]),
                "tokens.a.secrets[1]",
                "the same",
            ),
            (of("a", &[], &["q"]), "tokens.a.secrets", "at least one"),
            (of("a", &[LONG], &[]), "tokens.a.queues", "\"*\""),
            (of("a", &[LONG], &["a{b"]), "tokens.a.queues", "not allowed"),
        ] {
            match Tokens::new(&[settings]) {
                Err(error @ Error::Setting { .. }) => {
                    let said = error.to_string();
                    assert!(said.contains(name) && said.contains(says), "{said}");
                    assert!(!said.contains("hunter2") && !said.contains(LONG), "{said}");
                }
                other => panic!("{name} {says}: {other:?}"),
            }
        }
        let settings = of("a", &["hunter2"], &["q"]);
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
