//! The errors of steps that are all tried, as in a removal: none is lost, and together they are one error.

use std::error::Error;

/// The errors of the steps so far.
#[derive(Debug)]
pub struct Failures<E>(Vec<E>);

impl<E> Default for Failures<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<E: Error + Send + Sync + 'static> Failures<E> {
    /// Keeps the error of a step, or returns the step's value.
    pub fn keep<T>(&mut self, step: Result<T, impl Into<E>>) -> Option<T> {
        step.map_err(|error| self.0.push(error.into())).ok()
    }

    /// Whether every step succeeded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The result of all steps. `join` makes several errors one and names the operation: `Error::failed("cannot remove …")`.
    ///
    /// # Errors
    /// The error of the only step that failed, or that of `join`.
    pub fn result(mut self, join: impl FnOnce(Several) -> E) -> Result<(), E> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            _ => Err(join(Several(self.0.into_iter().map(|error| error.into()).collect()))),
        }
    }
}

/// Several errors as one. Its text has all of them with their causes, so it has no source.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|error| crate::chain(&**error)).collect::<Vec<_>>().join("; "))]
pub struct Several(Vec<Box<dyn Error + Send + Sync>>);

impl Several {
    /// The errors, in the order of the steps; at least two.
    #[must_use]
    pub fn errors(&self) -> &[Box<dyn Error + Send + Sync>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::errno::Errno;

    use super::{Failures, Several};

    #[derive(Debug, thiserror::Error)]
    enum Failed {
        #[error("cannot remove {0}")]
        Step(&'static str, #[source] io::Error),
        #[error("cannot remove the pod")]
        Joined(#[source] Several),
    }

    fn removed(steps: &[(&'static str, Errno)]) -> Result<(), Failed> {
        let mut failures = Failures::<Failed>::default();
        for (what, errno) in steps {
            let step = Err::<(), _>(io::Error::from(*errno));
            assert_eq!(failures.keep(step.map_err(|error| Failed::Step(what, error))), None);
        }
        assert_eq!(failures.keep(Ok::<_, Failed>(7)), Some(7));
        assert_eq!(failures.is_empty(), steps.is_empty());
        failures.result(Failed::Joined)
    }

    #[test]
    fn every_error_is_named_with_its_cause() {
        assert!(removed(&[]).is_ok());
        let one = removed(&[("a", Errno::EBUSY)]).unwrap_err();
        assert!(matches!(one, Failed::Step("a", _)), "{one:?}");
        let text = crate::chain(&removed(&[("a", Errno::EBUSY), ("b", Errno::EIO)]).unwrap_err());
        let (busy, broken) = (io::Error::from(Errno::EBUSY), io::Error::from(Errno::EIO));
        assert_eq!(text, format!("cannot remove the pod: cannot remove a: {busy}; cannot remove b: {broken}"));
    }

    #[test]
    fn exhaustion_is_found_in_any_of_them() {
        let last = [("a", Errno::EBUSY), ("b", Errno::EMFILE)];
        assert!(crate::is_exhausted(&removed(&last).unwrap_err()));
        assert!(!crate::is_exhausted(&removed(&[("a", Errno::EBUSY), ("b", Errno::EIO)]).unwrap_err()));
    }
}
