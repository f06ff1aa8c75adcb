//! Which server program to run.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{SERVER_ENV, io};
use crate::error::{Error, Result};

/// The oldest server that will do, major and minor; Valkey counts on from 7.2.
const SERVER_VERSION_MIN: (u32, u32) = (7, 0);
/// Programs that are looked for, in this order.
const SERVER_NAMES: [&str; 2] = ["redis-server", "valkey-server"];

/// A server program that will do.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) version: String,
}

impl Program {
    /// `given` by name, else on the `path`, else in the `cache`, which are passed over when too old.
    pub(super) fn find(
        given: Option<OsString>,
        path: Option<OsString>,
        cache: Option<PathBuf>,
    ) -> Result<Self> {
        if let Some(given) = given.filter(|given| !given.is_empty()) {
            return Self::given(Path::new(&given));
        }
        let mut passed_over = String::new();
        let path = path.unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain(cache);
        // An empty or relative entry means the working directory, where no server of ours lives.
        for dir in dirs.filter(|dir| dir.is_absolute()) {
            for candidate in SERVER_NAMES.map(|name| dir.join(name)) {
                match version_of(&candidate) {
                    Ok(version) if is_fit(&version) => {
                        return Ok(Self {
                            path: candidate,
                            version,
                        });
                    }
                    Ok(version) => passed_over = format!("; {} is {version}", candidate.display()),
                    Err(_) => {}
                }
            }
        }
        let (major, minor) = SERVER_VERSION_MIN;
        Err(io(
            format!(
                "no redis-server or valkey-server {major}.{minor} or newer on the PATH{passed_over}: \
                 apt-get install redis-server, or brew install redis, or `make redis` in a checkout of millstream, \
                 or set {SERVER_ENV} to the program"
            ),
            ErrorKind::NotFound.into(),
        ))
    }

    fn given(path: &Path) -> Result<Self> {
        let version = version_of(path).map_err(|e| {
            Error::setting(
                SERVER_ENV,
                path.display(),
                format!("expected the path of a redis-server or valkey-server ({e})"),
            )
        })?;
        if !is_fit(&version) {
            let (major, minor) = SERVER_VERSION_MIN;
            return Err(Error::Unfit {
                server: path.display().to_string(),
                reason: format!("it is version {version}; name one of {major}.{minor} or newer"),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            version,
        })
    }
}

/// Where `make redis` leaves a server when the system has none to install.
pub(super) fn cache_dir() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty());
    let cache = match given {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
    };
    Some(cache.join("millstream"))
}

/// `7.0.15` out of `Redis server v=7.0.15 sha=00000000:0 …`, which Valkey prints the same way.
fn version_of(program: &Path) -> std::io::Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .find_map(|word| word.strip_prefix("v="))
        .map(str::to_owned)
        .ok_or_else(|| std::io::Error::other("--version does not answer as a Redis server"))
}

pub(super) fn is_fit(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|part| part.parse().ok());
    (
        numbers.next().unwrap_or(0u32),
        numbers.next().unwrap_or(0u32),
    ) >= SERVER_VERSION_MIN
}
