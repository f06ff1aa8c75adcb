//! Where in a request something stands that becomes part of its job: in a header, or in a body of JSON.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// A place in a request: `header:x-shop`, `json:/shop/id` (a JSON pointer, RFC 6901), or `none`.
///
/// ```
/// # use millstream::gateway::field::Field;
/// let tenant: Field = "json:/shop/id".parse()?;
/// assert_eq!(tenant.to_string(), "json:/shop/id");
/// # Ok::<(), millstream::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Header(HeaderName),
    /// The parts of the pointer, unescaped.
    Json(Vec<String>),
}

/// Longest way into a body, parts of a pointer.
const POINTER_PARTS_MAX: usize = 32;

/// Why a request makes no job although its signature is good: what is at fault, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) place: String,
    pub(crate) reason: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.place, self.reason)
    }
}

impl Field {
    /// No place at all: nothing is read.
    pub fn none() -> Self {
        Self(Place::Nowhere)
    }

    pub(super) fn from_header(name: HeaderName) -> Self {
        Self(Place::Header(name))
    }

    /// The member of a body that has this name.
    pub(super) fn member(name: &str) -> Self {
        Self(Place::Json(vec![name.to_owned()]))
    }

    /// The header, if it is one.
    pub(super) fn header(&self) -> Option<&HeaderName> {
        match &self.0 {
            Place::Header(name) => Some(name),
            Place::Nowhere | Place::Json(_) => None,
        }
    }

    /// The text that stands there; `None` when there is nothing, or the body is not JSON. Whole numbers are text, too.
    pub(super) fn read<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        bytes_max: usize,
    ) -> Result<Option<Cow<'a, str>>, Malformed> {
        let malformed = |reason| Malformed {
            place: match &self.0 {
                Place::Header(name) => name.to_string(),
                Place::Nowhere | Place::Json(_) => self.to_string(),
            },
            reason,
        };
        let text = match &self.0 {
            Place::Nowhere => return Ok(None),
            Place::Header(name) if !headers.contains_key(name) => return Ok(None),
            Place::Header(name) => {
                let value = only(headers, name).ok_or_else(|| malformed("came more than once"))?;
                let text = std::str::from_utf8(value).map_err(|_| malformed("is not UTF-8"))?;
                Cow::Borrowed(text)
            }
            Place::Json(path) => match find(body, path) {
                Found::Nothing => return Ok(None),
                Found::Other => return Err(malformed("is neither text nor a whole number")),
                Found::Text(text) => Cow::Owned(text),
            },
        };
        if text.is_empty() {
            return Err(malformed("is empty"));
        }
        if text.len() > bytes_max {
            return Err(malformed("is too long"));
        }
        if text.chars().any(char::is_control) {
            return Err(malformed("has control characters"));
        }
        Ok(Some(text))
    }
}

/// The one value of a header. Two would leave open which of them was signed.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(HeaderValue::as_bytes(value)),
        _ => None,
    }
}

impl FromStr for Field {
    type Err = Error;

    /// Reads `header:NAME`, `json:/POINTER` or `none`.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: &str| Err(Error::setting("field", text.escape_debug(), reason));
        if text == "none" {
            return Ok(Self::none());
        }
        if let Some(name) = text.strip_prefix("header:") {
            return match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => Ok(Self::from_header(name)),
                Err(_) => refuse("not a header name; write it as in header:x-shopify-topic"),
            };
        }
        let Some(pointer) = text.strip_prefix("json:") else {
            return refuse("write header:NAME, json:/POINTER like json:/shop/id, or none");
        };
        let Some(parts) = pointer.strip_prefix('/') else {
            return refuse("a JSON pointer begins with a slash, like json:/shop/id");
        };
        let path: Option<Vec<String>> = parts.split('/').map(unescaped).collect();
        match path {
            Some(path) if path.len() <= POINTER_PARTS_MAX => Ok(Self(Place::Json(path))),
            Some(_) => refuse("a JSON pointer has at most 32 parts"),
            None => refuse("in a JSON pointer ~ is written ~0, and / in a name ~1"),
        }
    }
}

/// One part of a pointer; `None` for a tilde that escapes nothing.
fn unescaped(part: &str) -> Option<String> {
    let mut pieces = part.split('~');
    let mut whole = pieces.next()?.to_owned();
    for piece in pieces {
        whole.push(match piece.as_bytes().first()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        whole.push_str(&piece[1..]);
    }
    Some(whole)
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Nowhere => f.write_str("none"),
            Place::Header(name) => write!(f, "header:{name}"),
            Place::Json(path) => {
                f.write_str("json:")?;
                path.iter().try_for_each(|part| {
                    write!(f, "/{}", part.replace('~', "~0").replace('/', "~1"))
                })
            }
        }
    }
}

/// What a pointer points at.
enum Found {
    /// Not there, null, or the body is not JSON.
    Nothing,
    Text(String),
    /// An object, a list, true, false, or a number that is not whole or beyond 64 bits.
    Other,
}

/// Goes to the end of `body`, so that what is found does not depend on what follows; keeps nothing that is not asked for.
fn find(body: &[u8], path: &[String]) -> Found {
    let mut json = serde_json::Deserializer::from_slice(body);
    let found = Walk(path).deserialize(&mut json);
    match (found, json.end()) {
        (Ok(found), Ok(())) => found,
        _ => Found::Nothing,
    }
}

/// Follows the path from here on.
struct Walk<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl Walk<'_> {
    /// A value without members: the end of the path, or a way that leads nowhere.
    fn leaf<E>(self, found: Found) -> Result<Found, E> {
        Ok(if self.0.is_empty() {
            found
        } else {
            Found::Nothing
        })
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        self.leaf(Found::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Found, E> {
        self.leaf(Found::Text(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Found, E> {
        self.leaf(Found::Text(number.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        self.leaf(Found::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        self.leaf(Found::Other)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let Some((first, rest)) = self.0.split_first() else {
            IgnoredAny.visit_map(map)?;
            return Ok(Found::Other);
        };
        let mut found = Found::Nothing;
        while let Some(here) = map.next_key_seed(Named(first))? {
            if here {
                // Of two members with one name the last counts, as in most readers of JSON.
                found = map.next_value_seed(Walk(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        let Some((first, rest)) = self.0.split_first() else {
            IgnoredAny.visit_seq(list)?;
            return Ok(Found::Other);
        };
        let digits = first.bytes().all(|byte| byte.is_ascii_digit());
        let canonical = digits && (first == "0" || !first.starts_with('0'));
        let mut found = Found::Nothing;
        if let Some(index) = first.parse::<usize>().ok().filter(|_| canonical) {
            for _ in 0..index {
                if list.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(Found::Nothing);
                }
            }
            found = list
                .next_element_seed(Walk(rest))?
                .unwrap_or(Found::Nothing);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// True for the member with this name.
struct Named<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str, body: &str) -> Result<Option<String>, &'static str> {
        let field: Field = field.parse().unwrap();
        match field.read(&HeaderMap::new(), body.as_bytes(), 20) {
            Ok(text) => Ok(text.map(Cow::into_owned)),
            Err(malformed) => Err(malformed.reason),
        }
    }

    #[test]
    fn a_pointer_is_followed_through_objects_and_lists() {
        let body = r#"{"a": [1, {"b/c": "x", "m~n": -7, "": "e", "0": "zero"}], "deep": {"er": {"id": 18446744073709551615}}}"#;
        for (pointer, found) in [
            ("json:/a/1/b~1c", Some("x")),
            ("json:/a/1/m~0n", Some("-7")),
            ("json:/a/1/", Some("e")),
            ("json:/a/1/0", Some("zero")),
            ("json:/a/0", Some("1")),
            ("json:/deep/er/id", Some("18446744073709551615")),
            ("json:/a/01", None),
            ("json:/a/+1", None),
            ("json:/a/2", None),
            ("json:/a/-", None),
            ("json:/a/0/x", None),
            ("json:/A", None),
            ("none", None),
        ] {
            assert_eq!(
                read(pointer, body),
                Ok(found.map(str::to_owned)),
                "{pointer}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_nothing_and_what_is_no_text_is_refused() {
        for (body, found) in [
            ("", Ok(None)),
            ("nonsense", Ok(None)),
            ("null", Ok(None)),
            ("[]", Ok(None)),
            (r#"{"id": null}"#, Ok(None)),
            (r#"{"id": "cut"#, Ok(None)),
            (r#"{"id": "x"} tail"#, Ok(None)),
            (
                r#"{"id": "first", "id": "last"}"#,
                Ok(Some("last".to_owned())),
            ),
            (r#"{"id": "\u00fc"}"#, Ok(Some("ü".to_owned()))),
            (r#"{"id": ""}"#, Err("is empty")),
            (r#"{"id": "a\u0000b"}"#, Err("has control characters")),
            (r#"{"id": "123456789012345678901"}"#, Err("is too long")),
            (r#"{"id": true}"#, Err("is neither text nor a whole number")),
            (r#"{"id": 1.5}"#, Err("is neither text nor a whole number")),
            (
                r#"{"id": 18446744073709551616}"#,
                Err("is neither text nor a whole number"),
            ),
            (
                r#"{"id": {"a": 1}}"#,
                Err("is neither text nor a whole number"),
            ),
            (r#"{"id": [1]}"#, Err("is neither text nor a whole number")),
        ] {
            assert_eq!(read("json:/id", body), found, "{body}");
        }
    }

    #[test]
    fn a_body_of_any_depth_and_any_bytes_is_walked_and_does_not_fall() {
        let deep = format!(
            "{{\"a\": {}{}, \"id\": 7}}",
            "[".repeat(500_000),
            "]".repeat(500_000)
        );
        assert_eq!(read("json:/id", &deep), Ok(Some("7".to_owned())));
        let field: Field = "json:/id".parse().unwrap();
        let latin = b"{\"note\": \"Zo\xeb\", \"id\": 7}";
        let no_headers = HeaderMap::new();
        let read = field.read(&no_headers, latin, 20).unwrap();
        assert_eq!(read.as_deref(), Some("7"));
    }

    #[test]
    fn a_place_is_written_as_it_was_read_and_nothing_else_is_read() {
        for text in [
            "none",
            "header:x-shop",
            "json:/shop/id",
            "json:/a~1b/~0/0",
            "json:/",
        ] {
            assert_eq!(text.parse::<Field>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "x-shop",
            "header:",
            "header:x shop",
            "json:",
            "json:shop",
            "json:/a~",
            "json:/a~2",
            "None",
            "query:shop",
        ] {
            assert!(bad.parse::<Field>().is_err(), "{bad:?} was accepted");
        }
        assert!(
            format!("json:{}", "/a".repeat(33))
                .parse::<Field>()
                .is_err()
        );
    }
}
