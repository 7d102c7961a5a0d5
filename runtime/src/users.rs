//! The user and groups of a process, by number or name, from the passwd and group files of the image (passwd(5), group(5)).

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::Error;
use crate::spec::{Identity, NameOrId, User};

/// The limit on a passwd or group file, in bytes: an image must not fill the server's memory.
const FILE_LIMIT: u64 = 1 << 20;

/// A line of passwd: name, user, primary group, home directory.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A line of group: name, group, members.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// What a login of a user has (login(1)).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Login {
    /// The name in the image's passwd; empty: the user is not there, or the kernel takes no name of this length.
    pub(crate) name: String,
    /// The home directory, or `/`.
    pub(crate) home: String,
}

/// The longest login name, without its NUL (MAXLOGNAME in sys/param.h of FreeBSD is 33).
const NAME_LENGTH: usize = 32;

/// Looks up a user in the files below a root.
///
/// # Errors
/// As [`identify`]; the files cannot be read.
pub(crate) fn look_up(user: &User, root: &OwnedFd) -> Result<(Identity, Login), Error> {
    let read = |path: &str| {
        let text = host::root::read_text(root, Path::new(path), FILE_LIMIT);
        text.map_err(Error::failed(format!("cannot read {path} of the image")))
    };
    identify(user, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// Resolves a user by the text of the image's passwd and group files, empty if they do not exist. A user given by number need
/// not be in passwd, one given by name must. The default group is the user's in passwd, else 0.
///
/// # Errors
/// [`Error::Invalid`] names the user or group that the image does not have.
fn identify(user: &User, passwd: &str, group: &str) -> Result<(Identity, Login), Error> {
    let account = match &user.user {
        NameOrId::Id(uid) => accounts(passwd).find(|account| account.uid == *uid),
        NameOrId::Name(name) => {
            let found = accounts(passwd).find(|account| account.name == name);
            Some(found.ok_or_else(|| missing("process.user.user", name, "user", "/etc/passwd"))?)
        }
    };
    let uid = match (&user.user, &account) {
        (NameOrId::Id(uid), _) => *uid,
        (NameOrId::Name(_), account) => account.as_ref().map_or(0, |account| account.uid),
    };
    let gid = match &user.group {
        Some(NameOrId::Id(gid)) => *gid,
        Some(NameOrId::Name(name)) => groups(group)
            .find(|group| group.name == name)
            .map(|group| group.gid)
            .ok_or_else(|| missing("process.user.group", name, "group", "/etc/group"))?,
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let mut all = vec![gid];
    all.extend(&user.supplemental);
    if user.merge_image_groups
        && let Some(account) = &account
    {
        let member = |group: &Group<'_>| group.members.split(',').any(|member| member.trim() == account.name);
        all.extend(groups(group).filter(member).map(|group| group.gid));
    }
    all.sort_unstable();
    all.dedup();
    let home = account.as_ref().map(|account| account.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    let name = account.map(|account| account.name).filter(|name| name.len() <= NAME_LENGTH).unwrap_or_default();
    Ok((Identity { uid, gid, groups: all }, Login { name: name.to_owned(), home }))
}

fn missing(field: &str, name: &str, what: &str, file: &str) -> Error {
    Error::invalid(field, format!("no {what} {name:?} in the image's {file}"))
}

/// The accounts of a passwd file. Like the C library, it skips invalid lines.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Account { name, uid: uid.trim().parse().ok()?, gid: gid.trim().parse().ok()?, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Group { name, gid: gid.trim().parse().ok()?, members: fields.next().unwrap_or_default() })
    })
}

#[cfg(test)]
mod tests {
    use super::identify;
    use crate::spec::{Identity, NameOrId, User};

    const PASSWD: &str = "# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:1000:2000::/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:2000:\nlogs:x:3000:web,other\ntapes:x:3001:other\n";

    fn user(user: NameOrId, group: Option<NameOrId>, merge: bool) -> User {
        User { user, group, supplemental: vec![9], merge_image_groups: merge }
    }

    #[test]
    fn numbers_and_names_are_looked_up_as_containerd_does() {
        let (id, name) = (NameOrId::Id, |text: &str| NameOrId::Name(text.to_owned()));
        let cases = [
            (user(id(1000), None, false), (1000, 2000, vec![9, 2000])),
            (user(id(1000), None, true), (1000, 2000, vec![9, 2000, 3000])),
            (user(id(7), None, true), (7, 0, vec![0, 9])),
            (user(name("web"), None, true), (1000, 2000, vec![9, 2000, 3000])),
            (user(name("web"), Some(name("tapes")), false), (1000, 3001, vec![9, 3001])),
            (user(id(1000), Some(id(5)), true), (1000, 5, vec![5, 9, 3000])),
        ];
        for (user, (uid, gid, groups)) in cases {
            let (found, login) = identify(&user, PASSWD, GROUP).unwrap();
            assert_eq!(found, Identity { uid, gid, groups }, "{user:?}");
            let wanted = if uid == 1000 { ("web", "/srv") } else { ("", "/") };
            assert_eq!((login.name.as_str(), login.home.as_str()), wanted, "{user:?}");
        }
    }

    #[test]
    fn a_name_that_the_image_does_not_have_is_named() {
        let absent = user(NameOrId::Name("db".to_owned()), None, true);
        let error = identify(&absent, PASSWD, GROUP).unwrap_err().to_string();
        assert!(error.contains("process.user.user") && error.contains("\"db\""), "{error}");
        let group = user(NameOrId::Id(0), Some(NameOrId::Name("db".to_owned())), true);
        assert!(identify(&group, PASSWD, GROUP).unwrap_err().to_string().contains("group \"db\""));
        assert!(identify(&absent, "", "").is_err());
    }
}
