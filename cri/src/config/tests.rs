//! Defaults, what is refused, and that the manual page and the sample say the same.

use std::path::Path;

use super::{Config, ImageConfig, KEYS, default_etc, refuse_old_place};

fn parse(text: &str) -> Result<Config, String> {
    let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
    config.check().map_err(|error| error.to_string())?;
    Ok(config)
}

#[test]
fn what_is_printed_reads_as_what_it_was() {
    let mut config = Config::default();
    assert_eq!(parse(&config.commented()).unwrap(), config);
    config.network.pod_cidrs = vec!["10.88.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()];
    config.streaming.tls_cert = Some("/a \"b\"/c".into());
    config.streaming.tls_key = Some("/k".into());
    assert_eq!(parse(&config.commented()).unwrap(), config);
}

/// What the manual page says of a key's default, as it stands in the configuration.
fn documented(manual: &str, section: &str, key: &str) -> Option<String> {
    let table = if section.is_empty() { "Keys before".to_owned() } else { format!("Table [{section}]") };
    let (_, rest) = manual.split_once(&format!(".Ss {table}"))?;
    let (_, rest) = rest.split(".Ss ").next()?.split_once(&format!(".It Va {key}\n"))?;
    let (_, said) = rest.split(".It Va").next()?.split_once("The default is")?;
    let said = said.trim_start().lines().next()?.trim_start_matches(".Li ").trim_end_matches('.').trim();
    Some(said.replace("an empty list", "[]").replace("empty", "").replace("none", ""))
}

#[test]
fn the_sample_and_the_manual_page_have_the_defaults() {
    let image = ImageConfig { registry_config: default_etc("freebsd").join("certs.d"), ..ImageConfig::default() };
    let freebsd = Config { root: super::default_root("freebsd").into(), image, ..Config::default() };
    let table = toml::Value::try_from(&freebsd).unwrap();
    let value = |section: &str, key: &str| {
        let place = if section.is_empty() { Some(&table) } else { table.get(section) };
        place.and_then(|place| place.get(key)).cloned().unwrap_or_else(|| String::new().into())
    };
    let manual = include_str!("../../../packaging/freebsd/man/cellblock.toml.5");
    for (section, key, _) in KEYS.iter().filter(|(_, key, _)| !key.is_empty()) {
        let wanted = value(section, key);
        let wanted = wanted.as_str().map_or_else(|| wanted.to_string(), str::to_owned);
        assert_eq!(documented(manual, section, key), Some(wanted), "{section}.{key} in the manual page");
    }
    let sample = include_str!("../../../packaging/freebsd/cellblock.toml.sample");
    let mut section = "";
    for line in sample.lines() {
        section = line.strip_prefix('[').map_or(section, |name| name.trim_end_matches(']'));
        let Some((key, said)) = line.strip_prefix('#').and_then(|line| line.split_once(" = ")) else { continue };
        assert_eq!(said, value(section, key).to_string(), "{section}.{key} in the sample");
    }
}

#[test]
fn records_of_an_earlier_version_are_not_left_behind() {
    let old = std::path::Path::new(super::OLD_ROOT);
    let config = |root: &str| Config { root: root.into(), ..Config::default() };
    for root in [super::OLD_ROOT, "/elsewhere"] {
        config(root).check_old_places(|_| true).unwrap();
        config(root).check_old_places(|path| path == old).unwrap();
    }
    let default = config(super::default_root("freebsd"));
    assert!(default.refuse_old_root(&default.root, |_| true).is_ok(), "the new place has records");
    assert!(default.refuse_old_root(&default.root, |_| false).is_ok());
    let refused = default.refuse_old_root(&default.root, |path| path == old).unwrap_err().to_string();
    assert!(refused.contains("root = \"/var/lib/cellblock\"") && refused.contains("/var/db/cellblock"), "{refused}");
}

#[test]
fn a_configuration_of_an_earlier_version_is_not_left_behind() {
    let new = default_etc("freebsd").join("cellblock.toml");
    let old = Path::new("/etc/cellblock/cellblock.toml");
    refuse_old_place("--config", &new, |_| true).unwrap();
    refuse_old_place("--config", &new, |_| false).unwrap();
    let refused = refuse_old_place("--config", &new, |path| path == old).unwrap_err().to_string();
    assert_eq!(
        refused,
        "configuration: --config: /etc/cellblock/cellblock.toml is there and /usr/local/etc/cellblock/cellblock.toml is not: \
         move it, or name it"
    );
    refuse_old_place("--config", &default_etc("linux").join("cellblock.toml"), |path| path == old).unwrap();
}

#[test]
fn every_key_has_a_comment() {
    let mut config = Config::default();
    config.streaming.tls_cert = Some("c".into());
    config.streaming.tls_key = Some("k".into());
    let toml::Value::Table(table) = toml::Value::try_from(&config).unwrap() else { panic!("a table") };
    for (name, value) in &table {
        match value {
            toml::Value::Table(section) => section.keys().for_each(|key| assert_documented(name, key)),
            _ => assert_documented("", name),
        }
    }
}

fn assert_documented(section: &str, key: &str) {
    assert!(KEYS.iter().any(|(s, k, _)| *s == section && *k == key), "{section}.{key} has no comment");
}

#[test]
fn a_bad_value_is_refused_with_its_key() {
    for (text, wanted) in [
        ("spare = 1", "spare"),
        ("[network]\nmtu = 12", "network.mtu: 12"),
        ("[network]\npod_cidrs = ['10.0.0.0/31']", "10.0.0.0/31"),
        ("[network]\npod_cidrs = ['10.0.0.0/16', '10.1.0.0/16']", "10.1.0.0/16"),
        ("address = 'tcp://1.2.3.4:5'", "tcp://1.2.3.4:5"),
        ("prefix = 'cellblock'", "cellblock"),
        ("root = 'var'", "root: var"),
        ("root = '/a'\nstate = '/a/'", "state: /a/ is the root"),
        ("[image]\nregistry_config = 'certs.d'", "image.registry_config: certs.d"),
        ("[image]\nrootfs = 'zfs'", "image.zfs_dataset"),
        ("[image]\nregistry_timeout_seconds = 0", "image.registry_timeout_seconds"),
        ("[image]\nrootfs = 'btrfs'", "btrfs"),
        ("[image]\npinned = ['Not A Name']", "image.pinned: image reference: \"Not A Name\""),
        ("[streaming]\naddress = '0.0.0.0:1'", "0.0.0.0:1"),
        ("[streaming]\ntls_key = '/k'", "tls_cert"),
        ("missing_host_path = 'file'", "missing_host_path"),
        ("jail_parameters = ['allow.mlock', 'vnet']", "jail_parameters: \"vnet\" is none of "),
        ("[network]\nfirewall = 'closed'", "firewall"),
        ("[network]\nnames = 'local_cell.block'", "network.names: \"local_cell.block\""),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}
