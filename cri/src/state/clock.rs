//! Times as CRI counts them: in nanoseconds since 1970.

use std::time::SystemTime;

pub(crate) fn now() -> i64 {
    nanoseconds(SystemTime::now())
}

/// 0 for a time before 1970.
pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
