//! Named checks: each is printed when it is done, and a summary counts passed, failed and skipped ones. A skipped check has a
//! reason, and counts as failed under continuous integration.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The checks of one run.
#[derive(Debug, Default)]
pub struct Checks {
    cases: Vec<Case>,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

/// The entry of one check in a report.
#[derive(Debug)]
struct Case {
    name: String,
    took: Duration,
    /// The element of a failure or a skip, and its text; None: it passed.
    wrong: Option<(&'static str, String)>,
}

impl Checks {
    /// Runs a check; None: it failed.
    pub fn check<T>(&mut self, name: &str, check: impl FnOnce() -> Result<T>) -> Option<T> {
        let start = Instant::now();
        let result = check();
        let wrong = result.as_ref().err().map(|error| ("failure", format!("{error:#}")));
        self.cases.push(Case { name: name.to_owned(), took: start.elapsed(), wrong });
        match result {
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

    /// Skips a check.
    pub fn skip(&mut self, name: &str, why: &str) {
        println!("skip  {name}: {why}");
        self.skipped.push(format!("{name}: {why}"));
        self.cases.push(Case { name: name.to_owned(), took: Duration::ZERO, wrong: Some(("skipped", why.to_owned())) });
    }

    /// Adds the checks of another.
    pub fn add(&mut self, other: Self) {
        self.cases.extend(other.cases);
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// Writes a JUnit report: one `testcase` for each check.
    pub fn write_report(&self, suite: &str, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, self.report(suite)).with_context(|| format!("cannot write {}", path.display()))
    }

    fn report(&self, suite: &str) -> String {
        let cases = self.cases.iter().map(|case| {
            let wrong = case.wrong.as_ref().map(|(tag, why)| format!("<{tag} message=\"{}\"/>", escaped(why)));
            let (name, seconds) = (escaped(&case.name), case.took.as_secs_f32());
            let wrong = wrong.unwrap_or_default();
            format!("<testcase classname=\"{suite}\" name=\"{name}\" time=\"{seconds:.1}\">{wrong}</testcase>\n")
        });
        let (all, failed, skipped) = (self.cases.len(), self.failed.len(), self.skipped.len());
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{suite}\" tests=\"{all}\" \
             failures=\"{failed}\" skipped=\"{skipped}\">\n{}</testsuite>\n",
            cases.collect::<String>()
        )
    }

    /// Prints the summary; an error if a check failed, or, with `CI` set, was skipped.
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

/// Escapes the value of an attribute; leaves out characters that XML 1.0 does not allow.
fn escaped(text: &str) -> String {
    let held = text.chars().filter(|character| !character.is_control() || "\n\t".contains(*character));
    held.map(|character| match character {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\n' => "&#10;".to_owned(),
        other => other.to_string(),
    })
    .collect()
}

#[test]
fn a_report_has_every_check() {
    let mut checks = Checks::default();
    checks.check("one & two", || Ok(()));
    checks.check("three", || -> Result<()> { bail!("\"<\u{1b}>\"\nno") });
    let mut all = Checks::default();
    all.add(checks);
    all.skip("four", "not here");
    let report = all.report("x");
    for wanted in [
        "<testsuite name=\"x\" tests=\"3\" failures=\"1\" skipped=\"1\">",
        "<testcase classname=\"x\" name=\"one &amp; two\" time=\"0.0\"></testcase>",
        "<failure message=\"&quot;&lt;>&quot;&#10;no\"/></testcase>",
        "<skipped message=\"not here\"/></testcase>",
    ] {
        assert!(report.contains(wanted), "{report}");
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
