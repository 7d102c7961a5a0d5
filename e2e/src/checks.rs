//! Named checks: each is printed as it is made, all are counted, and a summary says what passed, what failed and what could not
//! be made. What cannot be made is said with its reason, and under continuous integration it counts as a failure.

use std::time::Instant;

use anyhow::{Result, bail};

/// The checks of one run.
#[derive(Debug, Default)]
pub struct Checks {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Checks {
    /// Makes a check; None when it failed.
    pub fn check<T>(&mut self, name: &str, check: impl FnOnce() -> Result<T>) -> Option<T> {
        let start = Instant::now();
        match check() {
            Ok(value) => {
                self.passed += 1;
                println!("ok    {name} ({:.1} s)", start.elapsed().as_secs_f32());
                Some(value)
            }
            Err(error) => {
                println!("FAIL  {name}: {error:#}");
                self.failed.push(name.to_owned());
                None
            }
        }
    }

    /// A check that cannot be made here.
    pub fn skip(&mut self, name: &str, why: &str) {
        println!("skip  {name}: {why}");
        self.skipped.push(format!("{name}: {why}"));
    }

    /// Prints the summary; anything failed is an error, and with `CI` set anything skipped too.
    pub fn finish(self) -> Result<()> {
        self.failed.iter().for_each(|name| println!("failed: {name}"));
        self.skipped.iter().for_each(|name| println!("skipped: {name}"));
        let (failed, skipped) = (self.failed.len(), self.skipped.len());
        println!("e2e: {} passed, {failed} failed, {skipped} skipped", self.passed);
        if failed > 0 {
            bail!("{failed} checks failed");
        }
        if skipped > 0 && std::env::var_os("CI").is_some() {
            bail!("{skipped} checks were skipped, which continuous integration does not accept");
        }
        Ok(())
    }
}

#[test]
fn a_failure_is_an_error() {
    let mut checks = Checks::default();
    assert_eq!(checks.check("one", || Ok(1)), Some(1));
    assert_eq!(checks.check("two", || -> Result<()> { bail!("no") }), None);
    assert!(checks.finish().is_err());
    let mut checks = Checks::default();
    checks.check("one", || Ok(()));
    assert!(checks.finish().is_ok());
}
