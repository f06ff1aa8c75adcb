use super::*;
use hyper::header::HeaderValue;

const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const SIGNED_AT: i64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

fn headers<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// A Standard Webhooks request with the vector's body, verified five seconds after it was signed.
fn standard_passes(secrets: &[&str], id: &str, timestamp: &str, signature: &str) -> bool {
    standard_passes_at(SIGNED_AT + 5, secrets, id, timestamp, signature)
}

fn standard_passes_at(
    now: i64,
    secrets: &[&str],
    id: &str,
    timestamp: &str,
    signature: &str,
) -> bool {
    let scheme = Scheme::standard();
    let secrets: Vec<Secret> = secrets
        .iter()
        .map(|text| scheme.secret("s", text).unwrap())
        .collect();
    let headers = headers([
        ("webhook-id", id),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", signature),
    ]);
    scheme.verify(&secrets, &headers, BODY, now)
}

#[test]
fn standard_webhooks_vectors_are_signed_and_verified() {
    let second = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    for (secret, id, timestamp, body, signature) in [
        (STANDARD_SECRET, ID, SIGNED_AT, BODY, SIGNATURE),
        (
            second,
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            br#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (
            STANDARD_SECRET,
            ID,
            SIGNED_AT,
            b"\xff\xfe\x00raw",
            "v1,NeqorKprkJF+75MlpsvpYo3jcKmm+kkucypDpY5YpUc=",
        ),
    ] {
        let scheme = Scheme::standard();
        let secret = Secret::standard("s", secret).unwrap();
        assert_eq!(sign_standard(&secret, id, timestamp, body), signature);
        let headers = headers([
            ("webhook-id", id),
            ("webhook-timestamp", &timestamp.to_string()),
            ("webhook-signature", signature),
        ]);
        assert!(scheme.verify(&[secret], &headers, body, timestamp));
    }
}

#[test]
fn the_github_vector_is_signed_and_verified_in_either_case() {
    let scheme = Scheme::github();
    let secret = scheme.secret("s", "It's a Secret to Everybody").unwrap();
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(scheme.sign(&secret, "", 0, b"Hello, World!"), signature);
    let upper = signature.to_uppercase().replace("SHA256", "sha256");
    for value in [signature, &upper] {
        let headers = headers([("x-hub-signature-256", value)]);
        assert!(scheme.verify(std::slice::from_ref(&secret), &headers, b"Hello, World!", 0));
    }
}

/// The example of Slack's documentation: secret, time, body, signature.
const SLACK_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const SLACK_SIGNED_AT: i64 = 1_531_420_618;
const SLACK_BODY: &[u8] = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
const SLACK_SIGNATURE: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";

#[test]
fn the_slack_vector_is_signed_and_verified() {
    let scheme = Scheme::slack();
    let secret = scheme.secret("s", SLACK_SECRET).unwrap();
    let signature = scheme.sign(&secret, "", SLACK_SIGNED_AT, SLACK_BODY);
    assert_eq!(signature, SLACK_SIGNATURE);
    let headers = headers([
        ("x-slack-signature", SLACK_SIGNATURE),
        ("x-slack-request-timestamp", &SLACK_SIGNED_AT.to_string()),
    ]);
    let secrets = [secret];
    for (off, passes) in [(-301, false), (-300, true), (300, true), (301, false)] {
        let now = SLACK_SIGNED_AT + off;
        assert_eq!(
            scheme.verify(&secrets, &headers, SLACK_BODY, now),
            passes,
            "{off}"
        );
    }
}

/// What Stripe's own library (stripe 23.1.0) writes for this secret, time and body.
const STRIPE_SIGNATURE: &str =
    "t=1492774577,v1=4d38cd5139c7f60e624bf8299775d217793a8e4af46b24f70e9099b0eafff76c";
const STRIPE_BODY: &[u8] = br#"{"id":"evt_1","object":"event","type":"invoice.paid"}"#;

#[test]
fn a_stripe_header_passes_with_one_time_and_any_v1_signature() {
    let scheme = Scheme::stripe();
    let secrets = [scheme.secret("s", "whsec_test_secret").unwrap()];
    let signature = scheme.sign(&secrets[0], "", 1_492_774_577, STRIPE_BODY);
    assert_eq!(signature, STRIPE_SIGNATURE);
    let (time, tag) = STRIPE_SIGNATURE.split_once(',').unwrap();
    let wrong = format!("v1={}", "0".repeat(64));
    let fake = tag.replace("v1=", "v0=");
    for (value, passes) in [
        (STRIPE_SIGNATURE.to_owned(), true),
        (format!("{time},{wrong},{tag}"), true),
        (format!("{time}, {tag}, {fake}"), true),
        (format!("{tag},{time}"), true),
        (format!("{time},{fake}"), false),
        (format!("{time},{wrong}"), false),
        (tag.to_owned(), false),
        (time.to_owned(), false),
        (format!("t=1492774578,{tag}"), false),
        (format!("t=1492774577,{time},{tag}"), false),
        (format!("t=,{tag}"), false),
        (format!("t=99999999999999999999,{tag}"), false),
        (format!("{time} {tag}"), false),
    ] {
        let headers = headers([("stripe-signature", value.as_str())]);
        let verified = scheme.verify(&secrets, &headers, STRIPE_BODY, 1_492_774_577 + 5);
        assert_eq!(verified, passes, "{value}");
    }
    let headers = headers([("stripe-signature", STRIPE_SIGNATURE)]);
    for (off, passes) in [(-301, false), (-300, true), (300, true), (301, false)] {
        let now = 1_492_774_577 + off;
        assert_eq!(
            scheme.verify(&secrets, &headers, STRIPE_BODY, now),
            passes,
            "{off}"
        );
    }
}

#[test]
fn sha1_is_there_for_who_asks_for_it() {
    // RFC 2202, test case 2.
    let settings = HmacSettings {
        algorithm: Algorithm::Sha1,
        ..HmacSettings::new("x-sig")
    };
    let scheme = Scheme::hmac("sources.x", &settings).unwrap();
    let secret = scheme.secret("s", "Jefe").unwrap();
    let body = b"what do ya want for nothing?";
    let signature = scheme.sign(&secret, "", 0, body);
    assert_eq!(signature, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
    let headers = headers([("x-sig", signature.as_str())]);
    assert!(scheme.verify(&[secret], &headers, body, 0));
    let of_the_default = Scheme::hmac("sources.x", &HmacSettings::new("x-sig")).unwrap();
    let secret = of_the_default.secret("s", "Jefe").unwrap();
    assert!(!of_the_default.verify(&[secret], &headers, body, 0));
}

#[test]
fn every_scheme_verifies_what_it_signs_and_no_changed_byte() {
    let hmac = |settings: HmacSettings| Scheme::hmac("sources.x", &settings).unwrap();
    let stamped = HmacSettings {
        prefix: "v0=".to_owned(),
        encoding: Encoding::Base64,
        algorithm: Algorithm::Sha512,
        id_header: Some("x-id".to_owned()),
        timestamp_header: Some("x-time".to_owned()),
        signed: Some("v0:{id}:{timestamp}:{body}".to_owned()),
        ..HmacSettings::new("X-Signature")
    };
    let listed = HmacSettings {
        prefix: "h1=".to_owned(),
        timestamp_prefix: Some("ts=".to_owned()),
        separator: Some(';'),
        signed: Some("{timestamp}:{body}".to_owned()),
        ..HmacSettings::new("Paddle-Signature")
    };
    for scheme in [
        Scheme::shopify(),
        Scheme::github(),
        Scheme::stripe(),
        Scheme::slack(),
        Scheme::standard(),
        hmac(HmacSettings::new("x-sig")),
        hmac(stamped),
        hmac(listed),
    ] {
        let secret = scheme.secret("s", "c2VjcmV0IHNlY3JldA==").unwrap();
        let sign = |body: &[u8]| scheme.sign(&secret, "id-1", 1_000, body);
        let passes = |signature: &str, body: &[u8]| {
            let mut headers = headers([(scheme.signature_header(), signature)]);
            if let Some(id) = scheme.id.header() {
                headers.insert(id, HeaderValue::from_static("id-1"));
            }
            if let Some((Stamp::Header(time), _)) = &scheme.timestamp {
                headers.insert(time, HeaderValue::from_static("1000"));
            }
            scheme.verify(std::slice::from_ref(&secret), &headers, body, 1_000)
        };
        let body = b"{\"a\": 1}\x00\xff";
        let signature = sign(body);
        assert!(passes(&signature, body), "{scheme:?}");
        assert!(passes(&sign(b""), b""), "{scheme:?}");
        for at in 0..body.len() {
            let mut changed = *body;
            changed[at] ^= 1;
            assert!(!passes(&signature, &changed), "body byte {at}, {scheme:?}");
        }
        // The last byte is base64 padding or covered by the one before it; every earlier one counts.
        for at in 0..signature.len() {
            let mut changed = signature.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(!passes(&changed, body), "signature byte {at}, {scheme:?}");
        }
        for odd in [
            "",
            " ",
            "sha256=",
            "v1,",
            "v1,=",
            &signature[..signature.len() - 2],
            &"a".repeat(9_000),
        ] {
            assert!(!passes(odd, body), "{odd:?}, {scheme:?}");
        }
    }
}

#[test]
fn any_secret_passes_while_rotating_and_a_removed_one_no_longer() {
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let at = SIGNED_AT.to_string();
    for (secrets, passes) in [
        (vec![STANDARD_SECRET], true),
        (vec![other, STANDARD_SECRET], true),
        (vec![STANDARD_SECRET, other], true),
        (vec![other], false),
        (vec![], false),
    ] {
        assert_eq!(standard_passes(&secrets, ID, &at, SIGNATURE), passes);
    }
    let bare = STANDARD_SECRET.strip_prefix("whsec_").unwrap();
    assert!(standard_passes(&[bare], ID, &at, SIGNATURE));
}

#[test]
fn any_v1_signature_of_the_list_passes_and_other_versions_do_not() {
    let at = SIGNED_AT.to_string();
    let wrong = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let tag = SIGNATURE.strip_prefix("v1,").unwrap();
    for (list, passes) in [
        (format!("{wrong} {SIGNATURE}"), true),
        (format!("v2,abc  v1a,xyz {SIGNATURE} {wrong}"), true),
        (format!("v2,{tag}"), false),
        (format!("v1a,{tag}"), false),
        (tag.to_owned(), false),
        (format!("{wrong} {wrong}"), false),
        (String::new(), false),
    ] {
        assert_eq!(
            standard_passes(&[STANDARD_SECRET], ID, &at, &list),
            passes,
            "{list}"
        );
    }
}

#[test]
fn the_tolerance_is_five_minutes_to_the_second_in_both_directions() {
    let at = SIGNED_AT.to_string();
    for (off, passes) in [
        (-301, false),
        (-300, true),
        (0, true),
        (300, true),
        (301, false),
    ] {
        let now = SIGNED_AT + off;
        assert_eq!(
            standard_passes_at(now, &[STANDARD_SECRET], ID, &at, SIGNATURE),
            passes,
            "{off}"
        );
    }
}

#[test]
fn odd_timestamps_fail_and_do_not_panic() {
    let min = i64::MIN.to_string();
    let max = i64::MAX.to_string();
    let beyond = format!("{max}0");
    for text in [
        min.as_str(),
        &max,
        &beyond,
        "",
        " ",
        "-",
        "0x10",
        "1e9",
        "1614265330.5",
        " 1614265330",
        "NaN",
        "１６１４",
    ] {
        for now in [i64::MIN, -1, 0, SIGNED_AT, i64::MAX] {
            let scheme = Scheme::standard();
            let secret = Secret::standard("s", STANDARD_SECRET).unwrap();
            let mut signed = secret.0.clone();
            for part in [ID.as_bytes(), b".", text.as_bytes(), b".", BODY] {
                signed.update(part);
            }
            let signature = signed.with_tag(|tag| format!("v1,{}", BASE64.encode(tag)));
            let headers = headers([
                ("webhook-id", ID),
                ("webhook-timestamp", text),
                ("webhook-signature", &signature),
            ]);
            // Rightly signed, so only the time decides: both ends of the range are recent when the clock stands there.
            let passes = seconds(text.as_bytes()).is_some_and(|at| at == now);
            assert_eq!(
                scheme.verify(&[secret], &headers, BODY, now),
                passes,
                "{text:?} at {now}"
            );
        }
    }
}

#[test]
fn a_header_that_comes_twice_or_not_at_all_fails() {
    let at = SIGNED_AT.to_string();
    let full = [
        ("webhook-id", ID),
        ("webhook-timestamp", at.as_str()),
        ("webhook-signature", SIGNATURE),
    ];
    let scheme = Scheme::standard();
    let secrets = [Secret::standard("s", STANDARD_SECRET).unwrap()];
    assert!(scheme.verify(&secrets, &headers(full), BODY, SIGNED_AT));
    for left_out in 0..3 {
        let mut fewer = headers(full);
        fewer.remove(full[left_out].0);
        assert!(!scheme.verify(&secrets, &fewer, BODY, SIGNED_AT));
        let twice = headers(full.into_iter().chain([full[left_out]]));
        assert!(!scheme.verify(&secrets, &twice, BODY, SIGNED_AT));
    }
}

#[test]
fn a_secret_that_cannot_be_one_is_refused_without_being_shown() {
    for (scheme, text, says) in [
        (Scheme::standard(), "", "empty"),
        (Scheme::standard(), "whsec_", "empty"),
        (Scheme::standard(), "whsec_!!!!", "base64"),
        (Scheme::standard(), "hunter2 hunter2", "base64"),
        (Scheme::standard(), SIGNATURE, "signature"),
        (Scheme::standard(), "whpk_hunter2", "asymmetric"),
        (Scheme::standard(), "v1,whsec_aHVudGVyMg==", "leave out"),
        (Scheme::standard(), "whsec_aHVud\u{0}GVyMg==", "control"),
        (Scheme::stripe(), "", "empty"),
        (Scheme::stripe(), "sk_live_hunter2", "API key"),
        (Scheme::stripe(), "v1=hunter2", "signature"),
        (Scheme::slack(), "xoxb-hunter2", "token"),
        (Scheme::slack(), " hunter2", "white space"),
        (Scheme::shopify(), "shpat_hunter2", "token"),
        (Scheme::github(), "ghp_hunter2", "token"),
        (Scheme::github(), "hunter2\nhunter3", "control"),
        (Scheme::github(), "", "empty"),
        (Scheme::github(), "hunter2\n", "white space"),
        (Scheme::github(), "sha256=hunter2", "signature"),
        (Scheme::shopify(), "", "empty"),
    ] {
        let error = scheme.secret("sources.shop.secrets[0]", text).unwrap_err();
        assert!(error.is_usage());
        let error = format!("{error} {error:?}");
        assert!(error.contains("sources.shop.secrets[0]"), "{error}");
        assert!(error.contains(says), "{text:?}: {error}");
        assert!(
            !error.contains("hunter2") && !error.contains("!!!!"),
            "{error}"
        );
        assert!(!error.contains(&SIGNATURE[3..]), "{error}");
    }
}

#[test]
fn a_secret_shows_nothing_of_itself() {
    let secret = Scheme::github().secret("s", "hunter2").unwrap();
    assert_eq!(format!("{secret:?}"), "Secret(hidden)");
}

#[test]
fn generic_settings_that_prove_nothing_are_refused_by_name() {
    let base = || HmacSettings::new("x-sig");
    let some = |text: &str| Some(text.to_owned());
    for (field, settings) in [
        ("header", HmacSettings::new("x sig")),
        ("header", HmacSettings::new("")),
        (
            "prefix",
            HmacSettings {
                prefix: "a\n".to_owned(),
                ..base()
            },
        ),
        (
            "id_header",
            HmacSettings {
                id_header: some("ü"),
                ..base()
            },
        ),
        (
            "separator",
            HmacSettings {
                separator: Some('='),
                ..base()
            },
        ),
        (
            "timestamp_prefix",
            HmacSettings {
                timestamp_prefix: some("t="),
                ..base()
            },
        ),
        (
            "timestamp_prefix",
            HmacSettings {
                timestamp_prefix: some("t="),
                timestamp_header: some("x-time"),
                separator: Some(','),
                ..base()
            },
        ),
        (
            "signed",
            HmacSettings {
                signed: some("{timestamp}"),
                ..base()
            },
        ),
        (
            "signed",
            HmacSettings {
                signed: some("{timestamp}.{body}"),
                ..base()
            },
        ),
        (
            "signed",
            HmacSettings {
                signed: some("{id}.{body}"),
                ..base()
            },
        ),
        (
            "signed",
            HmacSettings {
                signed: some("{body}"),
                timestamp_header: some("x-time"),
                ..base()
            },
        ),
        (
            "tolerance",
            HmacSettings {
                tolerance: Duration::ZERO,
                timestamp_header: some("x-time"),
                ..base()
            },
        ),
        (
            "tolerance",
            HmacSettings {
                tolerance: Duration::MAX,
                timestamp_header: some("x-time"),
                ..base()
            },
        ),
    ] {
        match Scheme::hmac("sources.x", &settings) {
            Err(Error::Setting { name, .. }) => assert_eq!(name, format!("sources.x.{field}")),
            other => panic!("{settings:?}: {other:?}"),
        }
    }
}
