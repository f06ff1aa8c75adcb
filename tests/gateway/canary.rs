//! What must not be told is not told: secrets, bodies and queries are in no log, no answer and no record, at the noisiest level there is.

use serde_json::Value;

use crate::support::program::Program;
use crate::support::senders::{self, BODY};
use crate::support::{Place, eventually, http};

/// Part of everything that is secret here.
const CANARY: &str = "c4nary";

/// What a gateway is sent, and the answer.
async fn ask(program: &Program, request: &[u8]) -> http::Answer {
    let mut connection = program.connect().await;
    connection.send(request).await;
    connection.answer().await
}

#[tokio::test]
async fn no_secret_and_nothing_that_was_sent_is_told() {
    let place = Place::over_tcp().await;
    // The default user of such a Redis takes any password.
    let password = format!("{CANARY}-password");
    let url = place
        .redis
        .url()
        .replace("://", &format!("://default:{password}@"));
    let args = ["-vv", "--redis-url", &url];
    let program = Program::start(&place, "", &args, "");

    let body = format!("{{\"card\":\"{CANARY}-body\"}}");
    let baggage = |delivery: senders::Delivery| {
        delivery
            .with("Authorization", &format!("Bearer {CANARY}"))
            .with("Cookie", &format!("session={CANARY}"))
            .with("X-Api-Key", CANARY)
            .with("X-Forwarded-For", CANARY)
            .with("X-Request-Id", &format!("{CANARY}\t[31m"))
    };
    let good = baggage(senders::shopify("d1", body.as_bytes()));
    let forged = baggage(senders::shopify_by("wrong", "d1", body.as_bytes()));
    let query = |path: &str| format!("{path}?token={CANARY}&x=%0d%0a");
    let signature = |delivery: &senders::Delivery| {
        let mut headers = delivery.headers.iter();
        let found = headers.find(|(name, _)| name == "X-Shopify-Hmac-Sha256");
        found.unwrap().1.clone()
    };
    let shop = query("/webhooks/shop");
    let answers = [
        (
            200,
            http::request("POST", &shop, &good.headers, body.as_bytes()),
        ),
        (200, good.request()),
        (
            401,
            http::request("POST", &shop, &forged.headers, body.as_bytes()),
        ),
        (
            401,
            http::request(
                "POST",
                &query(&format!("/webhooks/{CANARY}")),
                &good.headers,
                BODY,
            ),
        ),
        (
            404,
            http::request("GET", &query(&format!("/{CANARY}")), &good.headers, b""),
        ),
        (405, http::request("PATCH", &shop, &good.headers, b"")),
        (
            404,
            format!("{CANARY} /{CANARY} HTTP/1.1\r\nhost: {CANARY}\r\n\r\n").into_bytes(),
        ),
        (
            400,
            format!("GET /health/live HTTP/1.1\r\nx {CANARY}: 1\r\n\r\n").into_bytes(),
        ),
    ];
    let mut told = String::new();
    for (status, request) in answers {
        let answer = ask(&program, &request).await;
        assert_eq!(
            answer.status,
            status,
            "{}",
            String::from_utf8_lossy(&request)
        );
        told += &format!("{answer:?}");
    }
    // A refusal of Redis is told in the log, in its own words.
    place.command("CONFIG SET maxmemory 1");
    let refused = baggage(senders::shopify("d2", body.as_bytes()));
    assert_eq!(ask(&program, &refused.request()).await.status, 503);
    place.command("CONFIG SET maxmemory 0");

    let job = place.only_job().await;
    told += &format!("{:?} {:?} {:?}", job.name, job.headers, job.errors);
    eventually("the last request is in the log", async || {
        lines(&program).len() == 8
    })
    .await;
    told += &program.log().join("\n");
    for secret in [
        CANARY,
        senders::SECRET,
        &signature(&good),
        &signature(&forged),
    ] {
        let found: Vec<&str> = told.lines().filter(|line| line.contains(secret)).collect();
        assert!(found.is_empty(), "{secret} in {found:#?}");
    }
    assert!(!told.contains('\u{1b}'));
}

/// The lines of the access log.
fn lines(program: &Program) -> Vec<Value> {
    let log = program.log().into_iter();
    log.map(|line| serde_json::from_str(&line).unwrap())
        .filter(|line: &Value| line["target"] == "millstream::access")
        .collect()
}

#[tokio::test]
async fn every_request_has_one_line_that_says_how_it_ended() {
    let place = Place::new().await;
    let program = Program::start(&place, "", &[], "");
    let delivery = senders::shopify("d1", BODY).with("X-Request-Id", "sender-1");
    let stored = program.deliver(&delivery).await;
    assert_eq!(stored.request_id(), "sender-1");
    let forged = program
        .deliver(&senders::shopify_by("wrong", "d2", BODY))
        .await;
    let probed = program.get("/health/live").await;
    let mut gone = program.connect().await;
    let request = delivery.request();
    gone.send(&request[..request.len() - 1]).await;
    // By its answer the gateway has read what was sent before.
    program.get("/nowhere").await;
    drop(gone);
    eventually("five lines", async || lines(&program).len() == 5).await;

    let lines = lines(&program);
    let of = |outcome: &str| {
        let mut found = lines.iter().filter(|line| line["outcome"] == outcome);
        let line = found
            .next()
            .unwrap_or_else(|| panic!("no {outcome} in {lines:#?}"));
        assert!(found.next().is_none(), "{lines:#?}");
        assert!(
            line["duration_us"].is_u64() && line["level"] == "INFO",
            "{line}"
        );
        line.clone()
    };
    let line = of("stored");
    let expected = serde_json::json!({
        "method": "POST", "route": "/webhooks/{source}", "source": "shop", "status": 200, "bytes": BODY.len(),
        "job": stored.stored().0, "request_id": "sender-1",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&line[field], value, "{field}");
    }
    for (outcome, status, id) in [
        ("unauthorized", 401, forged.request_id()),
        ("ok", 200, probed.request_id()),
    ] {
        let line = of(outcome);
        assert_eq!(
            (&line["status"], &line["request_id"]),
            (&status.into(), &id.into())
        );
        assert!(!id.is_empty());
    }
    assert_eq!(of("not_found")["route"], "other");
    // A body that breaks off is answered, though nobody is there.
    assert_eq!(of("bad_request")["bytes"], 0);
}
