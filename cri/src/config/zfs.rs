//! The values of the keys for ZFS, as zfsprops(7) has them. Pure.

use super::{ConfigError, ImageConfig, RootfsKind, bytes};

/// The smallest and the largest `recordsize`, in bytes.
const RECORDSIZE: std::ops::RangeInclusive<u64> = 512..=16 << 20;
/// Algorithms without a level.
const PLAIN: [&str; 8] = ["on", "off", "lz4", "lzjb", "zle", "gzip", "zstd", "zstd-fast"];
/// Algorithms with a level, and their levels.
const LEVELS: [(&str, std::ops::RangeInclusive<u32>); 3] =
    [("gzip-", 1..=9), ("zstd-fast-", 1..=10), ("zstd-", 1..=19)];
/// The levels of zstd-fast above 10.
const FAST: [u32; 11] = [20, 30, 40, 50, 60, 70, 80, 90, 100, 500, 1000];

/// What ends K, M and G, as zfs(8) takes them.
pub(super) const UNIT: &str = "";

/// Checks the keys for ZFS.
pub(super) fn check(image: &ImageConfig) -> Result<(), ConfigError> {
    let value = |key, reason| Err(ConfigError::Value { key, reason });
    let (compression, recordsize, refquota) = (&image.zfs_compression, &image.zfs_recordsize, &image.zfs_refquota);
    if !compression.is_empty() && !is_compression(compression) {
        return value("image.zfs_compression", format!("{compression:?} is none of {}, gzip-1 …", PLAIN.join(", ")));
    }
    let power = |bytes: u64| RECORDSIZE.contains(&bytes) && bytes.is_power_of_two();
    if !recordsize.is_empty() && !bytes(recordsize, UNIT).is_some_and(power) {
        return value("image.zfs_recordsize", format!("{recordsize:?} is no power of two from 512 to 16M"));
    }
    if !refquota.is_empty() && bytes(refquota, UNIT).is_none_or(|bytes| bytes == 0) {
        return value("image.zfs_refquota", format!("{refquota:?} is no number of bytes, such as 1073741824 or 1G"));
    }
    let set = [
        ("image.zfs_compression", compression),
        ("image.zfs_recordsize", recordsize),
        ("image.zfs_refquota", refquota),
    ];
    let elsewhere = match image.rootfs {
        RootfsKind::Copy | RootfsKind::Overlay => true,
        RootfsKind::Auto | RootfsKind::Zfs => image.zfs_dataset.is_empty(),
    };
    match set.into_iter().find(|(_, text)| elsewhere && !text.is_empty()) {
        Some((key, text)) => value(key, format!("{text:?}, and roots are not on ZFS")),
        None => Ok(()),
    }
}

fn is_compression(text: &str) -> bool {
    let level = |(name, levels): &(&str, std::ops::RangeInclusive<u32>)| {
        text.strip_prefix(name).and_then(|level| level.parse().ok()).is_some_and(|level| levels.contains(&level))
    };
    let fast = text.strip_prefix("zstd-fast-").and_then(|level| level.parse().ok());
    PLAIN.contains(&text) || LEVELS.iter().any(level) || fast.is_some_and(|level| FAST.contains(&level))
}

#[cfg(test)]
mod tests {
    use super::{UNIT, check};
    use crate::config::{ImageConfig, bytes};

    #[test]
    fn values_of_zfs_are_taken_or_refused_with_their_keys() {
        let with = |compression: &str, recordsize: &str, refquota: &str| ImageConfig {
            zfs_dataset: "tank".to_owned(),
            zfs_compression: compression.to_owned(),
            zfs_recordsize: recordsize.to_owned(),
            zfs_refquota: refquota.to_owned(),
            ..ImageConfig::default()
        };
        for good in ["", "lz4", "off", "gzip-9", "zstd-19", "zstd-fast", "zstd-fast-10", "zstd-fast-500"] {
            check(&with(good, "128K", "")).unwrap();
        }
        for good in ["512", "16M", ""] {
            check(&with("", good, "10G")).unwrap();
        }
        for (config, said) in [
            (with("zip", "", ""), "image.zfs_compression: \"zip\" is none of "),
            (with("gzip-10", "", ""), "image.zfs_compression: \"gzip-10\""),
            (with("zstd-fast-11", "", ""), "image.zfs_compression: \"zstd-fast-11\""),
            (with("", "100K", ""), "image.zfs_recordsize: \"100K\" is no power of two"),
            (with("", "32M", ""), "image.zfs_recordsize: \"32M\""),
            (with("", "", "much"), "image.zfs_refquota: \"much\" is no number of bytes"),
            (with("", "", "0"), "image.zfs_refquota: \"0\""),
            (
                ImageConfig { zfs_refquota: "1G".to_owned(), ..ImageConfig::default() },
                "image.zfs_refquota: \"1G\", and roots are not on ZFS",
            ),
        ] {
            let error = check(&config).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(
            (bytes("5", UNIT), bytes("2M", UNIT), bytes("999999999999G", UNIT), bytes("-1", UNIT)),
            (Some(5), Some(2 << 20), None, None)
        );
    }
}
