//! A container's stop signal: its own, else its image's, else TERM.

use proto::v1::Signal as WireSignal;
use runtime::spec::Signal;

use super::refusal::{Refusal, invalid};

/// The names of signals 1 to 31 on Linux (signal(7), x86 and arm), for images that give a number.
const LINUX: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// The same on FreeBSD (sys/signal.h).
const FREEBSD: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "EMT", "FPE", "KILL", "BUS", "SEGV", "SYS", "PIPE", "ALRM", "TERM",
    "URG", "STOP", "TSTP", "CONT", "CHLD", "TTIN", "TTOU", "IO", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "INFO",
    "USR1", "USR2",
];

/// `wanted` is CRI's number; `image` is the image's signal (`SIGTERM`, `TERM`, `15`), and `os` its system.
pub(super) fn stop_signal(wanted: i32, image: Option<&str>, os: &str) -> Result<Signal, Refusal> {
    match WireSignal::try_from(wanted) {
        Ok(WireSignal::RuntimeDefault) => image.filter(|text| !text.is_empty()).map_or(Ok(Signal::term()), |text| {
            let refused = || invalid("image config StopSignal", format!("{text:?} is no signal"));
            named(text, os).ok_or_else(refused)
        }),
        Ok(signal) => Ok(Signal(from_wire(signal))),
        Err(_) => Err(invalid("stop_signal", format!("{wanted} is no signal"))),
    }
}

/// `SIGNAL_SIGRTMINPLUS3` is `RTMIN+3` everywhere else.
fn from_wire(signal: WireSignal) -> String {
    let name = signal.as_str_name();
    name.strip_prefix("SIGNAL_SIG").unwrap_or(name).replace("PLUS", "+").replace("MINUS", "-")
}

fn named(text: &str, os: &str) -> Option<Signal> {
    if let Ok(number) = text.parse::<usize>() {
        let table = if os == "freebsd" { &FREEBSD } else { &LINUX };
        return number.checked_sub(1).and_then(|index| table.get(index)).map(|name| Signal((*name).to_owned()));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let plain = LINUX.contains(&name) || FREEBSD.contains(&name);
    let real_time = (name.starts_with("RTMIN") || name.starts_with("RTMAX")) && real_time_offset(&name[5..]);
    (plain || real_time).then(|| Signal(name.to_owned()))
}

fn real_time_offset(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(['+', '-']).is_some_and(|offset| offset.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use proto::v1::Signal as WireSignal;

    use super::stop_signal;

    #[test]
    fn the_container_comes_before_its_image() {
        for (wanted, image, os, name) in [
            (WireSignal::RuntimeDefault, None, "linux", "TERM"),
            (WireSignal::RuntimeDefault, Some(""), "linux", "TERM"),
            (WireSignal::RuntimeDefault, Some("SIGQUIT"), "linux", "QUIT"),
            (WireSignal::RuntimeDefault, Some("usr1"), "linux", "USR1"),
            (WireSignal::RuntimeDefault, Some("10"), "linux", "USR1"),
            (WireSignal::RuntimeDefault, Some("30"), "freebsd", "USR1"),
            (WireSignal::RuntimeDefault, Some("SIGRTMIN+3"), "linux", "RTMIN+3"),
            (WireSignal::Sigrtminplus3, Some("SIGQUIT"), "linux", "RTMIN+3"),
            (WireSignal::Sigrtmaxminus14, None, "linux", "RTMAX-14"),
            (WireSignal::Sighup, Some("SIGQUIT"), "linux", "HUP"),
        ] {
            assert_eq!(stop_signal(wanted.into(), image, os).unwrap().0, name);
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for (wanted, image) in [(99, None), (0, Some("SIGNONE")), (0, Some("0")), (0, Some("99")), (0, Some("RTMIN*2"))]
        {
            assert!(stop_signal(wanted, image, "linux").is_err(), "{wanted} {image:?}");
        }
    }
}
