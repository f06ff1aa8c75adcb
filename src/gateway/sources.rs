//! All configured senders, and stand-ins for those who are not. No I/O here.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::HeaderMap;

use super::signature::Choice;
use super::source::{Keyring, Source};

/// The configured senders. Clones share their secrets.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    known: Vec<Source>,
    by_name: HashMap<String, usize>,
    /// One decoy per source. An unknown name always gets the same one, and nobody can tell which: so no name can be told from another
    /// by how long its refusal takes.
    decoys: Vec<Source>,
    /// Which of them. Follows from the secrets, so that all processes behind one address choose alike.
    choice: Arc<ArcSwap<Choice>>,
}

impl Sources {
    pub(crate) fn new(known: Vec<Source>) -> Self {
        let names = known.iter().enumerate();
        let choice = ArcSwap::from_pointee(choice_by(&known));
        Self {
            by_name: names
                .map(|(at, source)| (source.name().to_owned(), at))
                .collect(),
            decoys: known.iter().map(Source::decoy).collect(),
            choice: Arc::new(choice),
            known,
        }
    }

    /// In the order of the settings; the numbers of sources count from zero in it.
    pub(crate) fn known(&self) -> &[Source] {
        &self.known
    }

    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// From now on only these secrets pass at these sources.
    pub(crate) fn rekey(&self, keyrings: Vec<(&Source, Keyring)>) {
        for (source, keyring) in keyrings {
            source.rekey(keyring);
        }
        self.choice.store(Arc::new(choice_by(&self.known)));
    }

    /// The number of the source, if `name` is configured and `headers` and `body` are signed by it. The same work is done either way.
    /// `now` is in unix seconds.
    pub(crate) fn verified(
        &self,
        name: &str,
        headers: &HeaderMap,
        body: &[u8],
        now: i64,
    ) -> Option<usize> {
        let decoy = self.choice.load().among(self.decoys.len(), name);
        let known = self.number(name);
        let candidate = match known {
            Some(number) => self.known.get(number),
            None => self.decoys.get(decoy),
        };
        let genuine = candidate?.verify(headers, body, now);
        known.filter(|_| genuine)
    }
}

fn choice_by(known: &[Source]) -> Choice {
    let keyrings: Vec<_> = known.iter().map(Source::keyring).collect();
    Choice::by(keyrings.iter().flat_map(|keyring| keyring.genuine()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::source::{SchemeSettings, SourceSettings};

    fn configured(secrets: [&str; 3]) -> Sources {
        let schemes = [
            SchemeSettings::Shopify,
            SchemeSettings::Github,
            SchemeSettings::Slack,
        ];
        let sources = schemes.iter().zip(secrets).enumerate();
        let sources = sources.map(|(at, (scheme, secret))| {
            let settings = SourceSettings::new(scheme.clone(), [secret], "q");
            Source::new(&format!("source-{at}"), &settings).unwrap()
        });
        Sources::new(sources.collect())
    }

    /// The decoys of a hundred names that nobody has.
    fn decoys(sources: &Sources) -> Vec<usize> {
        let choice = sources.choice.load();
        let names = (0..100).map(|nth| format!("nobody-{nth}"));
        names.map(|name| choice.among(3, &name)).collect()
    }

    #[test]
    fn processes_with_the_same_secrets_choose_the_same_decoys_and_others_do_not() {
        let (here, there) = (["a", "b", "c"], ["a", "b", "d"]);
        let chosen = decoys(&configured(here));
        assert_eq!(chosen, decoys(&configured(here)));
        assert_ne!(chosen, decoys(&configured(there)));
        for number in 0..3 {
            assert!(chosen.contains(&number), "{number} is never chosen");
        }

        // Also once one of them was told new secrets, and the other was started with them.
        let sources = configured(there);
        let last = &sources.known()[2];
        sources.rekey(vec![(last, last.read_secrets(&["c".to_owned()]).unwrap())]);
        assert_eq!(chosen, decoys(&sources));
    }

    #[test]
    fn without_sources_nobody_is_verified() {
        let none = Sources::new(Vec::new());
        assert_eq!(none.verified("shop", &HeaderMap::new(), b"", 0), None);
    }
}
