//! The auditor: reads what the engine says of its jobs, the history and the events, while it says it, for both are capped.
//! It has its own way to Redis, which no fault of the network befalls.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::plan::QUEUE;
use crate::record::{Record, unix_offset_us};
use crate::support::resp::{Connection, Value};

const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Auditor {
    closing: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Auditor {
    pub(crate) fn start(socket: PathBuf, record: Record) -> Self {
        let closing = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&closing);
        let audit = Audit {
            record,
            offset_us: unix_offset_us(),
            completed: "0".to_owned(),
            events: "0".to_owned(),
        };
        Self {
            closing,
            thread: std::thread::spawn(move || audit.run(&socket, &told)),
        }
    }

    /// Reads what is left.
    pub(crate) fn close(self) {
        self.closing.store(true, Ordering::Release);
        self.thread.join().expect("the auditor does not panic");
    }
}

struct Audit {
    record: Record,
    offset_us: u64,
    /// Where to read on.
    completed: String,
    events: String,
}

impl Audit {
    fn run(mut self, socket: &std::path::Path, closing: &AtomicBool) {
        let mut connection = None;
        loop {
            // Asked first: what is read after it includes all that happened before it.
            let last = closing.load(Ordering::Acquire);
            match self.read_on(socket, &mut connection) {
                Ok(0) if last => return,
                Ok(0) => std::thread::sleep(PAUSE),
                Ok(_) => {}
                // Killed, frozen or loading.
                Err(_) => {
                    connection = None;
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Notes what is new, at most a thousand of each; returns how much.
    fn read_on(
        &mut self,
        socket: &std::path::Path,
        connection: &mut Option<Connection>,
    ) -> io::Result<usize> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(Connection::try_open(socket)?),
        };
        let key = |name: &str| format!("millstream:{{{QUEUE}}}:{name}");
        let (completed, events) = (key("completed"), key("events"));
        let command = [
            "XREAD",
            "COUNT",
            "1000",
            "STREAMS",
            &completed,
            &events,
            &self.completed,
            &self.events,
        ];
        let reply = connection.try_send(&command)?.map_err(io::Error::other)?;
        let mut count = 0;
        for stream in reply.list() {
            let (name, entries) = (stream.list()[0].text(), stream.list()[1].list());
            count += entries.len();
            for entry in entries {
                let (id, fields) = (entry.list()[0].text(), &entry.list()[1]);
                let ms: u64 = id
                    .split('-')
                    .next()
                    .and_then(|ms| ms.parse().ok())
                    .unwrap_or(0);
                let at_us = (ms * 1_000).saturating_sub(self.offset_us);
                self.note(at_us, name == completed, fields);
                match name == completed {
                    true => self.completed = id.to_owned(),
                    false => self.events = id.to_owned(),
                }
            }
        }
        Ok(count)
    }

    fn note(&self, at_us: u64, completed: bool, fields: &Value) {
        let text = |name: &str| match fields.field(name) {
            Value::Bytes(_) => fields.field(name).text(),
            _ => "",
        };
        let id = Some(text("job")).filter(|id| !id.is_empty()).unwrap_or("-");
        match completed {
            true => self
                .record
                .note(format_args!("completed {at_us} {id} {}", text("attempt"))),
            false => {
                let (event, detail) = (text("event"), text("detail"));
                self.record
                    .note(format_args!("{event} {at_us} {id} {detail}"))
            }
        };
    }
}
