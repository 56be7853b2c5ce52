//! Every target with mutations of good input, with nesting, and with noise.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use skep_fuzz::TARGETS;

/// What is done to good input.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    /// A piece of it, from here, once more there.
    Repeat(prop::sample::Index, prop::sample::Index, usize),
}

/// What parsers make decisions on.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        ":",
        "\"",
        "\\",
        "/",
        "%2F",
        "%",
        "&",
        "=",
        "!",
        "?",
        "null",
        "true",
        "-1",
        "1e999",
        "0.1",
        "9223372036854775808",
        "\u{fffd}",
        "\u{0}",
        "$patch",
        "$retainKeys",
        "..",
        "~0",
        "~1",
        "-",
        "\\u0000",
        " in (",
        "\n",
        "Ki",
        "e",
        "k:{",
        "f:",
        "v:",
        "i:",
        ".",
    ];
    prop_oneof![
        prop::sample::select(words.map(|word| word.as_bytes().to_vec()).to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (place(), word()).prop_map(|(at, word)| Mutation::Insert(at, word)),
        (place(), 1..8_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (place(), place(), 1..32_usize).prop_map(|(from, to, count)| Mutation::Repeat(from, to, count)),
    ]
}

fn mutated(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match mutation {
            Mutation::Replace(at, byte) => bytes[at.index(length)] = *byte,
            Mutation::Insert(at, word) => {
                let at = at.index(length);
                bytes.splice(at..at, word.iter().copied());
            }
            Mutation::Remove(at, count) => {
                let at = at.index(length);
                bytes.drain(at..(at + count).min(length));
            }
            Mutation::Repeat(from, to, count) => {
                let (from, to) = (from.index(length), to.index(length));
                let piece = bytes[from..(from + count).min(length)].to_vec();
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

/// Good input for protobuf, which is no text.
fn encoded() -> Vec<Vec<u8>> {
    let objects = [
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers":
            [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}]}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1, "targetPort": "x"}]}}),
        json!({"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [{"metadata": {"name": "d"}}]}),
    ];
    objects.iter().map(|object| skep_protobuf::encode(object).unwrap()).collect()
}

#[test]
fn no_target_panics_on_mutated_input() {
    for (name, target, seeds) in TARGETS {
        let mut seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
        if *name == "protobuf" {
            seeds = encoded();
        }
        for seed in &seeds {
            target(seed);
        }
        let input = (prop::sample::select(seeds), prop::collection::vec(mutation(), 0..8));
        let config = Config { cases: 1_500, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&input, |(seed, mutations)| {
                target(&mutated(seed, &mutations));
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}

#[test]
fn no_target_overflows_the_stack_on_deep_nesting() {
    for depth in [64, 127, 10_000, 1_000_000] {
        let json = [
            format!("{}{}", "[".repeat(depth), "]".repeat(depth)),
            format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
        ];
        let schema =
            format!("{}{{}}{}", "{\"type\":\"object\",\"properties\":{\"a\":".repeat(depth), "}}".repeat(depth));
        let inputs = json
            .iter()
            .flat_map(|json| [json.clone(), format!("{json}\n{json}"), format!("{{}}\n{json}")])
            .chain([format!("{schema}\n{}", json[1]), "(".repeat(depth), "/a".repeat(depth), "%25".repeat(depth)])
            .collect::<Vec<_>>();
        for (_, target, _) in TARGETS {
            for input in &inputs {
                target(input.as_bytes());
            }
        }
        // Length-delimited fields within each other, and groups, which Kubernetes does not use.
        let mut nested = vec![0x0a, 0x00];
        for _ in 0..depth.min(5_000) {
            let mut length = nested.len();
            let mut outer = vec![0x0a];
            while length >= 0x80 {
                outer.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            outer.push(length as u8);
            outer.extend_from_slice(&nested);
            nested = outer;
        }
        let magic = skep_protobuf::MAGIC.to_vec();
        skep_fuzz::protobuf(&[magic.clone(), nested].concat());
        skep_fuzz::protobuf(&[magic, vec![0x0b; depth]].concat());
    }
}
