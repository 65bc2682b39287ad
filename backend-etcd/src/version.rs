//! What a member of a certain version can be relied on for.

/// The version of an etcd member; unknown ones are trusted with nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    /// Reads `3.5.13`, and what may follow after a hyphen or plus is ignored.
    pub(crate) fn parse(text: &str) -> Self {
        let release = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = release.split('.').map(|part| part.parse().unwrap_or_default());
        let mut next = || parts.next().unwrap_or_default();
        Self(next(), next(), next())
    }

    /// Whether a progress request on a quiet new watch is sure to be answered: etcd-io/etcd#17507.
    pub(crate) fn answers_progress(self) -> bool {
        self != Self::default()
            && !(Self(3, 4, 25)..=Self(3, 4, 30)).contains(&self)
            && !(Self(3, 5, 8)..=Self(3, 5, 12)).contains(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_progress_is_answered_follows_the_changelogs() {
        for (text, answers) in [
            ("3.4.23", true),
            ("3.4.25", false),
            ("3.4.30", false),
            ("3.4.31", true),
            ("3.5.7", true),
            ("3.5.8", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("", false),
            ("unknown", false),
        ] {
            assert_eq!(Version::parse(text).answers_progress(), answers, "{text:?}");
        }
    }
}
