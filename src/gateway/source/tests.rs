use super::*;
use hyper::header::HeaderValue;

const BODY: &[u8] = b"{\"id\":1}\xff";

fn shopify() -> SourceSettings {
    SourceSettings::new(SchemeSettings::Shopify, ["hunter2"], "webhooks")
}

fn field(text: &str) -> Option<Field> {
    Some(text.parse().unwrap())
}

fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_bytes(value).unwrap())
    });
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, value);
    }
    headers
}

fn job(settings: &SourceSettings, pairs: &[(&str, &[u8])]) -> Result<NewJob, Malformed> {
    let source = Source::new("shop", settings).unwrap();
    source.job(&headers(pairs), Bytes::from_static(BODY))
}

#[test]
fn a_shopify_request_becomes_a_job_with_its_topic_delivery_id_and_kept_headers() {
    let job = job(
        &shopify(),
        &[
            ("X-Shopify-Topic", b"orders/create"),
            ("X-Shopify-Webhook-Id", b"b54557e4"),
            ("X-Shopify-Shop-Domain", b"a.myshopify.com"),
            ("X-Shopify-Hmac-Sha256", b"c2lnbmF0dXJl"),
            ("Content-Type", b"application/json;\tcharset=utf-8"),
            ("Authorization", b"canary"),
            ("User-Agent", b"canary"),
        ],
    )
    .unwrap();
    assert_eq!(job.name(), "shop/orders/create");
    assert_eq!(job.payload(), BODY);
    assert_eq!(job.meta.codec, crate::job::codec::Codec::Raw);
    let unique = job.unique.unwrap();
    assert_eq!(unique.key, "shop/b54557e4");
    assert_eq!(unique.window(), Some(config::DEDUPE_DEFAULT));
    let kept: Vec<(&str, &str)> = job
        .meta
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        kept,
        [
            ("content-type", "application/json;\tcharset=utf-8"),
            ("x-shopify-shop-domain", "a.myshopify.com"),
            ("x-shopify-topic", "orders/create"),
            ("x-shopify-webhook-id", "b54557e4"),
        ]
    );
}

#[test]
fn a_request_without_topic_and_id_becomes_a_plain_job() {
    let job = job(&shopify(), &[]).unwrap();
    assert_eq!(job.name(), "shop");
    assert_eq!(job.unique, None);
    assert_eq!(job.meta.headers.len(), 0);
}

#[test]
fn the_id_header_and_the_kept_headers_follow_the_settings() {
    let settings = SourceSettings {
        id: field("header:X-Shopify-Event-Id"),
        keep_headers: Some(vec!["X-Note".to_owned()]),
        ..shopify()
    };
    let pairs: [(&str, &[u8]); 5] = [
        ("x-shopify-event-id", b"e1"),
        ("x-shopify-webhook-id", b"w1"),
        ("x-note", b"a"),
        ("x-note", b"\xff"),
        ("x-note", "ü".as_bytes()),
    ];
    let made = job(&settings, &pairs).unwrap();
    assert_eq!(made.unique.unwrap().key, "shop/e1");
    assert_eq!(made.meta.headers.len(), 1);
    assert_eq!(made.meta.headers["x-note"], "a, ü");

    let forgetful = SourceSettings {
        dedupe: Duration::ZERO,
        ..shopify()
    };
    assert_eq!(job(&forgetful, &pairs).unwrap().unique, None);
}

#[test]
fn group_topic_and_id_are_read_from_headers_or_from_the_body() {
    let body = br#"{"shop": {"id": 548380009}, "kind": "orders/paid", "delivery": "d-1"}"#;
    let settings = SourceSettings {
        group: field("json:/shop/id").unwrap(),
        topic: field("json:/kind"),
        id: field("json:/delivery"),
        ..shopify()
    };
    let source = Source::new("shop", &settings).unwrap();
    let made = source.job(
        &headers(&[("x-shopify-topic", b"other")]),
        Bytes::from_static(body),
    );
    let made = made.unwrap();
    assert_eq!(made.name(), "shop/orders/paid");
    assert_eq!(made.meta.group.as_deref(), Some("548380009"));
    assert_eq!(made.unique.unwrap().key, "shop/d-1");
    assert_eq!(made.payload, body.as_slice());

    // Where nothing of it is found, the job is made all the same.
    let bare = source
        .job(&HeaderMap::new(), Bytes::from_static(BODY))
        .unwrap();
    assert_eq!(
        (bare.name(), &bare.meta.group, &bare.unique),
        ("shop", &None, &None)
    );

    let by_header = SourceSettings {
        group: field("header:x-tenant").unwrap(),
        topic: field("none"),
        id: field("none"),
        ..shopify()
    };
    let pairs: [(&str, &[u8]); 3] = [
        ("x-tenant", b"a.myshopify.com"),
        ("x-shopify-topic", b"orders/create"),
        ("x-shopify-webhook-id", b"w1"),
    ];
    let made = job(&by_header, &pairs).unwrap();
    assert_eq!(made.meta.group.as_deref(), Some("a.myshopify.com"));
    assert_eq!((made.name(), &made.unique), ("shop", &None));
    assert_eq!(made.meta.headers["x-tenant"], "a.myshopify.com");

    let refused = job(&by_header, &[("x-tenant", b"")]).unwrap_err();
    assert_eq!(refused.to_string(), "x-tenant is empty");
    let refused = source.job(
        &HeaderMap::new(),
        Bytes::from_static(br#"{"shop": {"id": []}}"#),
    );
    assert_eq!(
        refused.unwrap_err().to_string(),
        "json:/shop/id is neither text nor a whole number"
    );
}

#[test]
fn stripe_and_slack_name_their_events_in_the_body() {
    for (scheme, body, name, id) in [
        (
            SchemeSettings::Stripe,
            r#"{"id": "evt_1", "type": "invoice.paid"}"#,
            "in/invoice.paid",
            Some("in/evt_1"),
        ),
        (
            SchemeSettings::Slack,
            r#"{"type": "event_callback", "event_id": "Ev1", "event": {"type": "app_mention"}}"#,
            "in/app_mention",
            Some("in/Ev1"),
        ),
        (SchemeSettings::Slack, "command=%2Fdeploy&text=", "in", None),
    ] {
        let settings = SourceSettings::new(scheme, ["s3cret"], "q");
        let source = Source::new("in", &settings).unwrap();
        let job = source.job(&HeaderMap::new(), body.into()).unwrap();
        assert_eq!(job.name(), name);
        assert_eq!(job.unique.map(|unique| unique.key).as_deref(), id);
    }
}

#[test]
fn only_slack_is_answered_a_challenge_and_only_a_whole_one() {
    let of = |scheme, body: &str| {
        let settings = SourceSettings::new(scheme, ["s3cret"], "q");
        let source = Source::new("in", &settings).unwrap();
        source.challenge(body.as_bytes())
    };
    let asked = r#"{"token": "t", "challenge": "3eZb\"r", "type": "url_verification"}"#;
    let answer = of(SchemeSettings::Slack, asked).unwrap();
    assert_eq!(answer, Some(("challenge", "3eZb\"r".to_owned())));
    assert_eq!(of(SchemeSettings::Stripe, asked), Ok(None));
    for other in [
        "",
        r#"{"type": "event_callback", "challenge": "x"}"#,
        r#"{"type": ["url_verification"], "challenge": "x"}"#,
        r#"{"event": {"type": "url_verification"}, "challenge": "x"}"#,
        r#"{"type": "url_verification"}"#,
    ] {
        assert_eq!(of(SchemeSettings::Slack, other), Ok(None), "{other}");
    }
    assert!(
        of(
            SchemeSettings::Slack,
            r#"{"type": "url_verification", "challenge": 1.5}"#
        )
        .is_err()
    );
}

#[test]
fn new_secrets_reach_every_clone_and_the_decoy_follows() {
    let source = Source::new("shop", &shopify()).unwrap();
    let (clone, decoy) = (source.clone(), source.decoy());
    let by = |text: &str| {
        let secret = source.scheme.secret("s", text).unwrap();
        let signature = source.scheme.sign(&secret, "", 0, BODY);
        headers(&[("x-shopify-hmac-sha256", signature.as_bytes())])
    };
    let new: Vec<String> = ["newer", "new"].map(str::to_owned).into();
    for bad in [
        vec![],
        vec![String::new()],
        vec!["new".to_owned(), " ".to_owned()],
    ] {
        assert!(source.read_secrets(&bad).is_err());
        assert!(clone.verify(&by("hunter2"), BODY, 0));
    }
    source.rekey(source.read_secrets(&new).unwrap());
    assert!(clone.verify(&by("new"), BODY, 0) && clone.verify(&by("newer"), BODY, 0));
    assert!(!clone.verify(&by("hunter2"), BODY, 0));
    assert!(!decoy.verify(&by("new"), BODY, 0));
    assert_eq!(decoy.secrets.load().strangers.len(), 2);
}

#[test]
fn a_topic_or_delivery_id_that_is_no_clean_text_is_refused() {
    let long = [b'a'; 257];
    for name in ["x-shopify-topic", "x-shopify-webhook-id"] {
        for (value, says) in [
            (&b""[..], "empty"),
            (b"a\tb", "control"),
            (b"a\xc2\x85", "control"),
            (b"\xff", "UTF-8"),
            (&long, "long"),
        ] {
            let refused = job(&shopify(), &[(name, value)]).unwrap_err();
            assert_eq!(refused.place, name);
            assert!(refused.reason.contains(says), "{refused:?}");
        }
        let refused = job(&shopify(), &[(name, b"a"), (name, b"b")]).unwrap_err();
        assert!(refused.reason.contains("more than once"), "{refused:?}");
        assert!(job(&shopify(), &[(name, &long[..256])]).is_ok());
    }
}

#[test]
fn the_longest_name_and_key_fit_a_job() {
    let source = Source::new(&"s".repeat(SOURCE_NAME_BYTES_MAX), &shopify()).unwrap();
    let (topic, id) = ([b't'; TOPIC_BYTES_MAX], [b'i'; DELIVERY_ID_BYTES_MAX]);
    let headers = headers(&[("x-shopify-topic", &topic), ("x-shopify-webhook-id", &id)]);
    let job = source.job(&headers, Bytes::new()).unwrap();
    job.check(0).unwrap();
}

#[test]
fn the_jobs_of_a_source_have_its_priority() {
    let usual = job(&shopify(), &[]).unwrap();
    assert_eq!(usual.meta.priority, Priority::Normal);
    let urgent = SourceSettings {
        priority: Priority::High,
        ..shopify()
    };
    assert_eq!(job(&urgent, &[]).unwrap().meta.priority, Priority::High);
}

#[test]
fn a_decoy_refuses_what_its_model_accepts() {
    let source = Source::new("shop", &shopify()).unwrap();
    let signature = source
        .scheme
        .sign(&source.secrets.load().genuine[0], "", 0, BODY);
    let headers = headers(&[("x-shopify-hmac-sha256", signature.as_bytes())]);
    assert!(source.verify(&headers, BODY, 0));
    assert!(!source.decoy().verify(&headers, BODY, 0));
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let standard = || {
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
        SourceSettings::new(SchemeSettings::Standard, secrets, "webhooks")
    };
    let keep = |text: &str| Some(vec![text.to_owned()]);
    let minute = Duration::from_secs(60);
    for (field, settings) in [
        (
            "secrets",
            SourceSettings {
                secrets: vec![],
                ..shopify()
            },
        ),
        (
            "secrets",
            SourceSettings {
                secrets: vec!["a".to_owned(); 17],
                ..shopify()
            },
        ),
        (
            "secrets[1]",
            SourceSettings {
                secrets: vec!["a".to_owned(), String::new()],
                ..shopify()
            },
        ),
        (
            "queue",
            SourceSettings {
                queue: "a{b".to_owned(),
                ..shopify()
            },
        ),
        (
            "dedupe",
            SourceSettings {
                dedupe: Duration::MAX,
                ..shopify()
            },
        ),
        (
            "dedupe",
            SourceSettings {
                dedupe: minute,
                ..standard()
            },
        ),
        (
            "id",
            SourceSettings {
                id: field("header:x-other"),
                ..standard()
            },
        ),
        (
            "keep_headers",
            SourceSettings {
                keep_headers: keep("Authorization"),
                ..shopify()
            },
        ),
        (
            "keep_headers",
            SourceSettings {
                keep_headers: keep("x-shopify-hmac-sha256"),
                ..shopify()
            },
        ),
        (
            "keep_headers",
            SourceSettings {
                keep_headers: keep(""),
                ..shopify()
            },
        ),
    ] {
        match Source::new("shop", &settings) {
            Err(Error::Setting { name, .. }) => {
                assert_eq!(name, format!("sources.shop.{field}"))
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    for name in ["", "a/b", "a b", "ü", &"a".repeat(65)] {
        assert!(
            Source::new(name, &shopify()).is_err(),
            "{name:?} was accepted"
        );
    }
    assert!(
        Source::new(
            "shop",
            &SourceSettings {
                dedupe: minute,
                ..shopify()
            }
        )
        .is_ok()
    );
}

#[test]
fn settings_show_no_secret() {
    let settings = shopify();
    let source = Source::new("shop", &settings).unwrap();
    let shown = format!("{settings:?} {source:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
