//! What holds for every key and value, drawn at random.

use hither_core::{Address, Instance, InstanceId, InstanceState};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::{Format, Reading, address_text, encode};

proptest! {
    #[test]
    fn what_is_written_is_read_again(instance in instance()) {
        let written = encode(&instance);
        let read = Format::new("", false).read(instance.id().as_str().as_bytes(), written.as_bytes());
        prop_assert_eq!(read, Reading::Instance(Box::new(instance)));
    }

    #[test]
    fn what_is_written_is_an_instance_of_its_service(instance in instance(), service in "[a-z/]{1,3}[a-z]") {
        let format = Format::new("prefix", false);
        if let Ok(service) = service.parse() {
            let key = format.key(&service, instance.id());
            prop_assert_eq!(format.service_of(key.as_bytes(), encode(&instance).as_bytes()), Some(service));
        }
    }

    #[test]
    fn no_bytes_panic(suffix in vec(any::<u8>(), 0..16), value in vec(any::<u8>(), 0..64), nested: bool) {
        look_at(&suffix, &value, nested)?;
    }

    #[test]
    fn nothing_near_a_record_panics(
        suffix in "[a-z:/]{0,8}",
        value in near_a_record(),
        cut in 0..200_usize,
        noise in option::of((0..200_usize, any::<u8>())),
        nested: bool,
    ) {
        let mut value = value.into_bytes();
        if let Some((at, byte)) = noise
            && let Some(place) = value.get_mut(at)
        {
            *place = byte;
        }
        look_at(suffix.as_bytes(), &value, nested)?;
        value.truncate(cut);
        look_at(suffix.as_bytes(), &value, nested)?;
    }

    #[test]
    fn json_of_any_depth_does_not_panic(depth in 0..2000_usize, object: bool) {
        let (open, close) = if object { (r#"{"a":"#, "}") } else { ("[", "]") };
        for field in ["Metadata", "Hither", "Other"] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let value = format!(r#"{{"Addr":"h:1","{field}":{nested}}}"#);
            look_at(b"a", value.as_bytes(), false)?;
        }
    }
}

/// Reads, and checks what holds of whatever is read.
fn look_at(suffix: &[u8], value: &[u8], nested: bool) -> Result<(), TestCaseError> {
    let format = Format::new("", nested);
    let _ = format.service_of(suffix, value);
    let _ = address_text(value);
    if let Reading::Instance(instance) = format.read(suffix, value) {
        prop_assert_eq!(instance.id().as_str().as_bytes(), suffix);
        // What we would write of it, we read as the same: nothing drifts from one rewriting to the next.
        let again = format.read(suffix, encode(&instance).as_bytes());
        if !nested && suffix.contains(&b'/') {
            return Ok(());
        }
        prop_assert_eq!(again, Reading::Instance(instance));
    }
    Ok(())
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        any::<std::net::SocketAddrV4>().prop_map(|address| std::net::SocketAddr::V4(address).into()),
        (any::<std::net::Ipv6Addr>(), any::<u16>()).prop_map(|(ip, port)| std::net::SocketAddr::new(
            ip.into(),
            port
        )
        .into()),
        ("[a-z0-9.<>&例-]{1,12}", any::<u16>())
            .prop_filter_map("a host", |(host, port)| Address::host(host, port).ok()),
        "/[ -~]{1,12}".prop_filter_map("a path", |path| format!("unix://{path}").parse().ok()),
    ]
}

fn instance() -> impl Strategy<Value = Instance> {
    let id = option::of("[ -.0-~例]{1,12}".prop_filter_map("an id", |id| InstanceId::new(id).ok()));
    let says = (any::<u32>(), option::of(any::<String>()), option::of(any::<String>()), any::<bool>());
    let metadata = btree_map(any::<String>(), any::<String>(), 0..4);
    (vec(address(), 1..4), id, says, metadata).prop_map(|(addresses, id, says, metadata)| {
        let mut addresses = addresses.into_iter();
        let mut instance = Instance::new(addresses.next().unwrap());
        instance = addresses.fold(instance, Instance::with_address);
        if let Some(id) = id {
            instance = instance.with_id(id);
        }
        let (weight, zone, version, drains) = says;
        instance = instance.with_weight(weight);
        if let Some(zone) = zone {
            instance = instance.with_zone(zone);
        }
        if let Some(version) = version {
            instance = instance.with_version(version);
        }
        if drains {
            instance = instance.with_state(InstanceState::Draining);
        }
        metadata.into_iter().fold(instance, |instance, (key, value)| instance.with_metadata(key, value))
    })
}

/// JSON with the fields of a record and ours, of types right and wrong.
fn near_a_record() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        "-?[0-9]{1,20}(\\.[0-9]{1,3})?(e[0-9]{1,4})?",
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        r#""[a-c:/\[\]0-9]{0,8}""#,
        r#""(\\\\ud[89ac-f]00|\\\\u[0-9a-f]{1,4}|[a-c]){0,3}""#,
        Just(r#"["a:1",2,null]"#.to_owned()),
        Just(r#"{"weight":4294967296,"zone":"z","state":"draining","addresses":["b:2","c"],"metadata":{"a":1}}"#.to_owned()),
    ];
    let field = prop_oneof![
        Just("Op"),
        Just("op"),
        Just("Addr"),
        Just("addr"),
        Just("ADDR"),
        Just("Metadata"),
        Just("metadata"),
        Just("Hither"),
        Just("id"),
        Just("nodes"),
        Just("endpoints"),
    ];
    vec((field, value), 0..6).prop_map(|fields| {
        let fields: Vec<_> = fields.iter().map(|(field, value)| format!(r#""{field}":{value}"#)).collect();
        format!("{{{}}}", fields.join(","))
    })
}
