//! Invalid input ends a program with one clear line and exit code 2; options; logs.

use std::net::TcpListener;

use tokio::process::Command;

use crate::program::Program;

const SERVER: &str = env!("CARGO_BIN_EXE_discover-server");
const CLIENT: &str = env!("CARGO_BIN_EXE_discover-client");
const WATCH: &str = env!("CARGO_BIN_EXE_watch");

#[tokio::test]
async fn invalid_input_is_named_in_one_line() {
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
        (SERVER, &["--registry", "etcd://127.0.0.1:port"], "\"127.0.0.1…\" is not an etcd endpoint"),
        (SERVER, &["--registry", "etcd:///greeter"], "it is a target"),
        (CLIENT, &["--registry", "static://127.0.0.1"], "\"127.0.0.1\" has no port"),
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
        (WATCH, &["--registry", "etcd://h"], "\"h\" is not an etcd endpoint"),
        (WATCH, &["--service", "a/"], "a/"),
    ];
    for (program, arguments, named) in cases {
        let mut program = Program::start(program, arguments);
        let code = program.end().await.code();
        let (printed, complaint) = (program.stdout.all(), program.stderr.all());
        assert_eq!(code, Some(2), "{arguments:?}: {complaint:?}");
        assert_eq!(printed, [""; 0], "{arguments:?}");
        assert!(complaint.len() == 1 && complaint[0].starts_with("error: "), "{arguments:?}: {complaint:#?}");
        assert!(complaint[0].contains(named), "{arguments:?}: {complaint:?}");
    }
}

#[tokio::test]
async fn help_lists_the_options_and_their_defaults() {
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
        "--announce-delay <DURATION>",
        "[default: 500ms]",
        "--propagation-delay <DURATION>",
        "[alias: --drain]",
        "[default: 2s]",
        "--drain-timeout <DURATION>",
        "[default: 20s]",
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
async fn a_password_in_the_registry_url_is_not_printed() {
    let mut client =
        Program::start(CLIENT, &["--registry", "etcd://me:hunter2@127.0.0.1:1/some", "--timeout", "300ms"]);
    assert_eq!(client.end().await.code(), Some(2));
    let printed = client.stderr.all().join("\n");
    assert!(printed.contains("etcd://127.0.0.1:1/some") && !printed.contains("hunter2"), "{printed}");

    for url in ["etcd://me:hunter2@127.0.0.1", "etcd:///me:hunter2@127.0.0.1", "consul://me:hunter2@h"] {
        let mut client = Program::start(CLIENT, &["--registry", url]);
        assert_eq!(client.end().await.code(), Some(2));
        let printed = client.stderr.all().join("\n");
        assert!(printed.starts_with("error: ") && !printed.contains("hunter2"), "{printed}");
    }
}

/// Runs a client without a registry until it gives up, after more than one attempt: the first is a warning, later ones are
/// debug lines.
async fn stderr_with(rust_log: &str) -> Vec<String> {
    let mut command = Command::new(CLIENT);
    command.args(["--registry", "etcd://127.0.0.1:1", "--timeout", "2s"]).env("RUST_LOG", rust_log);
    let mut client = Program::spawn(command);
    assert_eq!(client.end().await.code(), Some(2));
    client.stderr.all()
}

#[tokio::test]
async fn rust_log_selects_by_target_and_level_and_a_pipe_gets_no_colours() {
    let logs = |lines: &[String], parts: [&str; 2]| {
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    };

    let lines = stderr_with("").await;
    assert_eq!(logs(&lines, [" hither_", "::"]), 0, "{lines:#?}");

    let lines = stderr_with("hither_core=debug").await;
    assert!(logs(&lines, [" WARN ", " hither_core::"]) > 0, "{lines:#?}");
    assert!(logs(&lines, ["DEBUG ", " hither_core::"]) > 0, "{lines:#?}");
    assert_eq!(logs(&lines, ["DEBUG ", ""]), logs(&lines, ["DEBUG ", " hither_core::"]), "{lines:#?}");
    assert_eq!(logs(&lines, ["\x1b", ""]), 0, "{lines:#?}");

    let lines = stderr_with("hither_core=loud").await;
    assert_eq!(logs(&lines, ["RUST_LOG is ignored: ", ""]), 1, "{lines:#?}");
}
