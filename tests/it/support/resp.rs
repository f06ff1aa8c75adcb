//! The few lines of Redis protocol that the tests need: they look at the server without the engine's own client.

use std::io::{self, BufRead, BufReader, Read, Write};
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
        Self::try_open(socket).expect("the test's Redis listens")
    }

    pub(crate) fn try_open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends one command; `Err` has the server's words.
    pub(crate) fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Value, String> {
        self.try_send(command).expect("Redis answers")
    }

    /// [`Connection::send`] to a server that may go away meanwhile.
    pub(crate) fn try_send<A: AsRef<[u8]>>(
        &mut self,
        command: &[A],
    ) -> io::Result<Result<Value, String>> {
        self.0.get_mut().write_all(&encoded(command))?;
        self.reply()
    }

    /// Sends a few commands at once, and panics when one is refused.
    pub(crate) fn send_all<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Vec<Value> {
        let requests: Vec<u8> = commands.iter().flat_map(|words| encoded(words)).collect();
        self.0.get_mut().write_all(&requests).expect("Redis reads");
        let replies = commands.iter().map(|command| {
            let name = || String::from_utf8_lossy(command[0].as_ref()).into_owned();
            let reply = self.reply().expect("Redis answers");
            reply.unwrap_or_else(|error| panic!("{}: {error}", name()))
        });
        replies.collect()
    }

    /// The next message of a subscription.
    pub(crate) fn message(&mut self) -> String {
        let message = self.reply().expect("Redis lives").expect("a message");
        message.list()[2].text().to_owned()
    }

    /// Whatever a server that is monitored says until it is asked for `last`, which is left to somebody else.
    pub(crate) fn monitored_until(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.reply().expect("Redis lives").expect("a line");
            if line.text().contains(last) {
                return lines;
            }
            lines.push(line.text().to_owned());
        }
    }

    fn reply(&mut self) -> io::Result<Result<Value, String>> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().expect("a length");
        Ok(Ok(match kind {
            "+" => Value::Bytes(rest.into()),
            "-" => return Ok(Err(rest.into())),
            ":" => Value::Int(number()),
            "$" if number() < 0 => Value::Nil,
            "$" => {
                let mut bytes = vec![0; number() as usize + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Value::Bytes(bytes)
            }
            "*" if number() < 0 => Value::Nil,
            "*" => {
                let mut items = Vec::new();
                for _ in 0..number() {
                    match self.reply()? {
                        Ok(item) => items.push(item),
                        Err(words) => return Ok(Err(words)),
                    }
                }
                Value::List(items)
            }
            other => panic!("unknown reply {other}{rest}"),
        }))
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
