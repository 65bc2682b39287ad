//! The order in which a channel takes servers: random, the same for as long as the seed is, and unlike that of other
//! channels (rendezvous hashing).

use hither_core::{Instance, InstanceId};

use crate::client::server_key::ServerKey;

/// The place of a server in the order: those of weight 0 come last. That of another one has no influence on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    is_weightless: bool,
    hash: u64,
    id: InstanceId,
    pub(super) key: ServerKey,
}

impl Rank {
    pub(super) fn new(seed: u64, instance: &Instance, key: &ServerKey) -> Self {
        let id = instance.id().clone();
        Self { is_weightless: instance.weight() == 0, hash: hash(seed, id.as_str()), id, key: key.clone() }
    }
}

/// FNV-1a, mixed with the seed by SplitMix64. It stays as it is: a seed stands for the same subset in every release.
fn hash(seed: u64, id: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(id.bytes().fold(0xcbf2_9ce4_8422_2325, fnv) ^ mix(seed))
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of a hundred servers is among the first twenty of 10,000 channels.
    #[test]
    fn connections_are_spread_evenly_over_servers() {
        let ids: Vec<InstanceId> = (0..100).map(|n| format!("10.0.0.{n}:8001").parse().unwrap()).collect();
        let (mut counts, mut both) = ([0_i32; 100], 0);
        for seed in 0..10_000 {
            let mut order: Vec<_> = (0..100).collect();
            order.sort_by_key(|server| hash(seed, ids[*server].as_str()));
            let subset = &order[..20];
            subset.iter().for_each(|server| counts[*server] += 1);
            both += i32::from(subset.contains(&1) && subset.contains(&2));
        }
        // Binomial: 2000 with a deviation of 40, and for two servers at once 384 with 19.
        assert!(counts.iter().all(|count| (count - 2000).abs() < 5 * 40), "{counts:?}");
        assert!((both - 384_i32).abs() < 5 * 20, "{both}");
    }

    #[test]
    fn a_seed_stands_for_the_same_order_in_every_release() {
        assert_eq!(hash(1, "10.0.0.1:8001"), 11_478_987_022_384_402_793);
    }
}
