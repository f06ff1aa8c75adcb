//! TLS on the gateway's own socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream::Error;
use millstream::gateway::GatewaySettings;
use millstream::gateway::tls::TlsSettings;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::senders::{self, BODY};
use crate::support::{Inbox, PATIENCE, Place};

/// Certificates for `inbox.example`, signed by the authority in `ca.pem`. They protect nothing but these tests.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");

/// Puts certificate `name` into `dir`, where the settings that are returned look for it.
fn put(dir: &Path, name: &str) -> TlsSettings {
    let copy = |what: &str| {
        let to = dir.join(what);
        std::fs::copy(format!("{FIXTURES}/{name}.{what}"), &to).unwrap();
        to
    };
    TlsSettings {
        cert: copy("cert.pem"),
        key: copy("key.pem"),
    }
}

async fn connect(inbox: &Inbox) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(format!("{FIXTURES}/ca.pem")).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(inbox.address).await.unwrap();
    let name = ServerName::try_from("inbox.example").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.unwrap()
}

fn certificate(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// The beginning of the answer to a webhook.
async fn deliver(stream: &mut TlsStream<TcpStream>, id: &str) -> String {
    let request = senders::shopify(id, BODY).request();
    stream.write_all(&request).await.unwrap();
    let mut answer = vec![0; 1024];
    let read = timeout(PATIENCE, stream.read(&mut answer))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn webhooks_come_in_over_tls_and_a_new_certificate_is_taken_over_without_dropping_anybody() {
    let place = Place::new().await;
    let dir = tempfile::tempdir().unwrap();
    let tls = put(dir.path(), "one");
    let inbox = place.gateway_with(Vec::new(), |settings| settings.tls = Some(tls.clone()));
    let inbox = inbox.await;
    let mut first = connect(&inbox).await;
    assert!(deliver(&mut first, "d1").await.starts_with("HTTP/1.1 200"));

    put(dir.path(), "two");
    let mut settings = GatewaySettings::new(([127, 0, 0, 1], 0).into());
    settings.sources = senders::sources();
    settings.tls = Some(tls.clone());
    inbox.secrets.replace(&settings).unwrap();
    let mut second = connect(&inbox).await;
    assert_ne!(certificate(&first), certificate(&second));
    assert!(deliver(&mut second, "d2").await.starts_with("HTTP/1.1 200"));
    assert!(deliver(&mut first, "d3").await.starts_with("HTTP/1.1 200"));
    assert_eq!(place.stats().await.enqueued_total, 3);

    // One that is broken is refused, and the one at hand stays.
    std::fs::copy(format!("{FIXTURES}/one.key.pem"), &tls.key).unwrap();
    let refused = inbox.secrets.replace(&settings).unwrap_err();
    assert!(refused.to_string().contains("tls_key"), "{refused}");
    assert_eq!(certificate(&connect(&inbox).await), certificate(&second));
}

#[tokio::test]
async fn who_does_not_speak_tls_or_says_nothing_is_closed_and_stores_nothing() {
    let place = Place::new().await;
    let dir = tempfile::tempdir().unwrap();
    let tls = put(dir.path(), "one");
    let inbox = place.gateway_with(Vec::new(), |settings| {
        settings.tls = Some(tls);
        settings.header_timeout = Duration::from_millis(200);
    });
    let inbox = inbox.await;
    for begun in [
        senders::shopify("d1", BODY).request(),
        Vec::new(),
        vec![0x16, 3, 1],
    ] {
        let mut connection = inbox.connect().await;
        connection.try_send(&begun).await;
        let rest = connection.rest().await;
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
    place.assert_nothing_is_stored().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_refused_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let good = put(dir.path(), "one");
    let missing = dir.path().join("missing.pem");
    let two = format!("{FIXTURES}/two.key.pem").into();
    for (tls, name) in [
        (
            TlsSettings {
                cert: missing.clone(),
                ..good.clone()
            },
            "gateway.tls_cert",
        ),
        (
            TlsSettings {
                key: missing,
                ..good.clone()
            },
            "gateway.tls_key",
        ),
        (
            TlsSettings {
                cert: good.key.clone(),
                ..good.clone()
            },
            "gateway.tls_cert",
        ),
        (
            TlsSettings {
                key: good.cert.clone(),
                ..good.clone()
            },
            "gateway.tls_key",
        ),
        (
            TlsSettings {
                key: two,
                ..good.clone()
            },
            "gateway.tls_key",
        ),
    ] {
        let mut settings = GatewaySettings::default();
        settings.tls = Some(tls);
        match settings.validate() {
            Err(Error::Setting { name: refused, .. }) => assert_eq!(refused, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}
