//! Secrets by reference. A secret in the text of a config file ends in version control and in backups, so it is refused
//! outside `dev`. No message shows one.

use std::fs;

/// May a secret stand in plain text?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// `dev`: the secret protects nothing.
    Allowed,
    /// Everywhere else.
    Refused,
}

/// The secret that `reference` means: `env:NAME`, `file:/path` (one newline at its end is not part of it), or plain text.
///
/// # Errors
/// What is wrong and what to write instead.
pub(crate) fn resolve(reference: &str, plain: Plain) -> Result<String, String> {
    let secret = if let Some(name) = reference.strip_prefix("env:") {
        std::env::var(name).map_err(|error| match error {
            std::env::VarError::NotPresent => {
                format!("the environment variable {name:?} is not set; set it to the secret")
            }
            std::env::VarError::NotUnicode(_) => {
                format!("the environment variable {name:?} is not UTF-8")
            }
        })?
    } else if let Some(path) = reference.strip_prefix("file:") {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read the secret file {path:?}: {error}"))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        line.strip_suffix('\r').unwrap_or(line).to_owned()
    } else if plain == Plain::Allowed {
        reference.to_owned()
    } else {
        return Err(
            "a secret in plain text is refused; put it into an environment variable and write \"env:NAME\", \
             or into a file and write \"file:/path\" (only `millstream dev` takes plain text)"
                .into(),
        );
    };
    if secret.is_empty() {
        return Err(match reference.split_once(':') {
            Some((kind @ ("env" | "file"), place)) => {
                format!("the secret from {kind} {place:?} is empty")
            }
            _ => "the secret is empty".into(),
        });
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_secret_without_the_last_newline_only() {
        let dir = tempfile::tempdir().unwrap();
        for (content, secret) in [
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            ("s3cret\n\n", "s3cret\n"),
            ("s", "s"),
        ] {
            let path = dir.path().join("secret");
            fs::write(&path, content).unwrap();
            let reference = format!("file:{}", path.display());
            assert_eq!(resolve(&reference, Plain::Refused).as_deref(), Ok(secret));
        }
    }

    #[test]
    fn what_is_missing_is_named_and_plain_text_is_not_shown() {
        let said = resolve("env:MILLSTREAM_TEST_NO_SUCH_VARIABLE", Plain::Refused).unwrap_err();
        assert!(said.contains("MILLSTREAM_TEST_NO_SUCH_VARIABLE"), "{said}");
        let said = resolve("file:/no/such/secret", Plain::Refused).unwrap_err();
        assert!(said.contains("/no/such/secret"), "{said}");
        let said = resolve("hunter2", Plain::Refused).unwrap_err();
        assert!(
            said.contains("env:NAME") && !said.contains("hunter2"),
            "{said}"
        );
        assert_eq!(resolve("hunter2", Plain::Allowed).as_deref(), Ok("hunter2"));
        assert!(resolve("", Plain::Allowed).is_err());
    }
}
