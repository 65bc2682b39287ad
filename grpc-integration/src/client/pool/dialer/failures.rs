//! Why no address could be connected to.

use std::fmt;

/// How many failures are named; an instance may have many addresses, and a line is to be read.
const NAMED: usize = 3;

/// The failures at the addresses of one instance, in the order in which they happened. Display is one line.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<String>);

impl Failures {
    pub(super) fn add(&mut self, failure: String) {
        self.0.push(failure);
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("there is no address");
        }
        for (index, failure) in self.0.iter().take(NAMED).enumerate() {
            write!(f, "{}{failure}", if index > 0 { "; " } else { "" })?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failures_are_named_and_the_others_counted() {
        let mut failures = Failures::default();
        assert_eq!(failures.to_string(), "there is no address");
        for (failure, text) in [
            ("a", "a"),
            ("b", "a; b"),
            ("c", "a; b; c"),
            ("d", "a; b; c; and 1 more"),
            ("e", "a; b; c; and 2 more"),
        ] {
            failures.add(failure.to_owned());
            assert_eq!(failures.to_string(), text);
        }
    }
}
