//! The few lines of Redis protocol that the tests need: they look at the server without the engine's own client.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
}

impl Value {
    pub(crate) fn int(&self) -> i64 {
        match self {
            Self::Int(number) => *number,
            other => other.text().parse().expect("a number"),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            other => panic!("{other:?} is no string"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).expect("text")
    }

    /// The items of a list; none of a missing one.
    pub(crate) fn list(&self) -> &[Value] {
        match self {
            Self::List(items) => items,
            Self::Nil => &[],
            other => panic!("{other:?} is no list"),
        }
    }

    /// A list `name, value, name, value …` asked for one name.
    pub(crate) fn field(&self, name: &str) -> &Value {
        self.list()
            .chunks_exact(2)
            .find(|pair| pair[0].text() == name)
            .map_or(&Self::Nil, |pair| &pair[1])
    }
}

/// A connection that blocks.
pub(crate) struct Connection(BufReader<UnixStream>);

impl Connection {
    pub(crate) fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the test's Redis listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout above zero");
        Self(BufReader::new(stream))
    }

    /// Sends one command; `Err` has the server's words.
    pub(crate) fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Value, String> {
        let request = encoded(command);
        self.0.get_mut().write_all(&request).expect("Redis reads");
        self.reply()
    }

    /// Sends a few commands at once, and panics when one is refused.
    pub(crate) fn send_all<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Vec<Value> {
        let requests: Vec<u8> = commands.iter().flat_map(|words| encoded(words)).collect();
        self.0.get_mut().write_all(&requests).expect("Redis reads");
        let replies = commands.iter().map(|command| {
            let name = || String::from_utf8_lossy(command[0].as_ref()).into_owned();
            self.reply()
                .unwrap_or_else(|error| panic!("{}: {error}", name()))
        });
        replies.collect()
    }

    /// The next message of a subscription.
    pub(crate) fn message(&mut self) -> String {
        let message = self.reply().expect("a message");
        message.list()[2].text().to_owned()
    }

    fn reply(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("Redis answers");
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().expect("a length");
        Ok(match kind {
            "+" => Value::Bytes(rest.into()),
            "-" => return Err(rest.into()),
            ":" => Value::Int(number()),
            "$" if number() < 0 => Value::Nil,
            "$" => {
                let mut bytes = vec![0; number() as usize + 2];
                self.0.read_exact(&mut bytes).expect("the whole string");
                bytes.truncate(bytes.len() - 2);
                Value::Bytes(bytes)
            }
            "*" if number() < 0 => Value::Nil,
            "*" => Value::List(
                (0..number())
                    .map(|_| self.reply())
                    .collect::<Result<_, _>>()?,
            ),
            other => panic!("unknown reply {other}{rest}"),
        })
    }
}

fn encoded<A: AsRef<[u8]>>(command: &[A]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        let word = word.as_ref();
        request.extend(format!("${}\r\n", word.len()).bytes());
        request.extend(word);
        request.extend(b"\r\n");
    }
    request
}
