//! Where in the config file a fault is: file, line and key, never the line itself, which may hold a secret.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// The text of a config file, kept to say where things stand in it.
#[derive(Clone, Debug)]
pub(crate) struct SourceText {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl SourceText {
    /// `millstream.toml:12: queues.webhooks.lease`, for a message about a key.
    pub(crate) fn at(&self, key: &[&str]) -> String {
        let place = self.path.display();
        match self.span(key) {
            Some(span) => format!("{place}:{}: {}", self.line(span.start), dotted(key)),
            None => format!("{place}: {}", dotted(key)),
        }
    }

    /// What is wrong with the file as TOML, or with one value in it.
    pub(crate) fn refusal(&self, mut error: toml::de::Error) -> String {
        let line = error.span().map(|span| self.line(span.start));
        // Without its input the error does not quote the line, and ends with the key instead.
        error.set_input(None);
        let said = error.to_string();
        let said = said.trim_end();
        let (message, key) = match said.rsplit_once("\nin `") {
            Some((message, key)) => (message, key.trim_end_matches('`')),
            None => (said, ""),
        };
        let mut place = self.path.display().to_string();
        if let Some(line) = line {
            place.push_str(&format!(":{line}"));
        }
        if key.is_empty() {
            format!("{place}: {message}")
        } else {
            format!("{place}: {key}: {message}")
        }
    }

    fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Where the last part of `key` that exists stands.
    fn span(&self, key: &[&str]) -> Option<Range<usize>> {
        let document = DeTable::parse(&self.text).ok()?;
        let mut table = document.get_ref();
        let mut found = None;
        for part in key {
            let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
                break;
            };
            found = Some(name.span());
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        found
    }
}

/// The file at `path`.
pub(super) fn read(path: &Path) -> Result<SourceText, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(SourceText {
            path: path.to_owned(),
            text,
        }),
        Err(error) => Err(format!(
            "cannot read the config file {}: {error}",
            path.display()
        )),
    }
}

fn dotted(key: &[&str]) -> String {
    key.join(".")
}
