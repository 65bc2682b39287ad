//! Input that cannot be used gets one clear line, and exit code 2.

use std::net::TcpListener;

use crate::program::Program;

const SERVER: &str = env!("CARGO_BIN_EXE_discover-server");
const CLIENT: &str = env!("CARGO_BIN_EXE_discover-client");
const WATCH: &str = env!("CARGO_BIN_EXE_watch");

#[tokio::test]
async fn bad_input_is_named_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let cases: &[(&str, &[&str], &str)] = &[
        (SERVER, &["--host", "no host"], "no host"),
        (SERVER, &["--host", ""], "host"),
        (SERVER, &["--host", "0.0.0.0"], "--host 0.0.0.0"),
        (SERVER, &["--host", "192.0.2.1", "-p", "0"], "192.0.2.1"),
        (SERVER, &["--advertise", "nowhere"], "nowhere"),
        (SERVER, &["-p", "65536"], "65536"),
        (SERVER, &["-p", "http"], "http"),
        (SERVER, &["-p", &taken], &taken),
        (SERVER, &["--service", "a//b"], "a//b"),
        (SERVER, &["--service", ""], "service"),
        (SERVER, &["--service", "a\nb"], "service"),
        (SERVER, &["--registry", "consul://127.0.0.1:8500"], "consul"),
        (SERVER, &["--registry", "127.0.0.1:2379"], "127.0.0.1:2379"),
        (SERVER, &["--registry", "etcd://"], "etcd://"),
        (SERVER, &["--registry", "etcd://127.0.0.1:port"], "127.0.0.1:port"),
        (SERVER, &["--ttl", "10"], "10"),
        (SERVER, &["--ttl", "10 parsecs"], "parsecs"),
        (SERVER, &["-p", "0", "--ttl", "0s"], "TTL"),
        (SERVER, &["--drain", "-1s"], "-1s"),
        (SERVER, &["--meta", "novalue"], "novalue"),
        (SERVER, &["--nonsense"], "--nonsense"),
        (SERVER, &["nonsense"], "nonsense"),
        (CLIENT, &["--service", "/a"], "/a"),
        (CLIENT, &["--registry", "redis://h:1"], "redis"),
        (CLIENT, &["--count", "-1"], "-1"),
        (CLIENT, &["--count", "many"], "many"),
        (CLIENT, &["--interval", "soon"], "soon"),
        (CLIENT, &["--timeout", "1x"], "1x"),
        (WATCH, &["--registry", "etcd://h"], "etcd://h"),
        (WATCH, &["--service", "a/"], "a/"),
    ];
    for (program, arguments, named) in cases {
        let mut program = Program::start(program, arguments);
        let code = program.end().await.code();
        let (said, complaint) = (program.stdout.all(), program.stderr.all());
        assert_eq!(code, Some(2), "{arguments:?}: {complaint:?}");
        assert_eq!(said, [""; 0], "{arguments:?}");
        assert!(complaint.len() == 1 && complaint[0].starts_with("error: "), "{arguments:?}: {complaint:#?}");
        assert!(complaint[0].contains(named), "{arguments:?}: {complaint:?}");
    }
}

#[tokio::test]
async fn help_tells_the_options_and_their_defaults() {
    let place =
        ["--registry <URL>", "etcd://127.0.0.1:2379", "--service <NAME>", "grpc-demo/grpc/discover-demo"];
    let server = [
        "-p, --port <PORT>",
        "[default: 8000]",
        "--host <HOST>",
        "[default: 127.0.0.1]",
        "--advertise <ADDRESS>",
        "--ttl <DURATION>",
        "[default: 10s]",
        "--propagation-delay <DURATION>",
        "[alias: --drain]",
        "[default: 2s]",
        "--version <VERSION>",
        "--zone <ZONE>",
        "--meta <K=V>",
    ];
    let client = ["--count <N>", "--interval <DURATION>", "--timeout <DURATION>", "[default: 5s]"];
    for (program, options) in [(SERVER, &server[..]), (CLIENT, &client[..]), (WATCH, &[])] {
        let mut program = Program::start(program, &["--help"]);
        assert_eq!(program.end().await.code(), Some(0));
        let text = program.stdout.all().join("\n");
        for option in place.iter().chain(options) {
            assert!(text.contains(option), "{option} is not in {text}");
        }
        assert_eq!(program.stderr.all(), [""; 0]);
    }
}

#[tokio::test]
async fn a_password_in_the_registry_url_is_not_shown() {
    let mut client =
        Program::start(CLIENT, &["--registry", "etcd://me:hunter2@127.0.0.1:1/some", "--timeout", "300ms"]);
    assert_eq!(client.end().await.code(), Some(2));
    let said = client.stderr.all().join("\n");
    assert!(said.contains("etcd://127.0.0.1:1/some") && !said.contains("hunter2"), "{said}");
}
