//! The providers' own libraries as senders: what they sign is taken and no changed byte of it, and what we sign they verify.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use millstream::gateway::signature::Scheme;
use millstream::gateway::source::{SchemeSettings, SourceSettings};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::support::senders::{Delivery, unix_seconds};
use crate::support::{Place, QUEUE};

/// The folder with the libraries' versions, and the program that calls them.
const SENDERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/senders");

/// One scheme as its provider's library and we write it.
struct Sender {
    scheme: &'static str,
    secret: String,
    body: Vec<u8>,
    /// What the provider sends beside the signature.
    headers: &'static [(&'static str, &'static str)],
}

/// A body as the provider sends it.
fn example(path: &str) -> Vec<u8> {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/webhooks");
    fs::read(Path::new(fixtures).join(path)).unwrap()
}

fn senders() -> Vec<Sender> {
    let of = |scheme, secret: &str, body, headers| Sender {
        scheme,
        secret: secret.to_owned(),
        body,
        headers,
    };
    let stripe = br#"{"id":"evt_1","object":"event","type":"invoice.paid","note":"Zo\u00eb"}"#;
    let slack = br#"{"type":"event_callback","event_id":"Ev1","event":{"type":"app_mention"}}"#;
    let standard = format!("whsec_{}", BASE64.encode([7; 24]));
    vec![
        of(
            "github",
            "It's a Secret to Everybody",
            example("github/push.json"),
            &[
                ("X-GitHub-Event", "push"),
                ("X-GitHub-Delivery", "72d3162e"),
            ],
        ),
        of(
            "shopify",
            "shpss_5ecret",
            example("shopify/orders_create.json"),
            &[
                ("X-Shopify-Topic", "orders/create"),
                ("X-Shopify-Shop-Domain", "mill.myshopify.com"),
                ("X-Shopify-API-Version", "2026-07"),
                ("X-Shopify-Webhook-Id", "b54557e4"),
            ],
        ),
        of("stripe", "whsec_5ecret", stripe.to_vec(), &[]),
        of(
            "slack",
            "8f742231b10e8888abcd99yyyzzz85a5",
            slack.to_vec(),
            &[],
        ),
        of(
            "standard",
            &standard,
            example("standard/invoice_paid.json"),
            &[],
        ),
    ]
}

impl Sender {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// As a request to the source that is named after the scheme, with `signed` for headers.
    fn delivery(&self, signed: &[(String, String)]) -> Delivery {
        let own = self.headers.iter();
        let own = own.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Delivery {
            source: self.scheme,
            headers: own.chain(signed.iter().cloned()).collect(),
            body: self.body.clone(),
        }
    }

    /// The headers that our own code signs with.
    fn signed_by_us(&self, id: &str, timestamp: i64) -> Vec<(String, String)> {
        let settings = SchemeSettings::named(self.scheme).unwrap();
        let scheme = Scheme::new("sources.x", &settings).unwrap();
        let secret = scheme.secret("sources.x.secrets[0]", &self.secret).unwrap();
        let signature = scheme.sign(&secret, id, timestamp, &self.body);
        let mut headers = vec![(scheme.signature_header().to_owned(), signature)];
        let time = timestamp.to_string();
        match self.scheme {
            "slack" => headers.push(("x-slack-request-timestamp".to_owned(), time)),
            "standard" => {
                headers.push(("webhook-id".to_owned(), id.to_owned()));
                headers.push(("webhook-timestamp".to_owned(), time));
            }
            _ => {}
        }
        headers
    }
}

/// Where the libraries are installed; `None` where there is no Node, or no npm to fetch them with.
fn installed() -> Option<PathBuf> {
    for program in ["node", "npm"] {
        let version = Command::new(program).arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            eprintln!(
                "SKIPPED: the providers' libraries need {program}, which is not installed here"
            );
            return None;
        }
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("senders");
    fs::create_dir_all(&cache).unwrap();
    // One test or process installs, the others wait for it.
    let lock = File::create(cache.join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let wanted = fs::read(Path::new(SENDERS).join("package-lock.json")).unwrap();
    let done = cache.join("installed");
    if fs::read(&done).ok().as_ref() != Some(&wanted) {
        for file in ["package.json", "package-lock.json", ".npmrc"] {
            fs::copy(Path::new(SENDERS).join(file), cache.join(file)).unwrap();
        }
        let npm = Command::new("npm")
            .args([
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--prefer-offline",
            ])
            .current_dir(&cache)
            .output()
            .unwrap();
        assert!(
            npm.status.success(),
            "npm ci: {}",
            String::from_utf8_lossy(&npm.stderr)
        );
        fs::write(&done, &wanted).unwrap();
    }
    fs::copy(Path::new(SENDERS).join("sdk.mjs"), cache.join("sdk.mjs")).unwrap();
    Some(cache)
}

/// Has the libraries do `tasks`; see `senders/sdk.mjs`.
fn ask(cache: &Path, tasks: &[Value]) -> Vec<Value> {
    let mut node = Command::new("node")
        .arg("sdk.mjs")
        .current_dir(cache)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = node.stdin.take().unwrap();
    stdin
        .write_all(&serde_json::to_vec(tasks).unwrap())
        .unwrap();
    drop(stdin);
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "node failed; its words are above");
    let results: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results.len(), tasks.len());
    results
}

#[tokio::test]
async fn what_the_providers_libraries_sign_is_taken_and_no_changed_byte_of_it() {
    let Some(cache) = installed() else { return };
    let senders = senders();
    let timestamp = unix_seconds();
    let tasks: Vec<Value> = senders
        .iter()
        .map(|sender| {
            json!({
                "do": "sign", "scheme": sender.scheme, "secret": sender.secret, "id": "msg_1",
                "timestamp": timestamp, "body": sender.text(),
            })
        })
        .collect();
    let place = Place::new().await;
    let sources = senders.iter().map(|sender| {
        let scheme = SchemeSettings::named(sender.scheme).unwrap();
        let settings = SourceSettings::new(scheme, [sender.secret.as_str()], QUEUE);
        (sender.scheme.to_owned(), settings)
    });
    let sources = sources.collect();
    let inbox = place
        .gateway_with(Vec::new(), |settings| settings.sources = sources)
        .await;

    let mut taken = Vec::new();
    for (sender, signed) in senders.iter().zip(ask(&cache, &tasks)) {
        let Value::Object(headers) = signed else {
            continue;
        };
        let headers: Vec<_> = headers
            .into_iter()
            .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
            .collect();
        let delivery = sender.delivery(&headers);
        for at in [0, delivery.body.len() / 2, delivery.body.len() - 1] {
            let mut changed = delivery.clone();
            changed.body[at] ^= 1;
            let refused = inbox.deliver(&changed).await;
            assert_eq!(
                refused.status, 401,
                "{} with byte {at} changed",
                sender.scheme
            );
        }
        let mut longer = delivery.clone();
        longer.body.push(b' ');
        assert_eq!(
            inbox.deliver(&longer).await.status,
            401,
            "{}",
            sender.scheme
        );

        let (id, duplicate) = inbox.deliver(&delivery).await.stored();
        assert!(!duplicate);
        let job = place.job(&id).await;
        assert_eq!(job.payload.as_deref(), Some(sender.body.as_slice()));
        taken.push(sender.scheme);
    }
    // Slack's library does not sign.
    assert_eq!(taken, ["github", "shopify", "stripe", "standard"]);
    assert_eq!(place.stats().await.enqueued_total, 4);
}

#[tokio::test]
async fn what_we_sign_the_providers_libraries_verify_and_no_changed_byte_of_it() {
    let Some(cache) = installed() else { return };
    let senders = senders();
    let now = i64::try_from(unix_seconds()).unwrap();
    let task = |sender: &Sender, body: &str| {
        let signed = sender.delivery(&sender.signed_by_us("msg_1", now)).headers;
        let headers = signed
            .into_iter()
            .map(|(name, value)| (name.to_lowercase(), value));
        let headers: serde_json::Map<_, _> = headers
            .map(|(name, value)| (name, Value::String(value)))
            .collect();
        json!({
            "do": "verify", "scheme": sender.scheme, "secret": sender.secret,
            "headers": headers, "body": body,
        })
    };
    let tasks: Vec<Value> = senders
        .iter()
        .flat_map(|sender| {
            let changed = format!("{} ", sender.text());
            [task(sender, sender.text()), task(sender, &changed)]
        })
        .collect();

    let verified = ask(&cache, &tasks);

    for (sender, verdicts) in senders.iter().zip(verified.chunks(2)) {
        assert_eq!(verdicts, [json!(true), json!(false)], "{}", sender.scheme);
    }
}
