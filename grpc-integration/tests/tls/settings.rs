//! Settings that cannot be used are errors when the channel or the server is made.

use hither_core::Registries;
use hither_tonic::{ClientTls, DiscoveryChannel, ErrorKind};

use crate::channel;
use crate::pki::{Ca, NAME};

/// The error of a channel with these settings.
fn invalid(tls: ClientTls) -> String {
    let error = channel(&["a.internal:1"], tls).connect_lazy().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    error.report()
}

#[tokio::test]
async fn settings_of_a_channel_that_cannot_be_used_are_one_clear_error() {
    let ca = Ca::new();
    let (client, other) = (ca.issue("client"), ca.issue("client"));
    let pem = || ClientTls::new(ca.pem());
    for (tls, expected) in [
        (ClientTls::new(""), "the CA has no certificate in it (expected PEM)"),
        (ClientTls::new(&*client.key), "the CA has no certificate in it (expected PEM)"),
        (ClientTls::from_file("/nowhere/ca.pem"), "the CA /nowhere/ca.pem cannot be read: entity not found"),
        (pem().with_identity("", &*client.key), "the client certificate has no certificate in it"),
        (pem().with_identity(&*client.certificate, ""), "the client key has no private key in it"),
        (
            pem().with_identity(&*client.certificate, &*other.key),
            "the client key does not belong to the client certificate",
        ),
        (
            pem().with_identity_files("/nowhere/a.pem", "/nowhere/b.pem"),
            "the client certificate /nowhere/a.pem cannot be read",
        ),
        (pem().with_server_name("a b"), "the server name \"a b\" is neither a DNS name nor an IP address"),
        (pem().with_server_name(""), "the server name \"\" is neither"),
        (pem().with_spiffe_id("greeter"), "\"greeter\" is no SPIFFE id"),
        (pem().with_spiffe_trust_domain("A.example"), "\"A.example\" is no trust domain"),
    ] {
        let error = invalid(tls);
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn an_address_of_a_target_without_a_name_is_an_error_before_anything_is_connected() {
    let ca = Ca::new();
    let build = |target: &str, tls: ClientTls| {
        DiscoveryChannel::for_target(target, &Registries::new()).unwrap().tls(tls).connect_lazy()
    };
    let error = build("static:///a.internal:1,10.0.0.1:2", ClientTls::new(ca.pem())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let expected = "10.0.0.1:2 is an IP address, and there is no name that the server's certificate must be valid for: \
                    set ClientTls::with_server_name, with_server_name_from_metadata or with_ip_addresses";
    assert_eq!(error.to_string(), expected);
    // The names are a setting, so an id beside them does not make up for one that is missing.
    let named =
        ClientTls::new(ca.pem()).with_spiffe_trust_domain("a.example").with_server_name_from_metadata("tls");
    let error = build("static:///10.0.0.1:2", named).unwrap_err();
    assert!(error.to_string().contains("10.0.0.1:2 is an IP address, and there is no name"), "{error}");
    build("static:///a.internal:1", ClientTls::new(ca.pem())).unwrap();
    build("static:///10.0.0.1:2", ClientTls::new(ca.pem()).with_server_name(NAME)).unwrap();
    build("static:///10.0.0.1:2", ClientTls::new(ca.pem()).with_ip_addresses()).unwrap();
    build("static:///10.0.0.1:2", ClientTls::new(ca.pem()).with_spiffe_trust_domain("a.example")).unwrap();
}

#[tokio::test]
async fn keys_are_not_printed() {
    let client = Ca::new().issue("client");
    let tls = ClientTls::new(Ca::new().pem()).with_identity(&*client.certificate, &*client.key);
    let line = client.key.lines().nth(1).unwrap();
    assert!(!format!("{tls:?}").contains(line));
    let broken = tls.with_identity(&*client.certificate, client.key.replace("-----END", "-----E"));
    assert!(!invalid(broken).contains(&line[..20]));
}
