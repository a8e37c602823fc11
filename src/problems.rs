//! Everything that keeps a host from starting, at once.

use std::fmt;

use forge_core::Error;

/// What `build()` found wrong; one entry a problem.
pub struct BuildError(Vec<Error>);

impl BuildError {
    pub(crate) fn new(problems: Vec<Error>) -> Self {
        Self(problems)
    }

    /// The problems.
    pub fn problems(&self) -> &[Error] {
        &self.0
    }
}

impl From<Error> for BuildError {
    fn from(e: Error) -> Self {
        Self(vec![e])
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forge cannot start, {} problem{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|p| write!(f, "\n  {p}"))
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        self.0.iter().try_for_each(|p| write!(f, "\n  {p:?}"))
    }
}

impl std::error::Error for BuildError {}
