//! SPIFFE ids.

use hither_tonic::ClientTls;

use crate::peers::TonicServer;
use crate::pki::{Ca, NAME};
use crate::{call, refused};

const ID: &str = "spiffe://prod.example/greeter";

#[tokio::test]
async fn a_server_is_known_by_its_spiffe_id_and_needs_no_name() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue(ID), None).await;
    let tls = || ClientTls::new(ca.pem());
    for tls in [tls().with_spiffe_id(ID), tls().with_spiffe_trust_domain("prod.example")] {
        assert_eq!(call(&server.address(), tls).await.unwrap(), "tonic");
    }
    for tls in
        [tls().with_spiffe_id("spiffe://prod.example/other"), tls().with_spiffe_trust_domain("example")]
    {
        let text = refused(&server.address(), tls).await;
        let expected =
            "the server's certificate has the SPIFFE id spiffe://prod.example/greeter, which is not allowed";
        assert!(text.contains(expected), "{text}");
    }
    // A name that is set is checked as well.
    let text = refused(&server.address(), tls().with_spiffe_id(ID).with_server_name(NAME)).await;
    assert!(
        text.contains("is not valid for greeter.internal, only for spiffe://prod.example/greeter"),
        "{text}"
    );
}

#[tokio::test]
async fn a_certificate_without_one_id_of_a_known_authority_is_refused() {
    let (ca, stranger) = (Ca::new(), Ca::named("stranger"));
    for (issued, expected) in [
        (ca.issue(NAME), "has 0 URIs where a SPIFFE id is one"),
        (ca.with(&[ID, "spiffe://other.example/x"], |_| {}), "has 2 URIs where a SPIFFE id is one"),
        (ca.issue("https://prod.example/greeter"), "no SPIFFE id"),
        (stranger.issue(ID), "is of an unknown authority"),
        (ca.expired(ID), "days ago"),
    ] {
        let server = TonicServer::start(&issued, None).await;
        let text = refused(&server.address(), ClientTls::new(ca.pem()).with_spiffe_id(ID)).await;
        assert!(text.contains(expected), "{text}");
    }
}
