//! Settings: flag, then environment (clap merges these two), then the config file, then the default.
//!
//! Everything is checked here, before the first connection: [`file`] checks each value where it stands, [`queues`] and
//! [`sources`] what depends on several, [`secret`] resolves secrets. An error names file, line and key, and the way out.

mod file;
mod place;
mod queues;
mod schedules;
mod secret;
mod sources;

use anyhow::Context as _;
use millstream::{KeyRing, config};

use super::args::Globals;
use super::failure::usage;
use file::Sections;
use place::SourceText;

pub(crate) use queues::{HandlerSettings, QueueFlags, QueueSettings, merge as queues};
pub(crate) use schedules::{ORIGIN as SCHEDULE_ORIGIN, ScheduleSettings, read as schedules};
pub(crate) use secret::Plain;
pub(crate) use sources::{GatewayFlags, SourceFlags, health_only, merge as gateway};

/// A config file, read and checked as far as it can be without its secrets.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    place: SourceText,
    sections: Sections,
}

/// Reads the file that `--config` or `MILLSTREAM_CONFIG` names, if any.
pub(crate) fn load(globals: &Globals) -> anyhow::Result<Option<ConfigFile>> {
    let Some(path) = &globals.config else {
        return Ok(None);
    };
    let place = place::read(path).map_err(usage)?;
    ConfigFile::parse(place).map(Some).map_err(usage)
}

impl ConfigFile {
    fn parse(place: SourceText) -> Result<Self, String> {
        let sections: Sections =
            toml::from_str(&place.text).map_err(|error| place.refusal(error))?;
        let file = Self { place, sections };
        file.check_names()?;
        Ok(file)
    }

    fn check_names(&self) -> Result<(), String> {
        for name in self.sections.queues.keys() {
            super::parse::queue(name)
                .map_err(|reason| format!("{}: {reason}", self.place.at(&["queues", name])))?;
        }
        Ok(())
    }

    /// The queues of the file, in order.
    pub(crate) fn queue_names(&self) -> Vec<String> {
        self.sections.queues.keys().cloned().collect()
    }
}

/// Where Redis is and how its keys begin.
#[derive(Clone)]
pub(crate) struct RedisSettings {
    /// May carry a password; never printed.
    pub(crate) url: String,
    pub(crate) namespace: String,
    pub(crate) allow_eviction: bool,
    /// What seals the payloads of a queue, by the queue's name.
    pub(crate) rings: Vec<(String, KeyRing)>,
}

impl RedisSettings {
    pub(crate) fn merge(globals: &Globals, file: Option<&ConfigFile>) -> Self {
        let section = file.map(|file| &file.sections.redis);
        let of = |flag: &Option<String>, key: Option<&Option<String>>, default: &str| {
            flag.clone()
                .or_else(|| key.cloned().flatten())
                .unwrap_or_else(|| default.to_owned())
        };
        Self {
            url: of(
                &globals.redis_url,
                section.map(|s| &s.url),
                config::REDIS_URL_DEFAULT,
            ),
            namespace: of(
                &globals.namespace,
                section.map(|s| &s.namespace),
                config::NAMESPACE_DEFAULT,
            ),
            allow_eviction: globals.allow_eviction || section.is_some_and(|s| s.allow_eviction),
            rings: Vec::new(),
        }
    }

    /// With the keys of every queue that the file says is encrypted, for whoever stores or runs jobs: nothing may be stored in
    /// the clear because a key is missing.
    pub(crate) fn with_keys(
        mut self,
        file: Option<&ConfigFile>,
        plain: Plain,
    ) -> anyhow::Result<Self> {
        for (name, ring) in key_rings(file, plain) {
            self.rings.push((name, ring?));
        }
        Ok(self)
    }

    /// With the keys that are at hand, for whoever only looks.
    pub(crate) fn with_keys_at_hand(mut self, file: Option<&ConfigFile>) -> Self {
        let at_hand = key_rings(file, Plain::Refused);
        self.rings
            .extend(at_hand.filter_map(|(name, ring)| Some((name, ring.ok()?))));
        self
    }
}

/// The key ring of each queue of the file that has `encrypt_with`, or what is wrong with it.
fn key_rings(
    file: Option<&ConfigFile>,
    plain: Plain,
) -> impl Iterator<Item = (String, anyhow::Result<KeyRing>)> {
    file.into_iter().flat_map(move |file| {
        file.sections
            .queues
            .iter()
            .filter_map(move |(name, section)| {
                let texts = section.encrypt_with.as_ref()?;
                let at = || file.place.at(&["queues", name, "encrypt_with"]);
                let keys = texts.0.iter().map(|text| secret::resolve(text, plain));
                let ring = keys
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|reason| usage(format!("{}: {reason}", at())))
                    .and_then(|keys| KeyRing::new(keys).with_context(at));
                Some((name.clone(), ring))
            })
    })
}

#[cfg(test)]
mod tests;
