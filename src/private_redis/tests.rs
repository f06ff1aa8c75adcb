use std::net::TcpStream;

use super::program::is_fit;
use super::*;

/// Set in the child process of [`a_killed_parent_leaves_no_server_behind`].
const HOLD_ENV: &str = "MILLSTREAM_TEST_HOLDS_REDIS";

fn start(options: Options) -> PrivateRedis {
    PrivateRedis::start(options).expect("a private Redis")
}

/// Sends one inline command and reads the first line of its answer, or for a bulk string the string.
fn ask(redis: &PrivateRedis, command: &str) -> std::io::Result<String> {
    let mut connection = UnixStream::connect(redis.socket())?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(connection, "{command}\r\n")?;
    let mut answer = BufReader::new(connection);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    if line.starts_with('$') && !line.starts_with("$-1") {
        line.clear();
        answer.read_line(&mut line)?;
    }
    Ok(line.trim_end().to_owned())
}

/// The value of one setting: the fourth line of `CONFIG GET`'s array answer after its length, name length and name.
fn setting(redis: &PrivateRedis, name: &str) -> String {
    let mut connection = UnixStream::connect(redis.socket()).expect("the socket");
    write!(connection, "CONFIG GET {name}\r\n").expect("a write");
    BufReader::new(connection)
        .lines()
        .nth(4)
        .expect("five lines")
        .expect("a line")
}

/// Waits for what another process does; nothing signals it to us.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(START_POLL);
    }
}

fn is_running(pid: u32) -> bool {
    Command::new("/bin/sh")
        .args(["-c", "kill -0 \"$1\"", "sh", &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("a shell")
        .success()
}

#[test]
fn a_new_server_answers_keeps_nothing_and_evicts_nothing() {
    let redis = start(Options::default());

    assert_eq!(ask(&redis, "PING").unwrap(), "+PONG");
    assert_eq!(setting(&redis, "save"), "");
    assert_eq!(setting(&redis, "appendonly"), "no");
    assert_eq!(setting(&redis, "maxmemory-policy"), "noeviction");
    assert_eq!(setting(&redis, "port"), "0");
    assert_eq!(redis.url(), format!("unix://{}", redis.socket().display()));
    assert!(redis.socket().as_os_str().len() < SOCKET_PATH_BYTES_MAX);
    assert!(is_fit(redis.version()), "{}", redis.version());
}

#[test]
fn with_tcp_it_answers_at_the_port_of_its_url() {
    let redis = start(Options {
        tcp: true,
        ..Options::default()
    });
    let port = redis.port().expect("a port");
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();

    connection.write_all(b"CONFIG GET dir\r\n").unwrap();

    let dir = BufReader::new(connection).lines().nth(4).unwrap().unwrap();
    assert_eq!(dir, redis.dir().canonicalize().unwrap().to_str().unwrap());
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{port}"));
    assert_eq!(redis.cli_args(), ["-p", &port.to_string()]);
}

#[test]
fn many_start_at_once_and_each_has_its_own() {
    let servers: Vec<PrivateRedis> = std::thread::scope(|scope| {
        let options = |i: u32| Options {
            tcp: i.is_multiple_of(2),
            ..Options::default()
        };
        let starts: Vec<_> = (0..8)
            .map(|i| scope.spawn(move || start(options(i))))
            .collect();
        starts.into_iter().map(|s| s.join().unwrap()).collect()
    });

    for redis in &servers {
        assert_eq!(ask(redis, "INCR seen").unwrap(), ":1");
    }
}

#[test]
fn a_killed_server_is_gone_and_comes_back_empty_at_the_same_place() {
    let redis = start(Options {
        tcp: true,
        ..Options::default()
    });
    let (url, pid) = (redis.url(), redis.pid().expect("a pid"));
    ask(&redis, "SET k v").unwrap();

    redis.kill().unwrap();
    assert_eq!(redis.pid(), None);
    assert!(!is_running(pid));
    assert!(ask(&redis, "PING").is_err());
    redis.kill().unwrap();

    redis.restart().unwrap();
    assert_eq!(redis.url(), url);
    assert_ne!(redis.pid(), Some(pid));
    assert_eq!(ask(&redis, "GET k").unwrap(), "$-1");
}

#[test]
fn an_append_only_server_keeps_its_data_over_a_kill() {
    for persistence in [Persistence::AofAlways, Persistence::AofEverysec] {
        let redis = start(Options {
            persistence,
            ..Options::default()
        });
        assert_eq!(ask(&redis, "SET k v").unwrap(), "+OK");

        redis.restart().unwrap();

        assert_eq!(ask(&redis, "GET k").unwrap(), "v", "{persistence:?}");
    }
}

#[test]
fn a_frozen_server_accepts_and_is_silent_until_thawed() {
    let redis = start(Options::default());
    redis.freeze().unwrap();
    let mut connection = UnixStream::connect(redis.socket()).unwrap();
    connection.write_all(b"PING\r\n").unwrap();
    connection
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut answer = [0; 5];
    let silence = connection.read_exact(&mut answer).unwrap_err().kind();
    assert!(
        matches!(silence, ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{silence:?}"
    );

    redis.thaw().unwrap();
    connection
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG");

    redis.kill().unwrap();
    assert!(matches!(redis.freeze(), Err(Error::Io { .. })));
}

#[test]
fn dropping_ends_the_server_even_a_frozen_one_and_removes_its_directory() {
    let redis = start(Options::default());
    let (pid, dir) = (redis.pid().expect("a pid"), redis.dir().to_owned());
    redis.freeze().unwrap();

    drop(redis);

    assert!(!is_running(pid));
    assert!(!dir.exists());
}

#[test]
fn a_server_that_refuses_its_arguments_shows_its_log() {
    let error = PrivateRedis::start(Options {
        tcp: true,
        args: vec!["--no-such-setting".into(), "1".into()],
        ..Options::default()
    })
    .unwrap_err();

    assert!(error.to_string().contains("no-such-setting"), "{error}");
}

#[test]
fn a_killed_parent_leaves_no_server_behind() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "private_redis::tests::holds_a_server_until_killed",
        ])
        .args(["--ignored", "--nocapture"])
        .env(HOLD_ENV, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(parent.stdout.take().unwrap())
        .lines()
        .map_while(std::io::Result::ok)
        .find_map(|line| line.split_once("holds ").map(|(_, said)| said.to_owned()))
        .expect("the child says what it holds");
    let (pid, dir) = said.split_once(' ').expect("pid and directory");
    let (pid, dir) = (pid.parse().unwrap(), PathBuf::from(dir));
    assert!(is_running(pid) && dir.exists());

    parent.kill().unwrap();
    parent.wait().unwrap();

    eventually("the directory is removed", || !dir.exists());
    eventually("the server is gone", || !is_running(pid));
}

/// The part of the test above that runs in a process of its own.
#[test]
#[ignore = "runs only as the child of a_killed_parent_leaves_no_server_behind"]
fn holds_a_server_until_killed() {
    if std::env::var_os(HOLD_ENV).is_none() {
        return;
    }
    let redis = start(Options::default());
    let pid = redis.pid().expect("a pid");
    println!("\nholds {pid} {}", redis.dir().display());
    // Nobody writes: this ends with the test that holds the other end.
    let _ = std::io::stdin().read(&mut [0]);
}

/// A program that calls itself a Redis server of this version. A shell writes it: a file that this process had open for
/// writing could not be run while another test's child still holds it open.
fn fake_server(dir: &Path, name: &str, version: &str) -> PathBuf {
    let path = dir.join(name);
    let program = format!("#!/bin/sh\necho 'Redis server v={version} sha=0'\n");
    let written = Command::new("/bin/sh")
        .args(["-c", "printf %s \"$2\" >\"$1\" && chmod +x \"$1\"", "sh"])
        .arg(&path)
        .arg(program)
        .status()
        .unwrap();
    assert!(written.success());
    path
}

#[test]
fn the_named_server_comes_before_the_path_and_the_path_before_the_cache() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [named, on_path, cached] = dirs.each_ref().map(tempfile::TempDir::path);
    let named = fake_server(named, "my-redis", "7.0.1");
    fake_server(on_path, "valkey-server", "7.2.5");
    fake_server(cached, "valkey-server", "9.1.2");
    let find = |named: Option<&Path>, on_path: Option<&Path>| {
        Program::find(
            named.map(Into::into),
            on_path.map(Into::into),
            Some(cached.to_owned()),
        )
        .unwrap()
        .version
    };

    assert_eq!(find(Some(&named), Some(on_path)), "7.0.1");
    assert_eq!(find(None, Some(on_path)), "7.2.5");
    assert_eq!(find(None, None), "9.1.2");
}

#[test]
fn a_server_that_is_too_old_is_passed_over_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let old = fake_server(dir.path(), "redis-server", "6.0.16");
    let path = Some(dir.path().into());

    let error = Program::find(None, path.clone(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("6.0.16"), "{error}");
    for way_out in [
        "apt-get install redis-server",
        "brew install redis",
        "make redis",
    ] {
        assert!(error.contains(way_out), "{error}");
    }

    fake_server(dir.path(), "valkey-server", "8.0.1");
    assert_eq!(Program::find(None, path, None).unwrap().version, "8.0.1");
    assert!(matches!(
        Program::find(Some(old.into()), None, None),
        Err(Error::Unfit { .. })
    ));
}

#[test]
fn a_named_server_that_is_none_is_a_usage_error() {
    for wrong in ["/no/such/redis-server", "/bin/echo"] {
        let error = Program::find(Some(wrong.into()), None, None).unwrap_err();
        assert!(
            error.is_usage() && error.to_string().contains(wrong),
            "{error}"
        );
    }
}

#[test]
fn only_short_plain_directories_hold_a_socket() {
    assert!(fits_socket(Path::new("/tmp")));
    assert!(fits_socket(Path::new(
        "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T/"
    )));
    assert!(!fits_socket(Path::new("/tmp/with space")));
    assert!(!fits_socket(Path::new("relative")));
    assert!(!fits_socket(&Path::new("/tmp").join("d".repeat(80))));
}
