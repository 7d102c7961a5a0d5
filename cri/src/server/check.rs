//! `cellblock check`: reports what this node lacks and what to do about it. It asks the server's own backends and changes nothing
//! except that it makes their directories.

use std::io::Write;

use anyhow::Context as _;
use host::Need;

use crate::config::Config;
use crate::server::directories;
use crate::server::serve;
use crate::state::node;

/// Prints every need of the node and whether it holds. True: all required ones do.
///
/// # Errors
/// A backend cannot be opened, or the output cannot be written.
pub fn run(config: &Config, output: &mut impl Write) -> anyhow::Result<bool> {
    config.check_old_places(node::has_records)?;
    directories::make(config).context("cannot create the server's directories")?;
    let directories = directories::needs(config).context("cannot look at the server's directories")?;
    let (runtime, network, rootfs) = serve::open_boundaries(config)?;
    let mut ready = true;
    let mut images = rootfs.needs();
    images.extend(serve::linuxulator(config, &runtime.platforms()));
    let parts = [("host", directories), ("runtime", runtime.needs()), ("network", network.needs()), ("images", images)];
    for (part, needs) in parts {
        ready &= print(part, &needs, output)?;
    }
    Ok(ready)
}

/// Prints the needs of one part. True: all required ones hold.
fn print(part: &str, needs: &[Need], output: &mut impl Write) -> std::io::Result<bool> {
    for need in needs {
        let verdict = match (need.holds(), need.required) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "without",
        };
        writeln!(output, "{verdict:<8} {part}: {}: {}", need.name, need.found)?;
        for line in need.remedy.iter().flat_map(|remedy| remedy.lines()) {
            writeln!(output, "         {line}")?;
        }
    }
    Ok(needs.iter().all(|need| need.holds() || !need.required))
}

#[cfg(test)]
mod tests {
    use host::Need;

    use super::print;

    #[test]
    fn only_a_required_need_that_does_not_hold_fails_the_check() {
        let need = |required, remedy: Option<&str>| Need {
            name: "forwarding".to_owned(),
            found: "0".to_owned(),
            required,
            remedy: remedy.map(str::to_owned),
        };
        for (needs, ready, line) in [
            (vec![need(true, None)], true, "ok       network: forwarding: 0\n"),
            (vec![need(false, Some("do"))], true, "without  network: forwarding: 0\n         do\n"),
            (vec![need(true, Some("do\nit"))], false, "MISSING  network: forwarding: 0\n         do\n         it\n"),
        ] {
            let mut output = Vec::new();
            assert_eq!(print("network", &needs, &mut output).unwrap(), ready);
            assert_eq!(String::from_utf8(output).unwrap(), line);
        }
    }
}
