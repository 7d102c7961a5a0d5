//! How long a host asks to be left alone: the header Retry-After (RFC 9110, 10.2.3), in seconds or as a date.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// The longest pause that a pull makes for a host. One that asks for more is asked last from then on; where there is no other, the
/// pull fails, and whoever asked for it may try again later.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The pause that a response asks for, in whole seconds; None: none, or one that cannot be parsed.
pub(super) fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
        // More digits than fit are for ever.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    // A date that has passed asks for nothing more.
    let left = httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default();
    let begun = u64::from(left.subsec_nanos() > 0);
    Some(Duration::from_secs(left.as_secs() + begun))
}

/// Whether a pull does not wait for so long.
pub(super) fn is_too_long(pause: Duration) -> bool {
    pause > PAUSE_MAX
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use reqwest::header::{HeaderMap, RETRY_AFTER};

    use super::{asked, is_too_long};

    #[test]
    fn seconds_and_each_form_of_a_date_are_read() {
        // Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110.
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, before, seconds) in [
            ("0", 0, Some(0)),
            ("120", 0, Some(120)),
            ("99999999999999999999999", 0, Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 60_000, Some(60)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 2_500, Some(3)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 60_000, Some(60)),
            ("Sun Nov  6 08:49:37 1994", 60_000, Some(60)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 0, Some(0)),
            ("-1", 0, None),
            ("soon", 0, None),
            ("", 0, None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let pause = asked(&headers, then - Duration::from_millis(before));
            assert_eq!(pause, seconds.map(Duration::from_secs), "{text}");
        }
        let passed = HeaderMap::from_iter([(RETRY_AFTER, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap())]);
        assert_eq!(asked(&passed, then + Duration::from_secs(60)), Some(Duration::ZERO));
        assert_eq!(asked(&HeaderMap::new(), then), None);
        assert!(!is_too_long(Duration::from_secs(10)) && is_too_long(Duration::from_secs(11)));
    }
}
