//! A set of status codes.

use std::fmt;

use tonic::Code;

/// A set of status codes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Codes(u32);

impl Codes {
    pub(super) fn contains(self, code: Code) -> bool {
        self.0 & bit(code) != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The codes are the numbers from 0 to 16.
fn bit(code: Code) -> u32 {
    1 << (code as u32)
}

impl FromIterator<Code> for Codes {
    fn from_iter<I: IntoIterator<Item = Code>>(codes: I) -> Self {
        Self(codes.into_iter().fold(0, |set, code| set | bit(code)))
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=16).map(Code::from).filter(|code| self.contains(*code))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_codes_that_it_was_made_of_and_shows_them() {
        let codes = Codes::from_iter([Code::Unauthenticated, Code::Ok, Code::Ok]);
        let has = |code: &Code| codes.contains(*code);
        assert_eq!((0..=16).map(Code::from).filter(has).count(), 2);
        assert_eq!(format!("{codes:?}"), "{Ok, Unauthenticated}");
        assert!(Codes::from_iter([]).is_empty() && !codes.is_empty());
    }
}
