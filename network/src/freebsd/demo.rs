//! A machine on which nobody set up pf, made fit for a demonstration, and back again. A ruleset that is there is the
//! operator's: it is never touched.

use host::Need;

use super::{FORWARDING, load_modules, pfctl, sys};
use crate::pf::rules;
use crate::{Error, Settings};

/// What was changed, one word a line.
const CHANGED: &str = "demo";

/// See [`crate::install_demo_ruleset`].
pub(crate) fn install_demo_ruleset(settings: &Settings) -> Result<Vec<String>, Error> {
    let mut changes = Vec::new();
    if pfctl::needs(&settings.prefix).iter().any(|need| need.required && !Need::holds(need)) {
        if !pfctl::is_loaded() {
            load_modules(&["pf"])?;
            changes.push("kldload pf".to_owned());
        }
        let (enabled, ruled) = pfctl::enabled_and_ruled()?;
        if ruled {
            let lines = rules::required_lines(&settings.prefix);
            let what = format!("pf has a ruleset of its own; {}", rules::remedy(&lines));
            return Err(Error::Conflict { what });
        }
        let lines = rules::required_lines(&settings.prefix);
        note(settings, "ruleset")?;
        pfctl::load_main(&format!("{}\npass all\n", lines.join("\n")))?;
        changes.push(format!("pf ruleset: {}; pass all", lines.join("; ")));
        if !enabled {
            note(settings, "enabled")?;
            pfctl::enable(true)?;
            changes.push("pfctl -e".to_owned());
        }
    }
    for (_, name, _) in FORWARDING {
        if sys::sysctl(name, 4).is_ok_and(|value| value.iter().all(|byte| *byte == 0)) {
            note(settings, name)?;
            sys::set_sysctl(name, &1i32.to_ne_bytes()).map_err(Error::failed(format!("cannot set {name}")))?;
            changes.push(format!("sysctl {name}=1"));
        }
    }
    Ok(changes)
}

/// See [`crate::remove_demo_ruleset`].
pub(crate) fn remove_demo_ruleset(settings: &Settings) -> Result<(), Error> {
    let path = settings.state.join(CHANGED);
    for word in std::fs::read_to_string(&path).unwrap_or_default().lines() {
        match word {
            "ruleset" => pfctl::load_main("")?,
            "enabled" => pfctl::enable(false)?,
            name if FORWARDING.iter().any(|(_, known, _)| *known == name) => {
                sys::set_sysctl(name, &0i32.to_ne_bytes()).map_err(Error::failed(format!("cannot reset {name}")))?;
            }
            _ => (),
        }
    }
    host::fs::remove_file(&path).map_err(Error::failed(format!("cannot remove {}", path.display())))
}

/// Notes a change before it is made, so that it can be taken back.
fn note(settings: &Settings, word: &str) -> Result<(), Error> {
    let path = settings.state.join(CHANGED);
    let failed = || format!("cannot write {}", path.display());
    std::fs::create_dir_all(&settings.state).map_err(Error::failed(failed()))?;
    let mut text = std::fs::read_to_string(&path).unwrap_or_default();
    text.push_str(word);
    text.push('\n');
    host::fs::write_atomic(&path, text.as_bytes(), 0o600).map_err(Error::failed(failed()))
}
