use super::*;
use crate::job::Priority;
use crate::job::codec::Codec;
use hyper::header::HeaderValue;
use std::time::Duration;

fn now() -> Timestamp {
    "2027-01-31T09:00:00Z".parse().unwrap()
}

fn read(body: &str) -> Result<Batch, Refusal> {
    Batch::read(body.as_bytes(), now())
}

#[track_caller]
fn one(body: &str) -> NewJob {
    let batch = read(body).unwrap();
    assert!(!batch.is_list());
    let [job] = <[NewJob; 1]>::try_from(batch.jobs).unwrap();
    job
}

#[track_caller]
fn refused(body: &str) -> (&'static str, String) {
    let refusal = read(body).expect_err(body);
    (refusal.code, refusal.message)
}

#[test]
fn every_option_is_read_and_its_own_example_is_accepted() {
    let body = r#"{
        "name": "invoice/send", "payload": {"amount": 19.90, "id": 18446744073709551617},
        "at": "2027-01-31T10:00:05+01:00", "group": "shop-1", "unique": "k", "unique_for": "24h", "max_attempts": 3,
        "priority": "low", "timeout": "2m", "expires": "1h", "headers": {"X-Request-Id": "7f3a"}, "durability": "replicas:2"
    }"#;
    assert_eq!(read(body).unwrap().durability, Durability::Replicas(2));
    let job = one(body);
    assert_eq!(job.name(), "invoice/send");
    assert_eq!(
        job.payload,
        r#"{"amount": 19.90, "id": 18446744073709551617}"#
    );
    assert_eq!(job.meta.codec, Codec::Json);
    assert_eq!(job.delay, Some(Duration::from_secs(5)));
    assert_eq!(job.meta.group.as_deref(), Some("shop-1"));
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(job.unique.as_ref().unwrap().window(), Some(day));
    assert_eq!(job.meta.max_attempts, Some(3));
    assert_eq!(job.meta.priority, Priority::Low);
    assert_eq!(job.meta.timeout_ms, Some(120_000));
    assert_eq!(job.expires, Some(Duration::from_secs(3600)));
    assert_eq!(job.meta.headers["x-request-id"], "7f3a");

    for option in options::OPTIONS {
        let (name, example) = (option.name, option.example);
        let body = match name {
            "name" => format!(r#"{{"name": {example}}}"#),
            "unique_for" | "unique_while_waiting" | "on_conflict" => {
                format!(r#"{{"name": "a", "unique": "k", "{name}": {example}}}"#)
            }
            _ => format!(r#"{{"name": "a", "{name}": {example}}}"#),
        };
        read(&body).unwrap_or_else(|refusal| panic!("{body}: {refusal:?}"));
        // Left out in another way, except where null is a value or the option cannot be left out.
        let nothing = format!(r#"{{"name": "a", "{name}": null}}"#);
        assert_eq!(read(&nothing).is_ok(), name != "name", "{nothing}");
    }
}

#[test]
fn a_payload_is_kept_as_it_was_written_in_each_of_its_ways() {
    for (body, payload, codec) in [
        (r#"{"name": "a"}"#, &b""[..], Codec::Raw),
        (
            r#"{"name": "a", "payload":  [1.0,  "\u00fc"] }"#,
            br#"[1.0,  "\u00fc"]"#,
            Codec::Json,
        ),
        (r#"{"name": "a", "payload": null}"#, b"null", Codec::Json),
        (
            r#"{"name": "a", "payload_text": "\u00fc\n"}"#,
            "ü\n".as_bytes(),
            Codec::Raw,
        ),
        (
            r#"{"name": "a", "payload_base64": "AP/+"}"#,
            b"\x00\xff\xfe",
            Codec::Raw,
        ),
        (r#"{"name": "a", "payload_base64": ""}"#, b"", Codec::Raw),
    ] {
        let job = one(body);
        assert_eq!(
            (&job.payload[..], job.meta.codec),
            (payload, codec),
            "{body}"
        );
    }
}

#[test]
fn lists_come_bare_or_named_and_are_checked_whole() {
    let bare = read(r#" [{"name": "a"}, {"name": "b"}]"#).unwrap();
    assert!(bare.is_list() && bare.jobs.len() == 2);
    let named = read(r#"{"durability": "fsync", "jobs": [{"name": "a"}]}"#).unwrap();
    assert!(named.is_list() && named.durability == Durability::Fsync);

    let many = |count: usize| format!("[{}]", vec![r#"{"name": "a"}"#; count].join(","));
    assert_eq!(read(&many(1_000)).unwrap().jobs.len(), 1_000);
    for (body, code, says) in [
        (many(0), "invalid_count", "0 jobs"),
        (many(1_001), "invalid_count", "1001 jobs"),
        (
            r#"[{"name": "a"}, {"name": "b", "delay": "5"}]"#.to_owned(),
            "invalid_job",
            "jobs[1].delay",
        ),
        (r#"[{"name": "a"}, 7]"#.to_owned(), "invalid_job", "jobs[1]"),
        (
            r#"[{"name": "a", "durability": "fsync"}]"#.to_owned(),
            "invalid_job",
            "jobs[0].durability",
        ),
        (
            r#"{"jobs": [{"name": "a"}], "name": "b"}"#.to_owned(),
            "invalid_job",
            "name",
        ),
        (
            r#"{"jobs": {"name": "a"}}"#.to_owned(),
            "invalid_job",
            "jobs",
        ),
    ] {
        let (found, message) = refused(&body);
        assert!(
            found == code && message.contains(says),
            "{body:.60}: {found} {message}"
        );
    }
    let half = "x".repeat(config::BATCH_BYTES_MAX / 2 + 1);
    let job = format!(r#"{{"name": "a", "payload_text": "{half}"}}"#);
    assert_eq!(read(&format!("[{job}]")).unwrap().jobs.len(), 1);
    let refusal = read(&format!("[{job}, {job}]")).unwrap_err();
    assert_eq!((refusal.status.as_u16(), refusal.code), (413, "too_large"));
}

#[test]
fn what_cannot_be_is_refused_with_its_option_and_what_would_be_accepted() {
    for (body, code, says) in [
        ("", "bad_json", "JSON"),
        ("7", "bad_json", "JSON"),
        (r#"{"name": "a""#, "bad_json", "JSON"),
        (r#"{"name": "a"} x"#, "bad_json", "JSON"),
        ("{}", "invalid_job", "name: is missing"),
        (r#"{"name": ""}"#, "invalid_job", "name: \"\""),
        (r#"{"name": 7}"#, "invalid_job", "name: write text"),
        (
            r#"{"name": "a", "name": "b"}"#,
            "invalid_job",
            "name: is given twice",
        ),
        (
            r#"{"name": "a", "colour": "red"}"#,
            "invalid_job",
            "colour: there is no such option; there are name, payload",
        ),
        (
            r#"{"name": "a", "payload": 1, "payload_text": "x"}"#,
            "invalid_job",
            "payload_text: payload is given as well",
        ),
        (
            r#"{"name": "a", "payload_base64": "?"}"#,
            "invalid_job",
            "base64",
        ),
        (r#"{"name": "a", "delay": "5"}"#, "invalid_job", "250ms"),
        (r#"{"name": "a", "delay": 5}"#, "invalid_job", "250ms"),
        (
            r#"{"name": "a", "delay": "200000d"}"#,
            "invalid_job",
            "delay",
        ),
        (
            r#"{"name": "a", "at": "tomorrow"}"#,
            "invalid_job",
            "2027-01-31",
        ),
        (
            r#"{"name": "a", "delay": "1s", "at": "2027-01-31T10:00:00Z"}"#,
            "invalid_job",
            "at: delay is given",
        ),
        (
            r#"{"name": "a", "unique_for": "1h"}"#,
            "invalid_job",
            "unique_for: needs unique",
        ),
        (
            r#"{"name": "a", "unique_while_waiting": true}"#,
            "invalid_job",
            "needs unique",
        ),
        (
            r#"{"name": "a", "unique": "k", "unique_for": "1h", "unique_while_waiting": true}"#,
            "invalid_job",
            "one of them",
        ),
        (
            r#"{"name": "a", "unique": "k", "on_conflict": "throttle"}"#,
            "invalid_job",
            "on_conflict",
        ),
        (
            r#"{"name": "a", "max_attempts": 0}"#,
            "invalid_job",
            "max_attempts",
        ),
        (
            r#"{"name": "a", "max_attempts": 1.5}"#,
            "invalid_job",
            "1 to 1000000",
        ),
        (
            r#"{"name": "a", "max_attempts": -1}"#,
            "invalid_job",
            "1 to 1000000",
        ),
        (
            r#"{"name": "a", "timeout": "0s"}"#,
            "invalid_job",
            "timeout",
        ),
        (
            r#"{"name": "a", "expires": "0s"}"#,
            "invalid_job",
            "expires",
        ),
        (
            r#"{"name": "a", "deadline": "0s"}"#,
            "invalid_job",
            "deadline",
        ),
        (r#"{"name": "a", "group": ""}"#, "invalid_job", "group"),
        (
            r#"{"name": "a", "priority": "urgent"}"#,
            "invalid_job",
            "priority",
        ),
        (
            r#"{"name": "a", "headers": {"a b": "c"}}"#,
            "invalid_job",
            "a b",
        ),
        (
            r#"{"name": "a", "headers": {"a": "b\r\nc"}}"#,
            "invalid_job",
            "control",
        ),
        (
            r#"{"name": "a", "headers": {"Authorization": "x"}}"#,
            "invalid_job",
            "never stored",
        ),
        (
            r#"{"name": "a", "headers": {"a": 1}}"#,
            "invalid_job",
            "object of text",
        ),
        (
            r#"{"name": "a", "durability": "disk"}"#,
            "invalid_job",
            "durability",
        ),
        (
            r#"{"name": "a", "durability": "fsync", "durability": "memory"}"#,
            "invalid_job",
            "twice",
        ),
    ] {
        let (found, message) = refused(body);
        assert!(
            found == code && message.contains(says),
            "{body}: {found} {message}"
        );
    }
    let many: Vec<String> = (0..65).map(|at| format!(r#""h{at}": "x""#)).collect();
    let body = format!(r#"{{"name": "a", "headers": {{{}}}}}"#, many.join(","));
    assert!(refused(&body).1.contains("at most 64"));
    // As deep as it likes, and no deeper than we fall.
    let deep = format!(
        r#"{{"name": "a", "payload": {}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let _ = read(&deep);
}

#[test]
fn only_json_is_read_and_the_queue_is_that_of_the_path() {
    let token = "0123456789abcdef";
    let settings = tokens::TokenSettings::new([token], ["q:ü", "a"]);
    let api = Api::new(Tokens::new(&[("t".to_owned(), settings)]).unwrap());
    let headers = |pairs: &[(header::HeaderName, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
    };
    let good = (header::AUTHORIZATION, "Bearer 0123456789abcdef");
    let json = |value| (header::CONTENT_TYPE, value);
    for (queue, pairs, status) in [
        (
            "q:%C3%BC",
            vec![good.clone(), json("application/json")],
            None,
        ),
        (
            "a",
            vec![good.clone(), json("Application/JSON; charset=utf-8")],
            None,
        ),
        ("a", vec![json("application/json")], Some(401)),
        ("b", vec![good.clone(), json("application/json")], Some(403)),
        ("a", vec![good.clone()], Some(415)),
        ("a", vec![good.clone(), json("text/plain")], Some(415)),
        (
            "a",
            vec![
                good.clone(),
                json("application/json"),
                (header::CONTENT_ENCODING, "gzip"),
            ],
            Some(415),
        ),
    ] {
        let admitted = api.admit(queue, &headers(&pairs));
        assert_eq!(
            admitted
                .as_ref()
                .err()
                .map(|refusal| refusal.status.as_u16()),
            status
        );
        if status.is_none() {
            assert_eq!(
                admitted.unwrap().as_str(),
                if queue == "a" { "a" } else { "q:ü" }
            );
        }
    }
}
