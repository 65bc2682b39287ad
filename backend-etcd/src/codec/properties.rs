//! Properties of every key and value, drawn at random.

use etcd_client::proto::{PbEvent, PbKeyValue};
use futures_util::FutureExt;
use hither_core::{Address, AddressKind, Instance, InstanceId, InstanceState, ServiceName};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Codec, Reading};
use crate::watch::view::View;
use crate::{EtcdConfig, EtcdRegistry, Layout};

/// `PROPTEST_CASES` sets the number of cases. The seed is printed, and `PROPTEST_RNG_SEED` repeats it.
fn config() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => fastrand::u64(..),
    };
    println!("PROPTEST_RNG_SEED={seed}");
    ProptestConfig { rng_seed: RngSeed::Fixed(seed), ..config }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_written_is_read_again(instance in instance(), layout in layout()) {
        let codec = Codec::new(layout, "", false);
        let Ok(written) = codec.value(&svc(), &instance) else {
            let is_unix = |address: &Address| matches!(address.kind(), AddressKind::Unix(_));
            prop_assert!(instance.addresses().iter().any(is_unix) && layout != Layout::EtcdNaming);
            return Ok(());
        };
        let read = codec.read(&svc(), instance.id().as_str().as_bytes(), written.as_bytes());
        prop_assert_eq!(read, Reading::Instance(Box::new(as_kept(layout, &instance))));
        let address = codec.address_text(written.as_bytes()).unwrap();
        prop_assert_eq!(address, instance.address().to_string());
    }

    #[test]
    fn the_format_of_go_naming_keeps_every_field(
        instance in instance(),
        metadata in btree_map(prop_oneof![any::<String>(), "zone|state|version|weight|id|addresses"], any::<String>(), 0..6),
        nested in option::of("[a-z]{1,3}/[a-z]{1,3}"),
    ) {
        let mut instance = metadata.into_iter().fold(instance, |instance, (key, value)| instance.with_metadata(key, value));
        if let Some(nested) = nested {
            instance = instance.with_id(InstanceId::nested(nested).unwrap());
        }
        let codec = Codec::new(Layout::EtcdNaming, "", true);
        let written = codec.value(&svc(), &instance).unwrap();
        // The form of the vocabulary, whatever its fields are: none is lost on the way.
        let read = codec.read(&svc(), instance.id().as_str().as_bytes(), written.as_bytes());
        let Reading::Instance(read) = read else { return Err(TestCaseError::fail(format!("{read:?}"))) };
        prop_assert_eq!(serde_json::to_value(&*read).unwrap(), serde_json::to_value(&instance).unwrap());
        prop_assert_eq!(*read, instance);
    }

    #[test]
    fn what_is_written_is_an_instance_of_its_service(
        instance in instance(),
        service in "[a-z/]{1,3}[a-z]",
        layout in layout(),
    ) {
        let codec = Codec::new(layout, "prefix", false);
        if let Ok(service) = service.parse()
            && let Ok(value) = codec.value(&service, &instance)
        {
            let key = codec.key(&service, instance.id());
            prop_assert_eq!(codec.service_of(key.as_bytes(), value.as_bytes()), Some(service));
        }
    }

    #[test]
    fn no_bytes_panic(
        suffix in vec(any::<u8>(), 0..16),
        value in vec(any::<u8>(), 0..64),
        layout in layout(),
        nested: bool,
    ) {
        look_at(layout, &suffix, &value, nested)?;
    }

    #[test]
    fn nothing_near_a_record_panics(
        suffix in "[a-z:/]{0,8}",
        value in near_a_record(),
        cut in 0..200_usize,
        noise in option::of((0..200_usize, any::<u8>())),
        layout in layout(),
        nested: bool,
    ) {
        let mut value = value.into_bytes();
        if let Some((at, byte)) = noise
            && let Some(place) = value.get_mut(at)
        {
            *place = byte;
        }
        look_at(layout, suffix.as_bytes(), &value, nested)?;
        value.truncate(cut);
        look_at(layout, suffix.as_bytes(), &value, nested)?;
    }

    #[test]
    fn json_of_any_depth_does_not_panic(depth in 0..2000_usize, object: bool, layout in layout()) {
        let (open, close) = if object { (r#"{"a":"#, "}") } else { ("[", "]") };
        for field in ["Metadata", "Hither", "Other"] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let value = format!(r#"{{"Addr":"h:1","{field}":{nested}}}"#);
            look_at(layout, b"a", value.as_bytes(), false)?;
        }
    }

    #[test]
    fn other_records_do_not_remove_a_good_one(
        events in vec((vec(any::<u8>(), 0..6), near_a_record(), 0..3_i32, 1..40_i64), 0..12),
        layout in layout(),
    ) {
        let config = EtcdConfig::new(["h:1"]).with_layout(layout);
        let context = EtcdRegistry::connect(config).unwrap().context;
        let mut view = View::new(svc());
        let good = context.codec.value(&svc(), &Instance::new("10.0.0.1:80".parse().unwrap())).unwrap();
        let kv = |suffix: &[u8], value: &[u8], mod_revision| PbKeyValue {
            key: [b"svc/", suffix].concat(),
            value: value.to_vec(),
            mod_revision,
            ..PbKeyValue::default()
        };
        view.put(&context, b"10.0.0.1:80", &kv(b"10.0.0.1:80", good.as_bytes(), 1));
        for (suffix, value, r#type, revision) in events {
            let event = PbEvent { r#type, kv: Some(kv(&suffix, value.as_bytes(), revision)), prev_kv: None };
            prop_assert!(view.apply(&context, b"svc/", &[event]).now_or_never().is_some());
        }
        let snapshot = view.snapshot();
        prop_assert!(snapshot.get(&"10.0.0.1:80".parse().unwrap()).is_some(), "{:?}", snapshot);
    }
}

fn svc() -> ServiceName {
    "svc".parse().unwrap()
}

/// Reads, and checks the properties of the result.
fn look_at(layout: Layout, suffix: &[u8], value: &[u8], nested: bool) -> Result<(), TestCaseError> {
    let codec = Codec::new(layout, "", nested);
    let _ = codec.service_of(suffix, value);
    let _ = codec.address_text(value);
    if let Reading::Instance(instance) = codec.read(&svc(), suffix, value) {
        prop_assert_eq!(instance.id().as_str().as_bytes(), suffix);
        if !nested && suffix.contains(&b'/') {
            return Ok(());
        }
        // Rewriting is stable. The first time may turn an entry into the field with the same meaning.
        let rewritten = |instance: &Instance| {
            let written = codec.value(&svc(), instance).ok()?;
            Some(codec.read(&svc(), suffix, written.as_bytes()))
        };
        if let Some(once) = rewritten(&instance) {
            let Reading::Instance(once) = once else {
                return Err(TestCaseError::fail(format!("{instance:?} reads as {once:?}")));
            };
            prop_assert_eq!(once.id(), instance.id());
            prop_assert_eq!(once.address(), instance.address());
            prop_assert_eq!(rewritten(&once), Some(Reading::Instance(once)));
        }
    }
    Ok(())
}

/// The part of `instance` that a layout has a place for.
fn as_kept(layout: Layout, instance: &Instance) -> Instance {
    let bare = Instance::new(instance.address().clone()).with_id(instance.id().clone());
    match layout {
        Layout::EtcdNaming => instance.clone(),
        Layout::GoZero => bare,
        Layout::Kratos | Layout::KratosTls | Layout::Kitex => {
            let mut kept = bare.with_state(instance.state());
            if let Some(zone) = instance.zone() {
                kept = kept.with_zone(zone);
            }
            if let Some(version) = instance.version()
                && !(version.is_empty() && layout != Layout::Kitex)
            {
                kept = kept.with_version(version);
            }
            for (key, value) in instance.metadata() {
                kept = kept.with_metadata(key, value);
            }
            if layout == Layout::Kitex {
                // Its default, and it has no zero.
                let weight = instance.weight();
                return kept.with_weight(if weight < 2 { 10 } else { weight });
            }
            let more = instance.addresses().iter().skip(1).cloned();
            more.fold(kept.with_weight(instance.weight()), Instance::with_address)
        }
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        2 => Just(Layout::EtcdNaming),
        1 => Just(Layout::Kratos),
        1 => Just(Layout::KratosTls),
        1 => Just(Layout::GoZero),
        1 => Just(Layout::Kitex)
    ]
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
    let attributes = (any::<u32>(), option::of(any::<String>()), option::of(any::<String>()), any::<bool>());
    // Not the entries that are fields in some layouts.
    let key = any::<String>()
        .prop_filter("not a field", |key| !["zone", "state", "version", "weight"].contains(&key.as_str()));
    let metadata = btree_map(key, any::<String>(), 0..4);
    (vec(address(), 1..4), id, attributes, metadata).prop_map(|(addresses, id, attributes, metadata)| {
        let mut addresses = addresses.into_iter();
        let mut instance = Instance::new(addresses.next().unwrap());
        instance = addresses.fold(instance, Instance::with_address);
        if let Some(id) = id {
            instance = instance.with_id(id);
        }
        let (weight, zone, version, drains) = attributes;
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

/// JSON with the members of a record, of types right and wrong.
fn near_a_record() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        "-?[0-9]{1,20}(\\.[0-9]{1,3})?(e[0-9]{1,4})?",
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        r#""[a-c:/\[\]0-9]{0,8}""#,
        r#""(\\\\ud[89ac-f]00|\\\\u[0-9a-f]{1,4}|[a-c]){0,3}""#,
        Just(r#"["a:1",2,null]"#.to_owned()),
        Just(r#"["grpc://a:1?x","http://b","grpc://[::1]:2"]"#.to_owned()),
        Just(r#"[{"address":"a:1","metadata":{"zone":1,"state":"draining"}}]"#.to_owned()),
        Just(r#""svc""#.to_owned()),
        Just(r#""unix""#.to_owned()),
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
        Just("name"),
        Just("address"),
        Just("network"),
        Just("weight"),
        Just("tags"),
    ];
    vec((field, value), 0..6).prop_map(|fields| {
        let fields: Vec<_> = fields.iter().map(|(field, value)| format!(r#""{field}":{value}"#)).collect();
        format!("{{{}}}", fields.join(","))
    })
}
