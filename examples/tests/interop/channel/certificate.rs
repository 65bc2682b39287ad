//! One certificate that signs itself, for the servers of this process and for grpc-go's.

use std::sync::LazyLock;

use hither::tonic::{ClientTls, ServerTls};
use rcgen::{CertificateParams, KeyPair};

const NAME: &str = "testing.internal";

/// A certificate and its key in PEM.
static IDENTITY: LazyLock<(String, String)> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
});

pub(super) fn client_tls() -> ClientTls {
    ClientTls::new(IDENTITY.0.as_str()).with_server_name(NAME)
}

pub(super) fn server_tls() -> ServerTls {
    ServerTls::new(IDENTITY.0.as_str(), IDENTITY.1.as_str())
}

/// Writes certificate and key into `directory`, for a program.
pub(super) fn write(directory: &std::path::Path) -> [String; 2] {
    [("certificate.pem", &IDENTITY.0), ("key.pem", &IDENTITY.1)].map(|(name, pem)| {
        let file = directory.join(name);
        std::fs::write(&file, pem).unwrap();
        file.to_str().unwrap().to_owned()
    })
}
