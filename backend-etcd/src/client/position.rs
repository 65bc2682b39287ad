//! A position in the history of a cluster.

use etcd_client::proto::PbResponseHeader;

/// No cluster writes so many revisions while a watch is open: at 30,000 a second it would take a year.
const IMPLAUSIBLE: i64 = 1 << 40;

/// A revision of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) cluster: u64,
    pub(crate) revision: i64,
}

impl Position {
    /// The position of a response.
    pub(crate) fn of(header: &PbResponseHeader) -> Self {
        Self { cluster: header.cluster_id, revision: header.revision }
    }

    /// Whether `later` may be a later position of the same history, or the same.
    pub(crate) fn leads_to(self, later: Self) -> bool {
        later.cluster == self.cluster
            && later.revision >= self.revision
            && later.revision.saturating_sub(self.revision) < IMPLAUSIBLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_goes_on_in_the_same_cluster_and_at_a_plausible_pace() {
        let at = |cluster, revision| Position { cluster, revision };
        assert!(at(1, 5).leads_to(at(1, 5)));
        assert!(at(1, 5).leads_to(at(1, 5_000_000_000)));
        assert!(!at(1, 5).leads_to(at(1, 4)), "back in time");
        assert!(!at(1, 5).leads_to(at(2, 6)), "another cluster");
        assert!(!at(1, 5).leads_to(at(1, 1 << 62)), "the far future");
        assert!(!at(1, i64::MIN).leads_to(at(1, i64::MAX)));
    }
}
