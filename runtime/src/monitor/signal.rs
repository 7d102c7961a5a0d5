//! Signal names as this kernel's numbers.

use std::str::FromStr;

use nix::sys::signal;

use crate::Error;
use crate::spec::Signal;

/// The number of a signal: `TERM`, `RTMIN+3`, `RTMAX-1`, or a number.
///
/// # Errors
/// [`Error::Invalid`] for one that this kernel does not have.
pub(super) fn signal_number(signal: &Signal) -> Result<i32, Error> {
    let name = signal.0.strip_prefix("SIG").unwrap_or(&signal.0);
    let (first, last) = crate::platform::realtime_signals();
    let number = name
        .parse::<i32>()
        .ok()
        .or_else(|| signal::Signal::from_str(&format!("SIG{name}")).ok().map(|known| known as i32))
        .or_else(|| realtime(name, first, last));
    number
        .filter(|number| (1..=last).contains(number))
        .ok_or_else(|| Error::invalid("signal", format!("{:?} is not a signal of this kernel", signal.0)))
}

/// `RTMIN`, `RTMIN+n`, `RTMAX` or `RTMAX-n`.
fn realtime(name: &str, first: i32, last: i32) -> Option<i32> {
    let (base, rest) = match name.strip_prefix("RTMIN") {
        Some(rest) => (first, rest),
        None => (last, name.strip_prefix("RTMAX")?),
    };
    let offset = if rest.is_empty() { 0 } else { rest.parse::<i32>().ok()? };
    Some(base.checked_add(offset)?).filter(|number| (first..=last).contains(number))
}

#[cfg(test)]
mod tests {
    use super::{realtime, signal_number};
    use crate::spec::Signal;

    #[test]
    fn names_become_numbers() {
        for (name, number) in [("TERM", 15), ("KILL", 9), ("SIGHUP", 1), ("9", 9)] {
            assert_eq!(signal_number(&Signal(name.to_owned())).unwrap(), number);
        }
        for name in ["", "NOPE", "0", "-3", "RTMIN+99", "RTMAX+1", "4000"] {
            assert!(signal_number(&Signal(name.to_owned())).is_err(), "{name}");
        }
    }

    #[test]
    fn realtime_signals_count_from_both_ends() {
        let cases = [("RTMIN", Some(34)), ("RTMIN+3", Some(37)), ("RTMAX-1", Some(63)), ("RTMIN-1", None)];
        for (name, number) in cases {
            assert_eq!(realtime(name, 34, 64), number, "{name}");
        }
    }
}
