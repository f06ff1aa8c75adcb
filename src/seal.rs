//! Payloads that Redis keeps sealed: encrypted before they leave the program that enqueues, opened by the worker that runs the job.
//!
//! Redis, its dumps and its replicas see the ciphertext alone; the scripts never need the plain text. A job says in its meta which key
//! sealed it, so keys are rotated by putting a new one in front and keeping the old ones until their jobs are gone. Names, groups,
//! unique keys, kept headers and the messages of errors are not sealed: they are what operators look for.
//!
//! XChaCha20-Poly1305 with a random nonce of 192 bits, which is never in danger of coming twice. A stored payload is nonce, ciphertext
//! and tag: 40 bytes more than the plain text. Queue, job name and key id are authenticated with it, so a sealed payload that is moved
//! to another queue or job name does not open.

use std::borrow::Cow;

#[cfg(feature = "encryption")]
use base64::Engine as _;
#[cfg(feature = "encryption")]
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::job::{Meta, NewJob, QueueName};

/// What a queue's payloads are sealed with; nothing, when they are stored as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seal {
    #[cfg(feature = "encryption")]
    ring: Option<std::sync::Arc<KeyRing>>,
}

impl Seal {
    /// The job as it is stored.
    ///
    /// # Errors
    /// [`Error::Unopenable`] when the payload cannot be sealed; nothing may be stored then.
    #[cfg(feature = "encryption")]
    pub(crate) fn close<'a>(&self, queue: &QueueName, job: &'a NewJob) -> Result<Cow<'a, NewJob>> {
        let Some(ring) = &self.ring else {
            return Ok(Cow::Borrowed(job));
        };
        let mut sealed = job.clone();
        sealed.payload = ring.seal(queue, &job.name, &job.payload)?;
        sealed.meta.sealed = Some(ring.newest().id.clone());
        Ok(Cow::Owned(sealed))
    }

    #[cfg(not(feature = "encryption"))]
    pub(crate) fn close<'a>(&self, _: &QueueName, job: &'a NewJob) -> Result<Cow<'a, NewJob>> {
        Ok(Cow::Borrowed(job))
    }

    /// The plain payload of the job `name`; one that was never sealed as it is.
    ///
    /// # Errors
    /// [`Error::Unopenable`]: its key is not here, or the bytes are not those that were sealed.
    pub(crate) fn open(
        &self,
        queue: &QueueName,
        name: &str,
        meta: &Meta,
        payload: &Bytes,
    ) -> Result<Bytes> {
        let Some(id) = &meta.sealed else {
            return Ok(payload.clone());
        };
        #[cfg(feature = "encryption")]
        if let Some(ring) = &self.ring {
            return ring.open(queue, name, id, payload);
        }
        #[cfg(not(feature = "encryption"))]
        let _ = queue;
        Err(missing(name, id))
    }

    /// A text as it is stored, with the id of the key that sealed it.
    ///
    /// # Errors
    /// As [`Seal::close`].
    pub(crate) fn close_text(
        &self,
        queue: &QueueName,
        name: &str,
        text: &str,
    ) -> Result<(String, Option<String>)> {
        #[cfg(feature = "encryption")]
        if let Some(ring) = &self.ring {
            let sealed = ring.seal(queue, name, text.as_bytes())?;
            return Ok((STANDARD.encode(sealed), Some(ring.newest().id.clone())));
        }
        #[cfg(not(feature = "encryption"))]
        let _ = (queue, name);
        Ok((text.to_owned(), None))
    }

    /// The plain text of one that the key `id` sealed.
    ///
    /// # Errors
    /// As [`Seal::open`].
    pub(crate) fn open_text(
        &self,
        queue: &QueueName,
        name: &str,
        id: &str,
        text: &str,
    ) -> Result<String> {
        #[cfg(feature = "encryption")]
        if let Some(ring) = &self.ring {
            let sealed = STANDARD.decode(text).unwrap_or_default();
            let plain = ring.open(queue, name, id, &sealed)?;
            return Ok(String::from_utf8_lossy(&plain).into_owned());
        }
        #[cfg(not(feature = "encryption"))]
        let _ = (queue, text);
        Err(missing(name, id))
    }
}

fn missing(name: &str, key: &str) -> Error {
    Error::Unopenable {
        name: name.to_owned(),
        key: key.to_owned(),
        reason: "that key is not in the queue's key ring",
    }
}

#[cfg(feature = "encryption")]
pub use ring::KeyRing;

#[cfg(feature = "encryption")]
impl Seal {
    pub(crate) fn new(ring: KeyRing) -> Self {
        Self {
            ring: Some(ring.into()),
        }
    }
}

#[cfg(feature = "encryption")]
mod ring {
    use std::fmt;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};

    use super::missing;
    use crate::error::{Error, Result};
    use crate::job::QueueName;

    /// Longest id of a key, bytes.
    const KEY_ID_BYTES_MAX: usize = 32;
    /// Most keys of a ring.
    const KEYS_MAX: usize = 16;
    const NONCE_BYTES: usize = 24;

    /// The keys of a queue: the first seals what is enqueued, all of them open what is stored.
    ///
    /// Set by [`crate::client::Builder::encrypt`]. Rotate by putting a new key in front, first everywhere as a second key, and take
    /// the old one out when no job that it sealed is left. Shows nothing of its keys.
    #[derive(Clone)]
    pub struct KeyRing {
        keys: Vec<Key>,
    }

    #[derive(Clone)]
    pub(super) struct Key {
        pub(super) id: String,
        cipher: XChaCha20Poly1305,
    }

    impl fmt::Debug for KeyRing {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_list()
                .entries(self.keys.iter().map(|key| &key.id))
                .finish()
        }
    }

    impl KeyRing {
        /// A ring of keys, each written `ID:BASE64`, the newest first: a name of your choice (1 to 32 letters, digits, `-`, `_`, `.`),
        /// and 32 random bytes in base64, as `openssl rand -base64 32` makes them. White space around it does not count.
        ///
        /// ```
        /// # use millstream::KeyRing;
        /// let ring = KeyRing::new(["2026-11:bm90IGEgc2VjcmV0LCBidXQgdGhpcnR5LXR3byBiLi4="])?;
        /// # Ok::<(), millstream::Error>(())
        /// ```
        ///
        /// # Errors
        /// [`Error::Setting`] names the key by its place or id and says what is wrong, never the key itself.
        pub fn new<T: AsRef<str>>(keys: impl IntoIterator<Item = T>) -> Result<Self> {
            let mut ring = Self { keys: Vec::new() };
            for (place, text) in keys.into_iter().enumerate() {
                let key = Key::parse(text.as_ref().trim(), place + 1)?;
                if ring.keys.iter().any(|other| other.id == key.id) {
                    return Err(refused(&key.id, "two keys have this id; give each its own"));
                }
                ring.keys.push(key);
            }
            match ring.keys.len() {
                1..=KEYS_MAX => Ok(ring),
                count => Err(refused(&count.to_string(), "1 to 16 keys")),
            }
        }

        pub(super) fn newest(&self) -> &Key {
            // `new` lets no empty ring through.
            &self.keys[0]
        }

        /// Nonce, ciphertext and tag.
        pub(super) fn seal(&self, queue: &QueueName, name: &str, plain: &[u8]) -> Result<Bytes> {
            let key = self.newest();
            let failed = |reason| Error::Unopenable {
                name: name.to_owned(),
                key: key.id.clone(),
                reason,
            };
            let nonce =
                XNonce::try_generate().map_err(|_| failed("the system gives no random numbers"))?;
            let aad = bound_to(queue, name, &key.id);
            let payload = Payload {
                msg: plain,
                aad: &aad,
            };
            let text = key
                .cipher
                .encrypt(&nonce, payload)
                .map_err(|_| failed("it is too large to be sealed"))?;
            let mut sealed = Vec::with_capacity(NONCE_BYTES + text.len());
            sealed.extend_from_slice(&nonce);
            sealed.extend_from_slice(&text);
            Ok(sealed.into())
        }

        pub(super) fn open(
            &self,
            queue: &QueueName,
            name: &str,
            id: &str,
            sealed: &[u8],
        ) -> Result<Bytes> {
            let Some(key) = self.keys.iter().find(|key| key.id == id) else {
                return Err(missing(name, id));
            };
            let changed = || Error::Unopenable {
                name: name.to_owned(),
                key: id.to_owned(),
                reason: "the bytes are not those that were sealed, or another key has this id here",
            };
            let (nonce, text) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(changed)?;
            let nonce = XNonce::try_from(nonce).map_err(|_| changed())?;
            let aad = bound_to(queue, name, id);
            let payload = Payload {
                msg: text,
                aad: &aad,
            };
            let plain = key.cipher.decrypt(&nonce, payload);
            plain.map(Bytes::from).map_err(|_| changed())
        }
    }

    impl Key {
        fn parse(text: &str, place: usize) -> Result<Self> {
            let (id, key) = text.split_once(':').ok_or_else(|| {
                let form = "write ID:BASE64, the base64 as `openssl rand -base64 32` makes it";
                refused(&format!("key {place}"), form)
            })?;
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if id.is_empty() || id.len() > KEY_ID_BYTES_MAX || !id.chars().all(allowed) {
                // What stands there may be part of a key.
                let reason = "its id has 1 to 32 letters, digits, '-', '_' or '.'";
                return Err(refused(&format!("key {place}"), reason));
            }
            let bytes = STANDARD.decode(key.trim());
            let bytes = bytes.map_err(|_| refused(id, "what follows the id is not base64"))?;
            let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| {
                let reason = format!("the key has {} bytes, it must have 32", bytes.len());
                refused(id, &reason)
            })?;
            Ok(Self {
                id: id.to_owned(),
                cipher,
            })
        }
    }

    fn refused(value: &str, reason: &str) -> Error {
        Error::setting("encrypt_with", value, reason)
    }

    /// What a sealed payload belongs to. None of the parts can hold a NUL.
    fn bound_to(queue: &QueueName, name: &str, id: &str) -> Vec<u8> {
        [queue.as_str(), name, id].join("\0").into_bytes()
    }
}

#[cfg(all(test, feature = "encryption"))]
mod tests {
    use super::*;

    const OLD: &str = "2025:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const NEW: &str = "2026:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn seal(keys: &[&str]) -> Seal {
        Seal::new(KeyRing::new(keys).unwrap())
    }

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn stored(seal: &Seal, payload: &'static [u8]) -> NewJob {
        let job = NewJob::raw("send", payload);
        seal.close(&queue("mail"), &job).unwrap().into_owned()
    }

    fn opened(seal: &Seal, on: &str, name: &str, job: &NewJob) -> Result<Bytes> {
        seal.open(&queue(on), name, &job.meta, &job.payload)
    }

    #[test]
    fn what_is_stored_does_not_show_the_payload_and_opens_again() {
        let seal = seal(&[NEW]);
        for payload in [&b"hunter2"[..], b"", &[0, 255, 128]] {
            let job = stored(&seal, payload);
            assert_eq!(job.payload.len(), payload.len() + 40);
            assert!(
                payload.is_empty() || !job.payload.windows(payload.len()).any(|w| w == payload)
            );
            assert_eq!(opened(&seal, "mail", "send", &job).unwrap(), payload);
        }
    }

    #[test]
    fn the_same_payload_is_never_sealed_the_same_way() {
        let seal = seal(&[NEW]);
        assert_ne!(stored(&seal, b"x").payload, stored(&seal, b"x").payload);
    }

    #[test]
    fn a_new_key_in_front_leaves_the_old_jobs_readable() {
        let job = stored(&seal(&[OLD]), b"x");
        let rotated = seal(&[NEW, OLD]);
        assert_eq!(opened(&rotated, "mail", "send", &job).unwrap(), "x");
        assert_eq!(stored(&rotated, b"x").meta.sealed.as_deref(), Some("2026"));
        let error = opened(&seal(&[NEW]), "mail", "send", &job).unwrap_err();
        assert!(error.to_string().contains("2025"), "{error}");
        assert!(opened(&Seal::default(), "mail", "send", &job).is_err());
    }

    #[test]
    fn a_changed_byte_another_queue_and_another_name_do_not_open() {
        let seal = seal(&[NEW]);
        let job = stored(&seal, b"pay 10");
        assert!(opened(&seal, "post", "send", &job).is_err());
        assert!(opened(&seal, "mail", "sent", &job).is_err());
        for at in 0..job.payload.len() {
            let mut changed = job.clone();
            let mut bytes = job.payload.to_vec();
            bytes[at] ^= 1;
            changed.payload = bytes.into();
            assert!(
                opened(&seal, "mail", "send", &changed).is_err(),
                "byte {at}"
            );
        }
        for length in 0..job.payload.len() {
            let mut cut = job.clone();
            cut.payload.truncate(length);
            assert!(
                opened(&seal, "mail", "send", &cut).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_job_that_was_never_sealed_is_taken_as_it_is() {
        let plain = NewJob::raw("send", "x");
        assert_eq!(opened(&seal(&[NEW]), "mail", "send", &plain).unwrap(), "x");
    }

    #[test]
    fn bad_keys_are_refused_without_being_shown() {
        let long = format!("{}:AAAA", "i".repeat(33));
        for (keys, said) in [
            (&["hunter2hunter2"][..], "ID:BASE64"),
            (&["a b:hunter2"], "key 1"),
            (&[long.as_str()], "key 1"),
            (&["k:hunter2!"], "not base64"),
            (&["k:aHVudGVyMg=="], "7 bytes"),
            (&[NEW, NEW], "two keys"),
            (&[], "1 to 16"),
        ] {
            let error = KeyRing::new(keys).unwrap_err().to_string();
            assert!(error.contains(said), "{said:?} is not in {error:?}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(
            format!("{:?}", KeyRing::new([NEW, OLD]).unwrap()),
            r#"["2026", "2025"]"#
        );
    }
}
