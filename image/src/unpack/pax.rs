//! Parses the records of a pax header (pax(1), "pax Extended Header"), each `LENGTH KEY=VALUE\n`. Pure.

use super::Failure;

/// The prefix of an extended attribute's name.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Extended attributes of one entry.
const XATTRS_MAX: usize = 128;

/// The values of a pax header for the next entry; missing ones are None.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, i64)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// A sparse file in GNU tar's three pax formats.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    /// 1.0: the map stands before the data.
    pub(super) map_in_data: bool,
    /// The file's real name and size, with holes.
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// 0.0 and 0.1: the numbers of the map, alternately offset and length.
    pub(super) map: Vec<u64>,
}

/// Reads the records.
pub(super) fn parse(mut bytes: &[u8], extents_max: usize) -> Result<Pax, Failure> {
    let mut pax = Pax::default();
    while !bytes.is_empty() {
        let (key, value, rest) = record(bytes).ok_or_else(|| Failure::invalid("a pax header is malformed"))?;
        take(&mut pax, key, value).ok_or_else(|| {
            Failure::invalid(format!("the value of {:?} in a pax header is malformed", String::from_utf8_lossy(key)))
        })?;
        if pax.xattrs.len() > XATTRS_MAX || pax.sparse.map.len() > 2 * extents_max {
            return Err(Failure::invalid("a pax header has too many extended attributes or extents"));
        }
        bytes = rest;
    }
    Ok(pax)
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = number(&bytes[..space])?.try_into().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

/// Applies one record; None: its value is malformed. Ignores unknown keys, which do not affect unpacking (comments, access times,
/// flags of other systems). An empty value deletes an earlier one (pax(1)), but an extended attribute may be empty.
fn take(pax: &mut Pax, key: &[u8], value: &[u8]) -> Option<()> {
    if value.is_empty() && !key.starts_with(XATTR) {
        delete(pax, key);
        return Some(());
    }
    match key {
        b"path" => pax.path = Some(value.to_vec()),
        b"linkpath" => pax.link = Some(value.to_vec()),
        b"size" => pax.size = Some(number(value)?),
        b"uid" => pax.uid = Some(number(value)?),
        b"gid" => pax.gid = Some(number(value)?),
        b"mtime" => pax.mtime = Some(time(value)?),
        b"GNU.sparse.major" => pax.sparse.map_in_data = number(value)? == 1,
        b"GNU.sparse.name" => pax.sparse.name = Some(value.to_vec()),
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => pax.sparse.size = Some(number(value)?),
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => pax.sparse.map.push(number(value)?),
        b"GNU.sparse.map" => pax.sparse.map = value.split(|byte| *byte == b',').map(number).collect::<Option<_>>()?,
        _ => {
            if let Some(name) = key.strip_prefix(XATTR) {
                pax.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Some(())
}

fn delete(pax: &mut Pax, key: &[u8]) {
    match key {
        b"path" => pax.path = None,
        b"linkpath" => pax.link = None,
        b"size" => pax.size = None,
        b"uid" => pax.uid = None,
        b"gid" => pax.gid = None,
        b"mtime" => pax.mtime = None,
        b"GNU.sparse.name" => pax.sparse.name = None,
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => pax.sparse.size = None,
        b"GNU.sparse.major" => pax.sparse.map_in_data = false,
        b"GNU.sparse.map" => pax.sparse.map.clear(),
        _ => {}
    }
}

/// A decimal number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Parses seconds with a fraction, which is positive before 1970 too: -1.25 is -2 s and 750 ms.
fn time(text: &[u8]) -> Option<(i64, i64)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let mut fraction = parts.next().unwrap_or_default().to_vec();
    fraction.truncate(9);
    fraction.resize(9, b'0');
    let nanoseconds = i64::try_from(number(&fraction)?).ok()?;
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Pax, parse};

    fn header(records: &[(&str, &str)]) -> Vec<u8> {
        let record = |(key, value): &(&str, &str)| {
            let body = key.len() + value.len() + 3;
            let length =
                (1..6).map(|digits| body + digits).find(|length| length.to_string().len() + body == *length).unwrap();
            format!("{length} {key}={value}\n").into_bytes()
        };
        records.iter().flat_map(record).collect()
    }

    #[test]
    fn records_are_read() {
        let bytes = header(&[
            ("path", "a=b\nc"),
            ("size", "12345678901"),
            ("mtime", "1.5"),
            ("SCHILY.xattr.user.x", "=\n"),
            ("comment", "x"),
            ("uid", "4294967295"),
        ]);
        let pax = parse(&bytes, 8).unwrap();
        let xattrs = vec![(b"user.x".to_vec(), b"=\n".to_vec())];
        let expected = Pax {
            path: Some(b"a=b\nc".to_vec()),
            size: Some(12_345_678_901),
            mtime: Some((1, 500_000_000)),
            uid: Some(u64::from(u32::MAX)),
            xattrs,
            ..Pax::default()
        };
        assert_eq!(pax, expected);
    }

    #[test]
    fn an_empty_value_deletes_an_earlier_one_and_leaves_the_headers_field() {
        let keys =
            ["path", "linkpath", "size", "uid", "gid", "mtime", "GNU.sparse.realsize", "GNU.sparse.map", "comment"];
        let empty: Vec<_> = keys.iter().map(|key| (*key, "")).collect();
        let set: Vec<_> = keys.iter().map(|key| (*key, "1")).collect();
        assert_eq!(parse(&header(&empty), 8).unwrap(), Pax::default());
        assert_eq!(parse(&[header(&set), header(&empty)].concat(), 8).unwrap(), Pax::default());
        let xattr = parse(&header(&[("SCHILY.xattr.user.empty", "")]), 8).unwrap().xattrs;
        assert_eq!(xattr, [(b"user.empty".to_vec(), Vec::new())]);
    }

    #[test]
    fn times_count_upwards_before_1970_too() {
        for (text, time) in [("-1.25", (-2, 750_000_000)), ("-3", (-3, 0)), ("1.0000000019", (1, 1)), ("7", (7, 0))] {
            assert_eq!(parse(&header(&[("mtime", text)]), 8).unwrap().mtime, Some(time), "{text}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        let many = header(&[("SCHILY.xattr.user.x", "y")]).repeat(200);
        let extents = header(&[("GNU.sparse.offset", "1")]).repeat(20);
        let table: [&[u8]; 10] = [
            b"x",
            b"0 a=b\n",
            b"99 a=b\n",
            b"6 a=b\n9",
            b"5 ab\n",
            b"99999999999999999999 a=b\n",
            b"10 size=x\n",
            b"12 mtime=.-\n",
            &many,
            &extents,
        ];
        for bytes in table {
            assert!(parse(bytes, 8).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
