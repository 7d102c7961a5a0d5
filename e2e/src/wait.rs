//! Waits for events outside of this program by polling, up to a time-out.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The interval of polling: short beside the work of a server or a kubelet.
const POLL: Duration = Duration::from_millis(100);

/// Retries until it succeeds, or returns the last error after `timeout`.
pub(crate) fn until<T>(timeout: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > timeout => bail!("after {} s: {error:#}", timeout.as_secs()),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Polls until it returns an answer. An error ends the wait.
pub(crate) fn eventually<T>(timeout: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until(timeout, || match ask().transpose() {
        Some(answer) => Ok(answer),
        None => bail!("{what}: not yet"),
    })?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::{eventually, until};

    #[test]
    fn errors_are_waited_out_or_end_the_wait() {
        let mut times = 0;
        let mut third = || {
            times += 1;
            if times == 3 { Ok(times) } else { Err(anyhow!("not there")) }
        };
        assert_eq!(until(Duration::from_secs(9), &mut third).unwrap(), 3);
        let late = until(Duration::ZERO, || Err::<(), _>(anyhow!("not there"))).unwrap_err();
        assert_eq!(late.to_string(), "after 0 s: not there");

        let mut answers = [Some(1), None].into_iter();
        let next = || Ok(answers.next_back().flatten());
        assert_eq!(eventually(Duration::from_secs(9), "answer", next).unwrap(), 1);
        let none = eventually(Duration::ZERO, "answer", || Ok(None::<()>)).unwrap_err();
        assert_eq!(none.to_string(), "after 0 s: answer: not yet");
        let broken = eventually(Duration::from_secs(9), "answer", || Err::<Option<()>, _>(anyhow!("gone")));
        assert_eq!(broken.unwrap_err().to_string(), "gone");
    }
}
