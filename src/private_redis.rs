//! A Redis server of one's own for tests, demos, benches and `millstream dev`: started in a temporary directory,
//! gone with whoever started it.
//!
//! ```no_run
//! use millstream::private_redis::{Options, PrivateRedis};
//!
//! let redis = PrivateRedis::start(Options::default())?;
//! println!("try it: redis-cli {} ping", redis.cli_args().join(" "));
//! # Ok::<(), millstream::Error>(())
//! ```
//!
//! The server is the child of a small shell, and the shell reads its orders from a pipe that this process holds. When the
//! pipe closes, whether by `Drop`, exit or SIGKILL, the shell kills the server and removes the directory, so no crash of a
//! test leaves a server behind. The shell has a process group of its own: Ctrl-C reaches the program that drains, and not
//! the Redis that it drains to.
//!
//! Every call blocks for some milliseconds and needs no async runtime.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use program::Program;

mod program;

/// The environment variable that names the server to run.
pub const SERVER_ENV: &str = "MILLSTREAM_REDIS_SERVER";
/// Longest wait for the first PONG. A start takes 50 ms; a loaded machine or a large append-only file takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two looks at a starting server.
const START_POLL: Duration = Duration::from_millis(2);
/// Ports to try before giving up: another process may take one between our look and the server's bind.
const PORT_TRIES: u32 = 10;
/// Longest socket path, bytes. `sun_path` holds 104 on macOS and 108 on Linux.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// End of the server's log that a failed start shows, bytes.
const LOG_SHOWN_BYTES: usize = 2 << 10;

/// Reads one order a line, runs it and answers with one line; ends, and cleans up, when its input ends.
/// Until it is waited for, a dead server stays a zombie, so that its pid cannot come to mean another process.
const SUPERVISOR: &str = r#"
trap '' HUP INT TERM PIPE
dir=$1; shift
server=
while read -r order; do
    case $order in
    start)
        "$@" </dev/null >>"$dir/server.log" 2>&1 &
        server=$!
        echo "$server" ;;
    alive)
        jobs
        echo . ;;
    KILL)
        kill -KILL "$server" 2>/dev/null
        wait "$server" 2>/dev/null
        server=
        echo . ;;
    *)
        kill -"$order" "$server" 2>/dev/null && echo . || echo gone ;;
    esac
done
if [ -n "$server" ]; then
    kill -KILL "$server" 2>/dev/null
    wait "$server" 2>/dev/null
fi
rm -rf "$dir" || { sleep 1; rm -rf "$dir"; }
"#;

/// What survives [`PrivateRedis::kill`] followed by [`PrivateRedis::restart`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: the server comes back empty.
    #[default]
    None,
    /// An append-only file, synced once a second. Survives a killed server, for the file is in the page cache by then; but for what was
    /// written while a sync took long, two seconds at most.
    AofEverysec,
    /// An append-only file, synced before each answer.
    AofAlways,
}

/// How to start a [`PrivateRedis`].
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What survives a restart. Default: nothing.
    pub persistence: Persistence,
    /// Listens on a free port of 127.0.0.1 as well, and [`PrivateRedis::url`] names that. Default: the Unix socket alone.
    pub tcp: bool,
    /// More arguments for the server (`["--maxmemory", "10mb"]`). They come last and so overrule ours.
    pub args: Vec<String>,
}

/// A running server. Dropping it kills the server and removes its directory.
#[derive(Debug)]
pub struct PrivateRedis {
    version: String,
    dir: PathBuf,
    port: Option<u16>,
    supervisor: Mutex<Supervisor>,
}

/// The shell that holds the server, and the two ends of the talk with it.
#[derive(Debug)]
struct Supervisor {
    process: Child,
    /// `None` once dropped: closing it is the order to clean up.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// The server; `None` while killed.
    pid: Option<u32>,
}

impl PrivateRedis {
    /// Starts a server and returns when it answers.
    ///
    /// The program is the one that `MILLSTREAM_REDIS_SERVER` names, else a `redis-server` or `valkey-server` on the PATH,
    /// else the one that `make redis` put into `~/.cache/millstream`; those older than 7.0 are passed over.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no such program, or it did not start; the message has the way to install one, or the end of
    /// its log. [`Error::Setting`]: `MILLSTREAM_REDIS_SERVER` names something that is not a Redis server.
    /// [`Error::Unfit`]: it names one that is too old.
    pub fn start(options: Options) -> Result<Self> {
        let program = Program::find(
            std::env::var_os(SERVER_ENV),
            std::env::var_os("PATH"),
            program::cache_dir(),
        )?;
        if !options.tcp {
            return Self::start_program(&program, None, &options);
        }
        let mut tries = PORT_TRIES;
        loop {
            tries -= 1;
            let port = free_port()?;
            match Self::start_program(&program, Some(port), &options) {
                Err(_) if tries > 0 && is_port_taken(port) => {}
                outcome => return outcome,
            }
        }
    }

    fn start_program(program: &Program, port: Option<u16>, options: &Options) -> Result<Self> {
        let dir = temp_dir()?;
        let supervisor = Supervisor::spawn(
            dir.path(),
            &program.path,
            &server_args(dir.path(), port, options),
        )?;
        let redis = Self {
            version: program.version.clone(),
            // From here on the supervisor removes it.
            dir: dir.keep(),
            port,
            supervisor: Mutex::new(supervisor),
        };
        redis.restart()?;
        Ok(redis)
    }

    /// Where clients connect: `redis://127.0.0.1:PORT` with [`Options::tcp`], else `unix:///path/redis.sock`.
    pub fn url(&self) -> String {
        match self.port {
            Some(port) => format!("redis://127.0.0.1:{port}"),
            None => format!("unix://{}", self.socket().display()),
        }
    }

    /// The Unix socket; a server with a TCP port has one too.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// The port, with [`Options::tcp`].
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The arguments that make redis-cli talk to this server.
    pub fn cli_args(&self) -> Vec<String> {
        match self.port {
            Some(port) => vec!["-p".into(), port.to_string()],
            None => vec!["-s".into(), self.socket().display().to_string()],
        }
    }

    /// The server's process id; `None` while it is killed.
    pub fn pid(&self) -> Option<u32> {
        self.supervisor().pid
    }

    /// The server's version, `7.0.15`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The directory that holds the socket, the log (`server.log`) and the append-only file. Removed with the server.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kills the server with SIGKILL and waits for its end. Killing a killed one does nothing.
    ///
    /// # Errors
    /// [`Error::Io`]: the supervising shell is gone.
    pub fn kill(&self) -> Result<()> {
        let mut supervisor = self.supervisor();
        if supervisor.pid.is_some() {
            supervisor.order("KILL")?;
            supervisor.pid = None;
        }
        Ok(())
    }

    /// Starts the server anew, on the same socket, port and directory, and returns when it answers. A running one is
    /// killed first.
    ///
    /// # Errors
    /// [`Error::Io`]: it did not start; the message has the end of its log. With [`Options::tcp`] somebody may have taken
    /// the port meanwhile.
    pub fn restart(&self) -> Result<()> {
        self.kill()?;
        let mut supervisor = self.supervisor();
        let answer = supervisor.order("start")?;
        let pid = answer.parse().map_err(|_| {
            io(
                format!("the shell that starts Redis answered {answer:?}"),
                ErrorKind::InvalidData.into(),
            )
        })?;
        supervisor.pid = Some(pid);
        self.wait_until_ready(&mut supervisor)
    }

    /// Stops the server in its tracks (SIGSTOP): connections stay open and nothing is answered.
    ///
    /// # Errors
    /// [`Error::Io`]: the server is not running.
    pub fn freeze(&self) -> Result<()> {
        self.supervisor().signal("STOP")
    }

    /// Ends [`PrivateRedis::freeze`].
    ///
    /// # Errors
    /// [`Error::Io`]: the server is not running.
    pub fn thaw(&self) -> Result<()> {
        self.supervisor().signal("CONT")
    }

    fn supervisor(&self) -> MutexGuard<'_, Supervisor> {
        // A panic between order and answer leaves at worst a wrong pid, which the next order finds out.
        self.supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The server binds its port before the socket, so an answer there says that all of it listens.
    fn wait_until_ready(&self, supervisor: &mut Supervisor) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let socket = self.socket();
        loop {
            let Err(error) = ping(&socket) else {
                return Ok(());
            };
            let running = supervisor.is_server_running()?;
            if !running || Instant::now() > deadline {
                let what = if running {
                    format!("did not answer within {START_TIMEOUT:?}")
                } else {
                    "ended at once".to_owned()
                };
                return Err(io(
                    format!("the private Redis {what}: {}", self.log_end()),
                    error,
                ));
            }
            std::thread::sleep(START_POLL);
        }
    }

    fn log_end(&self) -> String {
        let log = std::fs::read(self.dir.join("server.log")).unwrap_or_default();
        let from = log.len().saturating_sub(LOG_SHOWN_BYTES);
        String::from_utf8_lossy(&log[from..]).trim().to_owned()
    }
}

impl Supervisor {
    fn spawn(dir: &Path, server: &Path, args: &[String]) -> Result<Self> {
        let failed = |source| io("cannot run /bin/sh to start a private Redis".into(), source);
        let mut process = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "millstream-redis"])
            .arg(dir)
            .arg(server)
            .args(args)
            // `jobs` answers in the user's language.
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let missing = || failed(ErrorKind::BrokenPipe.into());
        let orders = process.stdin.take().ok_or_else(missing)?;
        let answers = process.stdout.take().ok_or_else(missing)?;
        Ok(Self {
            process,
            orders: Some(orders),
            answers: BufReader::new(answers),
            pid: None,
        })
    }

    /// Sends one order and reads one line.
    fn order(&mut self, order: &str) -> Result<String> {
        let orders = self.orders.as_mut().ok_or(Error::Stopped {
            what: "the private Redis",
        })?;
        writeln!(orders, "{order}")
            .and_then(|()| orders.flush())
            .and_then(|()| self.answer())
            .map_err(|e| {
                io(
                    format!("the shell that holds Redis did not take {order:?}"),
                    e,
                )
            })
    }

    fn answer(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim().to_owned()),
        }
    }

    fn signal(&mut self, name: &str) -> Result<()> {
        let not_running = || {
            io(
                format!("cannot send SIG{name}: the private Redis is not running"),
                ErrorKind::NotFound.into(),
            )
        };
        self.pid.ok_or_else(not_running)?;
        match self.order(name)?.as_str() {
            "." => Ok(()),
            _ => Err(not_running()),
        }
    }

    fn is_server_running(&mut self) -> Result<bool> {
        let lost = |e| io("the shell that holds Redis went away".into(), e);
        let mut running = false;
        let mut line = self.order("alive")?;
        while line != "." {
            running |= line.contains("Running");
            line = self.answer().map_err(lost)?;
        }
        Ok(running)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.orders = None;
        // Nothing is left to do about a failure; the shell goes its way without us.
        let _ = self.process.wait();
    }
}

/// `PING` over the socket; an error while nobody listens or the server still loads its data.
fn ping(socket: &Path) -> std::io::Result<()> {
    let mut connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    connection.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    connection.read_exact(&mut answer)?;
    match &answer {
        b"+PONG" => Ok(()),
        other => Err(std::io::Error::other(format!(
            "PING was answered {:?}",
            String::from_utf8_lossy(other)
        ))),
    }
}

fn server_args(dir: &Path, port: Option<u16>, options: &Options) -> Vec<String> {
    let (append_only, fsync) = match options.persistence {
        Persistence::None => ("no", "everysec"),
        Persistence::AofEverysec => ("yes", "everysec"),
        Persistence::AofAlways => ("yes", "always"),
    };
    let dir = dir.display().to_string();
    let port = port.unwrap_or(0).to_string();
    let socket = format!("{dir}/redis.sock");
    let ours = [
        ("--port", port.as_str()),
        ("--bind", "127.0.0.1"),
        ("--unixsocket", &socket),
        ("--unixsocketperm", "700"),
        ("--dir", &dir),
        ("--daemonize", "no"),
        ("--save", ""),
        ("--appendonly", append_only),
        ("--appendfsync", fsync),
        ("--maxmemory-policy", "noeviction"),
        // Faults are part of what is tested: DEBUG SLEEP, DEBUG JMAP and the like.
        ("--enable-debug-command", "local"),
    ];
    ours.iter()
        .flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()])
        .chain(options.args.iter().cloned())
        .collect()
}

fn free_port() -> Result<u16> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| io("no free port on 127.0.0.1".into(), e))
}

fn is_port_taken(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_err()
}

/// A new directory whose path is short and plain enough for a socket and for a URL.
fn temp_dir() -> Result<tempfile::TempDir> {
    let usual = std::env::temp_dir();
    let parent = if fits_socket(&usual) {
        usual
    } else {
        PathBuf::from("/tmp")
    };
    tempfile::Builder::new()
        .prefix("millstream-redis-")
        .tempdir_in(&parent)
        .map_err(|e| io(format!("no directory in {}", parent.display()), e))
}

fn fits_socket(parent: &Path) -> bool {
    let longest = parent.join("millstream-redis-abcdef/redis.sock");
    longest.to_str().is_some_and(|path| {
        path.len() < SOCKET_PATH_BYTES_MAX
            && path.starts_with('/')
            && path
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
    })
}

fn io(what: String, source: std::io::Error) -> Error {
    Error::Io { what, source }
}

#[cfg(test)]
mod tests;
