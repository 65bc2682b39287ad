//! `mutual-tls`.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::process::Command;

#[test]
fn the_server_sees_the_clients_certificate_and_answers() {
    let output = Command::new(env!("CARGO_BIN_EXE_mutual-tls")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("a client with 1 certificate, from Some(127.0.0.1:"), "{text}");
    assert!(text.ends_with("Serving\n"), "{text}");
}
